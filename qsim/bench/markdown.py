"""The ratios of a benchmark as a Markdown table, a line a contender and a column a format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qsim.bench.table import bar_in_words, power_of_two, ratio_in_words

Row = Mapping[str, Any]


def markdown(result: Mapping[str, Any]) -> str:
    """The contenders that are compared with something, in the order of the result."""
    rows = [row for row in result["rows"] if row["ratio"] is not None]
    formats = list(dict.fromkeys(row["format"] for row in rows))
    lines = [["contender", "values", "ratio", *formats, "bar"], ["---"] * (4 + len(formats))]
    for name, values in dict.fromkeys((row["contender"], row["values"]) for row in rows):
        lines.append(_line([row for row in rows if (row["contender"], row["values"]) == (name, values)], formats))
    return as_markdown(lines)


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _line(rows: Sequence[Row], formats: Sequence[str]) -> list[str]:
    first, by_format = rows[0], {row["format"]: row for row in rows}
    ratio = f"{first['quantity']} / {first['quantity']} of {first['compared_with']}"
    cells = [_cell(by_format.get(name)) for name in formats]
    return [first["contender"], power_of_two(first["values"]), ratio, *cells, bar_in_words(first) or ""]


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return marked(ratio_in_words(row["ratio"]), row)


def marked(text: str, row: Row) -> str:
    """Bold where the row misses its bar."""
    return f"**{text}**" if row["met"] is False else text
