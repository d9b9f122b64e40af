"""A run's own account of itself: configuration, arithmetic, data, environment, hashes, as tables of plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qsim.report.recorded import HASHED, Run

__all__ = ["record_of"]

_UNKNOWN = "not recorded"


def record_of(base: Run, run: Run) -> dict[str, Any]:
    """A run's own account of itself, as tables of plain text."""
    config = {name: value for name, value in run.config.items() if name != "policy"}
    policy = dict(run.policy)
    sites = [row for row in policy.pop("sites", None) or [] if isinstance(row, Mapping)]
    last = max(run.hashes, default=None)
    final = {} if last is None else run.hashes[last]
    return {
        "run": run,
        "last_hashed": last,
        "parameters": final.get("parameters", _UNKNOWN),
        "hashes": [(part, final[part]) for part in HASHED if part in final],
        "data": run.data.get("sha256", _UNKNOWN),
        "executor": run.config.get("executor", _UNKNOWN),
        "seed": run.config.get("seed", _UNKNOWN),
        "tables": [
            (name, _flatten(value))
            for name, value in (
                ("Configuration", config),
                ("Policy", policy),
                ("Data", run.data),
                ("Environment", run.environment),
            )
            if value and (run is base or name != "Data" or value != base.data)
        ],
        "columns": list(dict.fromkeys(name for row in sites for name in row)),
        "sites": [{name: _plain(value) for name, value in row.items()} for row in sites],
    }


def _flatten(value: object, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as rows of a dotted name and plain text."""
    if not isinstance(value, Mapping):
        return [(prefix, _plain(value))]
    return [row for name, inner in value.items() for row in _flatten(inner, f"{prefix}.{name}" if prefix else name)]


def _plain(value: object) -> str:
    """A JSON value as a reader wants it: text bare, lists by commas, null as a dash."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(map(_plain, value))
    return json.dumps(value)
