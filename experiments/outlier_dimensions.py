"""Outlier dimensions (section 4, Outlier Analysis): does their number tell which models degrade?

Claim: "a threshold of 6.0 is too high to classify a feature dimension as an outlier for all the variants we
consider", and for adaptations of LLM.int8()'s criterion "we did not observe a clear correlation between these
measures and sensitivity to quantization".

Rule, written before it was run: over all variants of ``early_checkpoints`` that can be compared with bf16 of decay
0.1, every reading of the criterion (``qsim.analysis.outliers`` has 36) at thresholds 6.0, 4.5 and 3.0; Spearman's
rank correlation of the number of dimensions with degradation under vector-wise INT8, where the numbers differ at all.
At least six variants and three seeds.  *Reproduced* where no reading at 6.0 finds a dimension in any variant, some
lower threshold finds some, and the 95 % interval of the correlation (variants and seeds drawn anew) lies above 0 for
at most a tenth of what has an order; *not reproduced* where it does for more than half of them; cannot be told
otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments import early_checkpoints
from experiments.comparable import part
from experiments.drawing import figure
from experiments.early_checkpoints import CONTROL, FEWEST, judged
from experiments.experiment import Experiment
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD, Verdict, unless, untold
from experiments.mechanism import THRESHOLDS
from experiments.results import Results
from experiments.statistics import Interval, rank_correlation

FEW, MOST = 0.1, 0.5
KEYS = [f"{threshold:g}" for threshold in THRESHOLDS]
SHOWN = "within/input/at_least/pooled"


def readings(results: Results) -> list[str]:
    row = results.rows[results.labels[0]][0]
    return row["checkpoints"][str(results.steps[-1])]["readings"]


def correlations(results: Results, labels: list[str], threshold: str) -> list[Interval | None]:
    """By reading, of the number of dimensions with degradation; None where there is no order."""
    counts = np.array([results.outliers(label, threshold) for label in labels])  # (V, S, readings)
    degraded = np.array([results.degradation(label).mean(axis=1) for label in labels])
    return [rank_correlation(counts[:, :, i], degraded) for i in range(counts.shape[-1])]


def judge(results: Results) -> Verdict:
    return unless(untold(part(results, [CONTROL])), lambda: _judged(results))


def _judged(results: Results) -> Verdict:
    labels = judged(results)
    if len(labels) < FEWEST:
        return Verdict(outcome=UNTOLD, reason=f"{len(labels)} variants can be compared, and an order takes {FEWEST}")
    ordered = [one for key in KEYS for one in correlations(results, labels, key) if one is not None]
    above = sum(one.low is not None and one.low > 0 for one in ordered)
    largest = max(results.outliers(label, KEYS[0]).max() for label in labels)
    reason = (
        f"{len(labels)} variants; at {KEYS[0]} at most {largest:g} dimensions in any reading; of {len(ordered)} "
        f"readings and thresholds with an order {above} have a correlation above 0"
    )
    if not ordered:
        return Verdict(outcome=UNTOLD, reason=reason)
    if above > MOST * len(ordered):
        return Verdict(outcome=NOT_REPRODUCED, reason=reason)
    return Verdict(outcome=REPRODUCED if largest == 0 and above <= FEW * len(ordered) else UNTOLD, reason=reason)


def draw(results: Results) -> Figure:
    drawn, axes = figure(1 + len(KEYS), width=3.0, height=4.6)
    labels = [label for label in results.labels if np.isfinite(results.losses(label)).all()]
    names = readings(results)
    found = np.array(
        [[np.nan if one is None else one.mean for one in correlations(results, labels, key)] for key in KEYS]
    ).T
    image = axes[0, 0].imshow(found, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
    axes[0, 0].set_yticks(range(len(names)), names, fontsize=5)
    axes[0, 0].set_xticks(range(len(KEYS)), KEYS)
    axes[0, 0].set_xlabel("threshold")
    axes[0, 0].set_title("rank correlation with degradation\n(white: no order)")
    drawn.colorbar(image, ax=axes[0, 0])
    reading = _shown(results, labels, names)
    for one, key in zip(axes[0, 1:], KEYS, strict=True):
        counts = [results.outliers(label, key)[:, reading].mean() for label in labels]
        one.scatter(counts, [results.degradation(label).mean() for label in labels], s=14, color="#4477aa")
        one.set(
            title=f"|x| >= {key}, {names[reading]}",
            xlabel="outlier dimensions",
            ylabel="increase of held-out loss, %",
        )
        one.title.set_fontsize(7)
        one.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    return drawn


def _shown(results: Results, labels: list[str], names: list[str]) -> int:
    """The one that is drawn: the strictest; where it is all alike at the lowest threshold, what varies most there."""
    counts = np.array([results.outliers(label, KEYS[-1]).mean(axis=0) for label in labels])
    spread = np.ptp(counts, axis=0)
    strictest = names.index(SHOWN)
    return strictest if spread[strictest] > 0 else int(spread.argmax())


def table(results: Results) -> list[dict[str, Any]]:
    """A line a reading."""
    labels = [label for label in results.labels if np.isfinite(results.losses(label)).all()]
    lines: list[dict[str, Any]] = [{"reading": name} for name in readings(results)]
    for key in KEYS:
        counts = np.array([results.outliers(label, key).mean(axis=0) for label in labels])
        for line, found, column in zip(lines, correlations(results, labels, key), counts.T, strict=True):
            line[f"dimensions at {key}"] = f"{column.min():g} to {column.max():g}"
            line[f"rank correlation at {key}"] = None if found is None else str(found)
    return lines


EXPERIMENT = Experiment(
    name="outlier_dimensions",
    claim="the number of outlier dimensions, however it is counted, does not tell which models degrade",
    paper="section 4, Outlier Analysis",
    variants=early_checkpoints.variants,
    judge=judge,
    draw=draw,
    table=table,
)
