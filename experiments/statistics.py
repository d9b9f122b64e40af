"""Paired statistics over seeds and held-out sequences.

Differences are paired: the same sequences, the same seeds (first weights and batches).  Intervals are percentile
bootstrap intervals in which seeds and sequences are drawn anew independently of each other (crossed factors).
"""

from __future__ import annotations

from collections.abc import Sequence
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

    @property
    def plain(self) -> str:
        """Without signs, of a ratio."""
        if self.low is None or self.high is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

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


def change_of_scores(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Interval | None:
    """Mean over tasks of 100 (post - pre) / pre, percent: the paper's degradation, losses below 0.

    pairs: of each task what was right before and after, (S, N) each.  Seeds are drawn anew for all tasks at once,
    items within each task.  Tasks of which nothing was right before are left out; None where all are.
    """
    kept = [(pre.astype(float), post.astype(float)) for pre, post in pairs if pre.any()]
    if not kept:
        return None
    seeds, draw = kept[0][0].shape[0], np.random.default_rng(0)
    mean = float(np.mean([100 * (post.mean() / pre.mean() - 1) for pre, post in kept]))
    found = []
    for _ in range(RESAMPLES):
        rows = draw.integers(0, seeds, seeds)
        parts = []
        for pre, post in kept:
            columns = draw.integers(0, pre.shape[1], pre.shape[1])
            before = pre[np.ix_(rows, columns)].mean()
            if before:
                parts.append(100 * (post[np.ix_(rows, columns)].mean() / before - 1))
        if parts:
            found.append(np.mean(parts))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    items = sum(pre.shape[1] for pre, _ in kept)
    return Interval(mean=mean, low=float(low), high=float(high), seeds=seeds, items=items)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> Interval | None:
    """Spearman's, over variants, of means over seeds of x and y, (V, S) each; variants and seeds are drawn anew.

    None where one of them has no order: all alike.
    """
    mean = _spearman(x.mean(axis=1), y.mean(axis=1))
    if not np.isfinite(mean):
        return None
    (variants, seeds), draw, found = x.shape, np.random.default_rng(0), []
    for _ in range(RESAMPLES // 4):
        rows, columns = draw.integers(0, variants, variants), draw.integers(0, seeds, seeds)
        chosen = np.ix_(rows, columns)
        found.append(_spearman(x[chosen].mean(axis=1), y[chosen].mean(axis=1)))
    low, high = np.nanquantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean=mean, low=float(low), high=float(high), seeds=seeds, items=variants)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    ranks = stats.rankdata(a), stats.rankdata(b)
    if len(a) < 2 or any(np.ptp(one) == 0 for one in ranks) or not np.isfinite([a, b]).all():
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])
