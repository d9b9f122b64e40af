"""Statistics against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.statistics import RESAMPLES, degradation, interval, sign_test


def values(seeds: int, items: int, of_seed: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(7)
    return draw.normal(size=(seeds, items)) + of_seed * draw.normal(size=(seeds, 1)) + 0.3


def resampled(x: np.ndarray, resamples: int) -> np.ndarray:
    """Means of x with seeds and items drawn anew, by a loop."""
    draw = np.random.default_rng(11)
    seeds, items = x.shape
    return np.array(
        [x[draw.integers(0, seeds, seeds)][:, draw.integers(0, items, items)].mean() for _ in range(resamples)]
    )


@pytest.mark.parametrize(("seeds", "items", "of_seed"), [(1, 40, 0.0), (5, 1, 0.0), (4, 30, 0.0), (6, 20, 1.0)])
def test_interval_is_that_of_a_bootstrap_over_both_axes(seeds: int, items: int, of_seed: float) -> None:
    x = values(seeds, items, of_seed)
    found = interval(x)
    assert found.mean == x.mean()
    assert (found.seeds, found.items) == (seeds, items)
    assert found.low is not None
    assert found.high is not None
    expected = np.quantile(resampled(x, 4 * RESAMPLES), [0.025, 0.975])
    assert [found.low, found.high] == pytest.approx(expected, abs=0.15 * float(np.ptp(expected)))


def test_interval_is_the_same_every_time() -> None:
    assert interval(values(3, 10)) == interval(values(3, 10))


def test_what_has_no_interval() -> None:
    assert interval(np.array([[1.5]])).low is None
    assert interval(np.array([[1.5, np.nan]])).low is None


def test_pairing_removes_what_seeds_and_items_share() -> None:
    shared = values(4, 30, 3.0)
    found = interval((shared + 0.01) - shared)
    assert found.low == pytest.approx(0.01)
    assert found.high == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("differences", "p"), [([1] * 6, 2 / 64), ([1] * 5 + [-1], 14 / 64), ([1] * 7 + [0], 2 / 128)]
)
def test_sign_test(differences: list[float], p: float) -> None:
    assert sign_test(np.array(differences, float)) == pytest.approx(p)


@pytest.mark.parametrize("differences", [[1] * 5, [1] * 5 + [0]])
def test_sign_test_takes_six(differences: list[float]) -> None:
    assert sign_test(np.array(differences, float)) is None


def test_degradation_averages_to_that_of_the_means() -> None:
    pre, post = np.array([[2.0, 4.0]]), np.array([[2.2, 4.1]])
    assert degradation(pre, post).mean() == pytest.approx(100 * (3.15 - 3) / 3)
