"""Outlier dimensions by every reading, against a count position by position, and planted massive activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from qsim.analysis.massive import massive_places, median_magnitude
from qsim.analysis.outliers import PLACES, READINGS, OutlierCounter, OutlierRow, Reading

LAYERS, SEQUENCES, LENGTH, WIDTH = 4, 2, 50, 500  # 25 % of 4 blocks is one; 6 % of 50 positions are three


def activations() -> np.ndarray:
    """(L, 3, S, T, d): dimensions of many tempers, at, below and above every boundary of the criterion."""
    rng = np.random.default_rng(7)
    x = np.zeros((LAYERS, len(PLACES), SEQUENCES, LENGTH, WIDTH), np.float32)
    for dimension in range(WIDTH):
        inputs = rng.permutation(LAYERS * len(PLACES))[: rng.integers(1, 9)]
        for at in inputs:
            layer, place = divmod(int(at), len(PLACES))
            for sequence in range(SEQUENCES):
                count = rng.integers(0, 12)
                start = rng.integers(0, LENGTH) if rng.random() < 0.5 else 5
                positions = (start + np.arange(count)) % LENGTH
                value = 6.0 if rng.random() < 0.3 else 6.5
                x[layer, place, sequence, positions, dimension] = value * rng.choice([-1, 1])
    return x


def plainly(x: np.ndarray, reading: Reading, threshold: float) -> list[list[int]]:
    """Of each group of sequences, the outliers, dimension by dimension in fractions."""
    groups = [range(SEQUENCES)] if reading.scope == "pooled" else [[s] for s in range(SEQUENCES)]
    exact = reading.comparison == "at_least"

    def reaches(part: Fraction, least: Fraction) -> bool:
        return part >= least if exact else part > least

    def hit(layer: int, place: int, s: int, t: int, d: int) -> bool:
        size = abs(float(x[layer, place, s, t, d]))
        return size >= threshold if exact else size > threshold

    def units() -> Iterator[list[tuple[int, int]]]:
        for layer in range(LAYERS):
            if reading.layers == "block":
                yield [(layer, place) for place in range(3)]
            else:
                for place in [0, 0, 0, 1, 2] if reading.layers == "linear" else range(3):
                    yield [(layer, place)]

    found = []
    for group in groups:
        where = [(s, t) for s in group for t in range(LENGTH)]
        outliers = []
        for d in np.flatnonzero((np.abs(x) >= threshold).any(axis=(0, 1, 2, 3))).tolist():
            hits = [
                {(s, t) for s, t in where if any(hit(layer, place, s, t, d) for layer, place in unit)}
                for unit in units()
            ]
            if reading.positions == "within":
                layers = [reaches(Fraction(len(one), len(where)), reading.position_share) and one for one in hits]
                often = True
            else:
                layers = [bool(one) for one in hits]
                pairs = Fraction(sum(map(len, hits)), len(hits) * len(where))
                unique = Fraction(len(set().union(*hits)), len(where))
                often = reaches(pairs if reading.positions == "pairs" else unique, reading.position_share)
            if often and reaches(Fraction(sum(map(bool, layers)), len(hits)), reading.layer_share):
                outliers.append(d)
        found.append(outliers)
    return found


def counted(x: np.ndarray, thresholds: tuple[float, ...], batch: int) -> list[OutlierRow]:
    counter = OutlierCounter(LAYERS, WIDTH, thresholds)
    for first in range(0, SEQUENCES, batch):
        for layer in range(LAYERS):
            for place, name in enumerate(PLACES):
                counter.hear(layer, name, x[layer, place, first : first + batch])
        counter.end_batch()
    return list(counter.rows())


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return activations()


@pytest.fixture(scope="module")
def rows(x: np.ndarray) -> dict[str, OutlierRow]:
    return {row.reading: row for row in counted(x, (6.0,), 2)}


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.name)
def test_every_reading_counts_what_it_says(x: np.ndarray, rows: dict[str, OutlierRow], reading: Reading) -> None:
    expected = plainly(x, reading, 6.0)
    row = rows[reading.name]
    flat = [dimension for group in expected for dimension in group]
    assert row.dimensions == tuple((d, flat.count(d)) for d in sorted(set(flat)))
    assert row.count == len(flat) / len(expected)


def test_every_reading_gives_another_number(rows: dict[str, OutlierRow]) -> None:
    numbers = {name: row.count for name, row in rows.items()}
    assert len(numbers) == len(READINGS) == 36
    assert len(set(numbers.values())) == len(numbers), sorted((n, name) for name, n in numbers.items())


def test_batches_change_nothing(x: np.ndarray) -> None:
    assert counted(x, (6.0, 6.25), 1) == counted(x, (6.0, 6.25), 2)


def test_thresholds_are_swept(x: np.ndarray) -> None:
    """6.0 itself counts at least, not above; beyond all values nothing does."""
    found = {(row.reading, row.threshold): row.count for row in counted(x, (5.9, 6.0, 6.25, 7.0), 2)}
    for reading in READINGS:
        low, six, above, none = (found[reading.name, threshold] for threshold in (5.9, 6.0, 6.25, 7.0))
        assert none == 0
        strictly = reading.comparison == "more_than"
        assert (six == above) is strictly or low == six == above
        assert (six == low) is not strictly or low == six == above


def test_thresholds_are_not_rounded_to_float32() -> None:
    x = np.full((LAYERS, 3, SEQUENCES, LENGTH, WIDTH), np.float32(4.1))  # above 4.1 in float64
    assert {row.count for row in counted(x, (4.1,), 2)} == {WIDTH if np.float32(4.1) > 4.1 else 0}


def test_values_that_are_not_numbers_are_no_outliers(x: np.ndarray) -> None:
    spoiled = x.copy()
    spoiled[:, :, :, :, WIDTH - 1] = np.nan
    plain = x.copy()
    plain[:, :, :, :, WIDTH - 1] = 0
    assert counted(spoiled, (6.0,), 2) == counted(plain, (6.0,), 2)


def test_a_narrower_input_has_the_first_dimensions() -> None:
    counter = OutlierCounter(1, 5, (6.0,))
    for name, width in zip(PLACES, (5, 3, 5), strict=True):
        counter.hear(0, name, np.full((1, 4, width), 9.0 if width == 3 else 0.0, np.float32))
    counter.end_batch()
    found = {row.reading: [d for d, _ in row.dimensions] for row in counter.rows()}
    assert found["pairs/block/at_least/pooled"] == [0, 1, 2]
    assert found["pairs/linear/at_least/pooled"] == []  # one linear layer of five
    assert found["pairs/input/at_least/pooled"] == [0, 1, 2]  # one input of three


def test_readings_are_frozen_and_named_once() -> None:
    assert len({reading.name for reading in READINGS}) == len(READINGS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        READINGS[0].scope = "sequence"  # type: ignore[misc]


# Massive activations


def test_planted_massive_activations_are_found() -> None:
    x = np.random.default_rng(5).standard_normal((40, 30)).astype(np.float32)
    median = median_magnitude(x)
    x[3, 7], x[20, 0], x[0, 29] = 1100 * median, -5000.0, 900 * median
    assert massive_places(x).tolist() == [[3, 7], [20, 0]]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([0.0999, 0.0999, 0.0999, 100.0], []),  # more than 1,000 medians, but not above 100
        ([0.1, 0.1, 0.1, np.nextafter(np.float32(100), np.float32(101))], [[0, 3]]),
        ([0.5, 0.5, 0.5, 500.0], []),  # 1,000 medians, not above
        ([0.0, 0.0, 0.0, 101.0], [[0, 3]]),
        ([0.1, np.inf, 0.1, 200.0, 0.1], [[0, 3]]),
        ([0.1, np.nan, 0.1, 200.0, 0.1], []),
    ],
)
def test_both_conditions_hold_strictly(values: list[float], found: list[list[int]]) -> None:
    assert massive_places(np.array([values], np.float32)).tolist() == found


def test_the_median_of_an_even_number_is_between() -> None:
    assert median_magnitude(np.array([[1.0, -2.0], [4.0, -3.0]])) == 2.5
