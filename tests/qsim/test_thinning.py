"""Thinned lines: at most four points a column, every extreme and every break kept."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from qsim.report.thinning import joined, thinned

VALUES = st.one_of(st.just(math.nan), st.floats(-1e30, 1e30))


def columns_of(points: list[tuple[int, float]], first: int, width: float) -> dict[int, list[tuple[int, float]]]:
    found: dict[int, list[tuple[int, float]]] = {}
    for step, value in points:
        found.setdefault(int((step - first) / width), []).append((step, value))
    return found


@given(st.lists(VALUES, min_size=2, max_size=400), st.integers(1, 20), st.integers(0, 5))
def test_extremes_stay(values: list[float], columns: int, first: int) -> None:
    points = {first + 3 * i: value for i, value in enumerate(values)}
    kept = thinned(points, columns)
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert all(points[step] is value for step, value in kept)
    width = max(1, 3 * (len(values) - 1)) / columns
    whole, thin = (columns_of(line, first, width) for line in (list(points.items()), kept))
    assert whole.keys() == thin.keys()
    for column, line in whole.items():
        finite = [value for _, value in line if not math.isnan(value)]
        left = [value for _, value in thin[column] if not math.isnan(value)]
        assert bool(finite) == bool(left)
        if finite:
            assert (min(finite), max(finite)) == (min(left), max(left))


@given(st.lists(VALUES, min_size=2, max_size=400), st.integers(1, 20))
def test_breaks_stay(values: list[float], columns: int) -> None:
    """Neighbours in the thinned line that are joined were joined by finite points in the whole one."""
    points = dict(enumerate(values))
    kept = thinned(points, columns)
    for (a, x), (b, y) in pairwise(kept):
        if not math.isnan(x) and not math.isnan(y):
            assert not any(math.isnan(points[step]) for step in range(a, b))


def test_few_points_stay_as_they_are() -> None:
    points = {1: 2.0, 2: math.nan, 5: -1.0}
    assert thinned(points, 1) == list(points.items())
    assert thinned({}, 5) == []


def test_many_points_become_four_a_column() -> None:
    points = {step: math.sin(step * step) for step in range(10_000)}
    assert len(thinned(points, 700)) <= 4 * 701


def test_stretches_closer_than_a_gap_are_one() -> None:
    assert joined([(1, 2), (4, 4), (9, 9)], gap=3) == [(1, 4), (9, 9)]
    assert joined([(1, 2), (4, 4)], gap=0) == [(1, 2), (4, 4)]
    assert joined([], gap=1) == []
