"""Paired statistics over seeds and held-out sequences.

Differences are paired: the same sequences, the same seeds (first weights and batches).  Intervals are percentile
bootstrap intervals in which seeds and sequences are drawn anew independently of each other (crossed factors).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
FEWEST_SEEDS = 3  # with fewer, nothing is known of what another seed would have given
SIGN_TEST_SEEDS = 6  # of 5 seeds, even all with one sign have p = 0.0625


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean, its bootstrap interval, and over how many seeds and sequences; low and high are None where one."""

    mean: float
    low: float | None
    high: float | None
    seeds: int
    items: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:+.3f}"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def interval(values: np.ndarray) -> Interval:
    """Of values (seeds, items): the mean of all; drawn anew along each axis that has at least two."""
    seeds, items = values.shape
    mean = float(values.mean())
    if not np.isfinite(values).all() or (seeds < 2 and items < 2):
        return Interval(mean=mean, low=None, high=None, seeds=seeds, items=items)
    found = stats.bootstrap(
        tuple(np.arange(n) for n in (seeds, items) if n > 1),
        lambda *drawn, axis: _means(values, drawn),  # noqa: ARG005  the axis is always the last
        n_resamples=RESAMPLES,
        batch=100,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(mean=mean, low=float(found.low), high=float(found.high), seeds=seeds, items=items)


def _means(values: np.ndarray, drawn: tuple[np.ndarray, ...]) -> np.ndarray:
    """Means of values (S, N) over drawn seeds (..., S) and items (..., N); of one seed or item, over the other."""
    if len(drawn) == 1:
        flat = values.reshape(-1)
        return flat[drawn[0]].mean(axis=-1)
    rows, columns = drawn
    return values[rows[..., :, None], columns[..., None, :]].mean(axis=(-1, -2))


def sign_test(differences: np.ndarray) -> float | None:
    """Two-sided p of the signs of the seeds' differences (S,), zeros left out; None for fewer than 6 of them."""
    signs = differences[differences != 0]
    if len(signs) < SIGN_TEST_SEEDS:
        return None
    return float(stats.binomtest(int((signs > 0).sum()), len(signs)).pvalue)


def degradation(pre: np.ndarray, post: np.ndarray) -> np.ndarray:
    """Percent by which quantization raises the loss, (S, N) of losses (S, N).

        100 (post[s, i] - pre[s, i]) / mean_i pre[s]

    so that its mean over items is that of the mean losses.
    """
    return 100 * (post - pre) / pre.mean(axis=1, keepdims=True)
