"""Early checkpoints (section 4): does the order of variants early in training predict the order at its end?

Claim: "quantization degradation increases with step count, but the relative impact of varying the bit representation
emerges early in training": as early as step 15,000 of 75,000, a fifth.

Rule, written before it was run: over all variants of ``half_precision``, ``weight_decay``, ``dropout`` and
``gradient_clipping`` that can be compared with bf16 of decay 0.1 (``experiments.judging``; dropout 0.8 is in, as in
the paper), Spearman's rank correlation of degradation under vector-wise INT8 at a step with that at the end.  The one
is taken over the even held-out sequences, the other over the odd ones, so that a text that happens to be hard at both
does not count as foresight.  At least six variants and three seeds; and the order at the end has to be one: where the
interval of its correlation between even and odd sequences does not lie above 0, nothing can be told.
*Reproduced* where at the first measured step, a fifth of all, the 95 % interval (seeds, sequences and variants drawn
anew) lies above 0; *not reproduced* where it does not and lies below 0.5; cannot be told otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments import dropout, gradient_clipping, half_precision, weight_decay
from experiments.comparable import comparable, part
from experiments.drawing import figure
from experiments.experiment import Experiment
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD, Verdict, unless, untold
from experiments.results import Results
from experiments.scales import Scale
from experiments.statistics import Interval
from experiments.variant import Variant

CONTROL = "bf16, decay 0.1"
FEWEST, RESAMPLES, STRONG = 6, 1000, 0.5
SOURCES = (half_precision, weight_decay, dropout, gradient_clipping)


def variants(scale: Scale) -> list[Variant]:
    """Each training once, under the first name that it has."""
    found: dict[str, Variant] = {}
    for source in SOURCES:
        for one in source.VARIANTS:
            control = None if one.label == CONTROL else CONTROL
            named = Variant(label=one.label, changes=one.changes, policy=one.policy, control=control)
            found.setdefault(one.training(scale, 0).key(""), named)
    return list(found.values())


def judged(results: Results) -> list[str]:
    """Labels of the variants whose order is looked at."""
    return [label for label in results.labels if comparable(results, label, apart=label == dropout.EXCEPTED)]


def judge(results: Results) -> Verdict:
    return unless(untold(part(results, [CONTROL])), lambda: _judged(results))


def _judged(results: Results) -> Verdict:
    labels = judged(results)
    if len(labels) < FEWEST:
        return Verdict(outcome=UNTOLD, reason=f"{len(labels)} variants can be compared, and an order takes {FEWEST}")
    first, last = results.steps[0], results.steps[-1]
    end = foresight(results, labels, last)
    if end.low is None or end.low <= 0:
        return Verdict(outcome=UNTOLD, reason=f"at the end even and odd sequences order variants by {end} alike")
    found = foresight(results, labels, first)
    reason = f"rank correlation of step {first} with step {last} over {len(labels)} variants: {found}"
    if found.low is None or found.high is None:
        return Verdict(outcome=UNTOLD, reason=reason)
    if found.low > 0:
        return Verdict(outcome=REPRODUCED, reason=reason)
    return Verdict(outcome=NOT_REPRODUCED if found.high < STRONG else UNTOLD, reason=reason)


def foresight(results: Results, labels: Iterable[str], step: int) -> Interval:
    """Spearman's correlation over variants of degradation at a step, even sequences, with the last, odd ones.

    A percentile bootstrap: seeds and sequences drawn anew for all variants at once, and the variants themselves, so
    that an order of few which agrees by chance is not taken for foresight.
    """
    labels = list(labels)
    early = np.array([results.degradation(label, step=step)[:, ::2] for label in labels])  # (V, S, N / 2)
    late = np.array([results.degradation(label)[:, 1::2] for label in labels])
    seeds, draw = early.shape[1], np.random.default_rng(0)
    mean = _rank_correlation(early.mean(axis=(1, 2)), late.mean(axis=(1, 2)))
    size = (early.shape[2], late.shape[2])
    if not np.isfinite(mean) or min(size) == 0:
        return Interval(mean=mean, low=None, high=None, seeds=seeds, items=sum(size))
    found = []
    for _ in range(RESAMPLES):
        of_seeds = draw.integers(0, seeds, seeds)
        of_variants = draw.integers(0, len(labels), len(labels))
        drawn = [
            x[of_variants][:, of_seeds][:, :, draw.integers(0, n, n)]
            for x, n in zip((early, late), size, strict=True)
        ]
        found.append(_rank_correlation(*(x.mean(axis=(1, 2)) for x in drawn)))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Interval(mean=mean, low=float(low), high=float(high), seeds=seeds, items=sum(size))


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    ranks = stats.rankdata(a), stats.rankdata(b)
    if len(a) < 2 or any(np.ptp(one) == 0 for one in ranks) or not np.isfinite([a, b]).all():
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def draw(results: Results) -> Figure:
    drawn, axes = figure(2, width=4.6, height=3.6)
    labels = [label for label in results.labels if np.isfinite(results.losses(label)).all()]
    found = [foresight(results, labels, step) for step in results.steps]
    axes[0, 0].plot(results.steps, [one.mean for one in found], marker="o", color="black")
    bounded = [
        (step, one.low, one.high) for step, one in zip(results.steps, found, strict=True) if one.low is not None
    ]
    if bounded:
        axes[0, 0].fill_between(*zip(*bounded, strict=True), color="grey", alpha=0.25, linewidth=0)
    axes[0, 0].axhline(0, color="black", linewidth=0.6)
    axes[0, 0].set(
        title="order at a step and at the end", xlabel="step", ylabel="rank correlation", ylim=(-1.05, 1.05)
    )
    _ranks(axes[0, 1], results, labels)
    return drawn


def _ranks(axes: Any, results: Results, labels: list[str]) -> None:
    """A line a variant: its rank at every step, the one that degrades most at the top."""
    from matplotlib import colormaps

    means = np.array([[results.degradation(label, step=step).mean() for step in results.steps] for label in labels])
    ranks = stats.rankdata(means, axis=0)
    colours = colormaps["tab20"].resampled(20)
    for number, label in enumerate(labels):
        axes.plot(results.steps, ranks[number], marker="o", markersize=4, color=colours(number % 20))
        axes.annotate(
            label, (results.steps[-1], ranks[number, -1]), (6, 0), textcoords="offset points", va="center", fontsize=7
        )
    axes.set(title="rank by degradation, highest on top", xlabel="step", ylabel="rank")
    axes.set_xlim(right=results.steps[-1] + 0.8 * max(1, results.steps[-1] - results.steps[0]))
    axes.set_xticks(results.steps)


def table(results: Results) -> list[dict[str, Any]]:
    lines, kept = results.table(), judged(results)
    for line in lines:
        line["in the order"] = "yes" if line["variant"] in kept else "no"
        for step in results.steps[:-1]:
            line[f"at step {step}, %"] = f"{results.degradation(line['variant'], step=step).mean():+.3f}"
    return lines


EXPERIMENT = Experiment(
    name="early_checkpoints",
    claim="the order of variants by degradation emerges early in training",
    paper="section 4, Using Early Checkpoints",
    variants=variants,
    judge=judge,
    draw=draw,
    table=table,
)
