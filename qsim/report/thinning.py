"""Lines with more points than a picture has pixels, thinned without losing an extreme."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["joined", "thinned"]

Point = tuple[int, float]


def thinned(points: Mapping[int, float], columns: int) -> list[tuple[int, float]]:
    """At most four points a column (the first, the lowest, the highest, the last) of every unbroken stretch.

    points: by step, in order; NaN breaks the line, and one is kept at each break.  A line through what is left
    covers in every column the same height as a line through all of them.
    """
    if len(points) <= 4 * columns:
        return list(points.items())
    first, last = next(iter(points)), next(reversed(points))
    width = max(1, last - first) / columns
    kept: list[Point] = []
    for column in _columns(points, first, width):
        kept += column if math.isnan(column[0][1]) else _corners(column)
    return kept


def _columns(points: Mapping[int, float], first: int, width: float) -> Iterator[list[Point]]:
    """Neighbours in one column, all of them NaN or none; of those that are NaN the first."""
    place: tuple[int, bool] | None = None
    column: list[Point] = []
    for step, value in points.items():
        here = (int((step - first) / width), math.isnan(value))
        if here != place and column:
            yield column
            column = []
        if not (here == place and here[1]):
            column.append((step, value))
        place = here
    if column:
        yield column


def _corners(column: Sequence[Point]) -> list[Point]:
    """First, lowest, highest and last, in order, each once."""
    lowest, highest = min(column, key=lambda point: point[1]), max(column, key=lambda point: point[1])
    return sorted({column[0], lowest, highest, column[-1]})


def joined(stretches: Sequence[tuple[int, int]], gap: float) -> list[tuple[int, int]]:
    """Stretches of steps less than a gap apart as one."""
    found: list[tuple[int, int]] = []
    for first, last in stretches:
        if found and first - found[-1][1] < gap:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found
