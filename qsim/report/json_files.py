"""JSON out of a run folder, with errors that name the file and the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qsim import strict_json

__all__ = ["ReportError", "as_mapping", "read_object", "read_rows"]


class ReportError(ValueError):
    """A file of a report cannot be read; the message names the file and the remedy."""


def as_mapping(value: object) -> Mapping[str, Any]:
    """The value where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def read_object(path: Path, loads: Callable[[Any], Any] = json.loads) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        value = loads(path.read_bytes())
    except ValueError as error:
        raise ReportError(f"{path} is not JSON ({error}); restore it or record the run again") from error
    if not isinstance(value, dict):
        raise ReportError(f"{path} holds no JSON object; restore it or record the run again")
    return value


def read_rows(path: Path) -> dict[int, dict[str, Any]]:
    """Rows of a log by step, in order; a later row of the same step adds to it or replaces it."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = text.split("\n")
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        row = _parse_row(line)
        if row is not None:
            rows.setdefault(row["step"], {}).update(row)
        elif line.strip() and number < len(lines):  # an unfinished last line is a run that was killed
            raise ReportError(
                f"line {number} of {path} is no JSON object with a step; delete the line or record the run again"
            )
    return dict(sorted(rows.items()))


def _parse_row(line: str) -> dict[str, Any] | None:
    try:
        row = strict_json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
