"""Two evaluations of the same items: what quantization took, item by item, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsim.evaluation.error import EvaluationError
from qsim.evaluation.items import TaskScore
from qsim.evaluation.perplexity import TextScore

CONFIDENCE = 0.95
RESAMPLES = 2000
BLOCK = 64  # neighbouring tokens that are resampled as one


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Of one model under one arithmetic.  text: None without one."""

    name: str
    text: TextScore | None
    tasks: tuple[TaskScore, ...]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """value, and its percentile bootstrap interval, of ``CONFIDENCE``; None where there is too little for one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """metric: the task's first.  change: (post - pre) / pre, None where pre is 0.  delta_loss: mean over items of the
    loss of the gold continuation, post - pre.  lost, gained: items that only pre, only post has right; p_value: of
    McNemar's exact test, that such are equally likely."""

    task: str
    metric: str
    pre: float
    post: float
    change: float | None
    delta_loss: Interval
    lost: int
    gained: int
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """degradation: mean over tasks of (post - pre) / pre, losses below 0; None where no task's pre is above 0."""

    name: str
    delta_loss: Interval | None
    tasks: tuple[TaskComparison, ...]
    degradation: Interval | None


def compare(pre: Evaluation, post: Evaluation) -> Comparison:
    """Post against pre, which answered the same.  EvaluationError where they did not."""
    if [one.task for one in pre.tasks] != [one.task for one in post.tasks] or (pre.text is None) != (
        post.text is None
    ):
        raise EvaluationError(f"{pre.name} and {post.name} were not asked the same; evaluate both on the same items")
    delta = None
    if pre.text is not None and post.text is not None:
        delta = delta_loss_of_text(pre.text.losses, post.text.losses)
    tasks = tuple(_compared(a, b) for a, b in zip(pre.tasks, post.tasks, strict=True))
    return Comparison(name=post.name, delta_loss=delta, tasks=tasks, degradation=degradation(pre.tasks, post.tasks))


def _compared(pre: TaskScore, post: TaskScore) -> TaskComparison:
    metric = pre.task.metrics[0]
    before, after = pre.right(metric), post.right(metric)
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    a, b = float(before.mean()), float(after.mean())
    return TaskComparison(
        task=pre.task.name,
        metric=metric,
        pre=a,
        post=b,
        change=(b - a) / a if a else None,
        delta_loss=mean_interval(post.losses - pre.losses),
        lost=lost,
        gained=gained,
        p_value=mcnemar(lost, gained),
    )


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided p value of lost of lost + gained items under a fair coin; 1 where no item changed.

    Source: McNemar 1947, in its exact, binomial form.
    """
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + gained, 0.5).pvalue) if lost + gained else 1.0


def mean_interval(values: np.ndarray) -> Interval:
    """Of the mean of independent values (n,); NaN where one is not finite."""
    return _interval((values,), np.mean)


def delta_loss_of_text(pre: np.ndarray, post: np.ndarray, block: int = BLOCK) -> Interval:
    """Mean over tokens of post - pre, resampled by blocks of neighbouring tokens, whose losses depend on each other.

    sum of a draw of blocks' sums / sum of their sizes; the last block may be shorter.
    Errors: EvaluationError for texts of different lengths.
    """
    if pre.shape != post.shape:
        raise EvaluationError(f"losses of {len(pre)} and of {len(post)} tokens are not paired; score the same text")
    starts = np.arange(0, len(pre), block)
    sums = np.add.reduceat(post - pre, starts)
    sizes = np.diff([*starts, len(pre)]).astype(np.float64)

    def ratio(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis=axis) / sizes.sum(axis=axis)

    return _interval((sums, sizes), ratio, paired=True)


def degradation(pre: Sequence[TaskScore], post: Sequence[TaskScore]) -> Interval | None:
    """Mean over tasks of (post - pre) / pre in each task's first metric, items resampled within their tasks.

    Tasks of which pre has nothing right have no such ratio and are left out; of resamples, too, in which that is so.
    None where no task is left.
    """
    codes = [_codes(a, b) for a, b in zip(pre, post, strict=True) if a.right(a.task.metrics[0]).any()]
    if not codes:
        return None

    def mean_change(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
        changes = []
        for code in tasks:
            before, after = (code >> 1).sum(axis=axis), (code & 1).sum(axis=axis)
            with np.errstate(invalid="ignore", divide="ignore"):
                changes.append(np.where(before > 0, (after - before) / before, np.nan))
        known = ~np.isnan(changes)
        total = np.where(known, changes, 0).sum(axis=0)
        return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), 0)

    return _interval(tuple(codes), mean_change)


def _codes(pre: TaskScore, post: TaskScore) -> np.ndarray:
    """2 where pre is right, and 1 where post is."""
    metric = pre.task.metrics[0]
    return 2 * pre.right(metric).astype(np.int64) + post.right(metric)


def _interval(data: tuple[np.ndarray, ...], statistic: Callable[..., Any], *, paired: bool = False) -> Interval:
    from scipy.stats import bootstrap

    value = float(statistic(*data))
    if not np.isfinite(value) or any(len(values) < 2 for values in data):
        return Interval(value=value)
    found = bootstrap(
        data,
        statistic,
        paired=paired,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=100,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(value=value, low=float(found.low), high=float(found.high))
