"""Rows of equal keys as aligned columns on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any


def print_columns(
    rows: Sequence[Mapping[str, Any]], by: str | None = None, widths: Mapping[str, int] | None = None
) -> None:
    """A line of headings and a line a row; None is written ``-``, True ``yes``.

    The column ``by`` is not printed: wherever its value changes, it stands on a line of its own, after an empty one.
    A column named in ``widths`` is no wider: longer texts go on below themselves, and so a row takes several lines.
    """
    most = widths or {}
    heads = [key for key in rows[0] if key != by]
    cells = [[[head] for head in heads]] + [[_lines(row[key], most.get(key)) for key in heads] for row in rows]
    across = [max(len(line) for lines in column for line in lines) for column in zip(*cells, strict=True)]
    group = None
    for row, texts in zip([None, *rows], cells, strict=True):
        if by is not None and row is not None and row[by] != group:
            group = row[by]
            print(f"\n{group}")
        for line in zip_longest(*texts, fillvalue=""):
            print("  ".join(text.ljust(width) for text, width in zip(line, across, strict=True)).rstrip())


def _lines(value: Any, width: int | None) -> list[str]:
    text = _cell(value)
    return [text] if width is None else textwrap.wrap(text, width, break_on_hyphens=False)


def _cell(value: Any) -> str:
    if value is None or value is False:
        return "-"
    if value is True:
        return "yes"
    return f"{value:.8g}" if isinstance(value, float) else str(value)
