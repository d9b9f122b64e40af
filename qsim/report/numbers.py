"""The numbers behind a figure, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

__all__ = ["Numbers"]

_PLAIN = ",:;/()*+=!?@$'"  # beside letters and digits, what a data: address may hold as it is


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What a figure draws, and no more: a row each."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    def csv(self) -> str:
        """RFC 4180 with line feeds: numbers to their last bit, NaN and infinities by name, nothing for None."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_cell(value) for value in row] for row in self.rows)
        return text.getvalue()

    @property
    def address(self) -> str:
        """The CSV as an address that holds it."""
        return "data:text/csv;charset=utf-8," + quote(self.csv(), safe=_PLAIN)

    def as_json(self) -> dict[str, Any]:
        return {"columns": list(self.columns), "rows": [list(row) for row in self.rows]}


def _cell(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
