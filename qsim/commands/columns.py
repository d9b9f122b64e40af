"""Rows of equal keys as aligned columns on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def print_columns(rows: Sequence[Mapping[str, Any]], by: str | None = None) -> None:
    """A line of headings and a line a row; None is written ``-``, True ``yes``.

    The column ``by`` is not printed: wherever its value changes, it stands on a line of its own, after an empty one.
    """
    heads = [key for key in rows[0] if key != by]
    cells = [heads] + [[_cell(row[key]) for key in heads] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    group = None
    for row, texts in zip([None, *rows], cells, strict=True):
        if by is not None and row is not None and row[by] != group:
            group = row[by]
            print(f"\n{group}")
        print("  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None or value is False:
        return "-"
    if value is True:
        return "yes"
    return f"{value:.8g}" if isinstance(value, float) else str(value)
