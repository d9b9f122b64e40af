"""Accumulators: the same training on other silicon: does it matter how products are summed?

Claim: bf16 trained on units that add in float32 or nearly so (one rounding an addition; NVIDIA H100; Intel AMX) gives
models whose loss and whose degradation by INT8 differ by less than those of another seed do (a null of ours, not of
the paper's).

Rule, written before it was run: for each unit against one rounding an addition, paired by seed and sequence, the
difference of loss before quantization (percent) and of degradation (points) are held against the standard deviation
over seeds of the control's own.  *Reproduced* where every 95 % interval lies within one such deviation of 0; *not
reproduced* where one lies wholly outside; cannot be told otherwise, and where ``experiments.judging`` says so.  fp16
summed in fp16, beside fp16 summed in float32, is drawn and not judged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.comparable import part
from experiments.drawing import COLOURS, bars, figure
from experiments.experiment import Experiment
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD, Verdict, all_of, unless, untold
from experiments.results import Results
from experiments.scales import Scale
from experiments.statistics import Interval, interval
from experiments.variant import Variant

CONTROL, HALF = "bf16, float32 in turn", "fp16, float32 in turn"
UNITS = {"bf16, H100": "bf16-h100", "bf16, AMX": "bf16-amx"}
# at ``smoke``, for kernels of the others take minutes to compile; products of bf16 are exact in float32, so that it
# has to give the control's losses bit for bit
QUICK = {"bf16, products rounded": "bf16-fp32_mul_add"}
NARROW = "fp16, fp16 in turn"


def variants(scale: Scale) -> list[Variant]:
    units = QUICK if scale.name == "smoke" else UNITS
    return [
        Variant(label=CONTROL),
        *(Variant(label=label, policy=policy, control=CONTROL) for label, policy in units.items()),
        Variant(label=HALF, policy="fp16", control=CONTROL),
        Variant(label=NARROW, policy="fp16-fp16_fma", control=HALF),
    ]


def loss_apart(results: Results, label: str) -> Interval:
    """Percent by which the loss before quantization lies above that of the control, paired."""
    own, other = results.losses(label), results.losses(results.variant(label).control or label)
    return interval(100 * (own - other) / other.mean(axis=1, keepdims=True))


def spread(results: Results, label: str) -> tuple[float, float]:
    """Standard deviations over seeds of the loss, percent of it, and of degradation, points; 0 of one seed."""
    losses, degraded = results.losses(label).mean(axis=1), results.degradation(label).mean(axis=1)
    if len(losses) < 2:
        return 0.0, 0.0
    return float(100 * losses.std(ddof=1) / losses.mean()), float(degraded.std(ddof=1))


def judge(results: Results) -> Verdict:
    units = [label for label in results.labels if label not in (CONTROL, HALF, NARROW)]
    told = untold(part(results, [CONTROL, *units]))
    return unless(told, lambda: all_of([one for label in units for one in _judged(results, label)]))


def _judged(results: Results, label: str) -> list[Verdict]:
    of_loss, of_degradation = spread(results, CONTROL)
    return [
        _within(loss_apart(results, label), of_loss, f"{label}, loss in %"),
        _within(results.difference(label, CONTROL), of_degradation, f"{label}, degradation in points"),
    ]


def _within(found: Interval, deviation: float, what: str) -> Verdict:
    text = f"{what}: {found} of a seed's {deviation:.3f}"
    if found.low is None or found.high is None:
        return Verdict(outcome=UNTOLD, reason=text)
    if -deviation <= found.low and found.high <= deviation:
        return Verdict(outcome=REPRODUCED, reason=text)
    outside = found.low > deviation or found.high < -deviation
    return Verdict(outcome=NOT_REPRODUCED if outside else UNTOLD, reason=text)


def draw(results: Results) -> Figure:
    drawn, axes = figure(3, width=3.6, height=3.4)
    bars(axes[0, 0], _names(results.labels), list(map(results.degraded, results.labels)), "after INT8")
    others = [label for label in results.labels if label not in (CONTROL, HALF)]
    apart = [loss_apart(results, label) for label in others]
    more = [results.difference(label, results.variant(label).control or label) for label in others]
    kinds = ("loss before, minus its control's", "degradation, minus its control's")
    units = ("% of the loss", "percentage points")
    for one, found, title, unit, deviation in zip(
        axes[0, 1:], (apart, more), kinds, units, spread(results, CONTROL), strict=True
    ):
        one.axhspan(-deviation, deviation, color="grey", alpha=0.2, label="a standard deviation over seeds")
        _points(one, others, found)
        one.set(title=title, ylabel=unit)
        one.legend(frameon=False, loc="upper left", fontsize=6)
    return drawn


def _names(labels: list[str]) -> list[str]:
    return [label.replace(", ", "\n") for label in labels]


def _points(axes: Any, labels: list[str], found: list[Interval]) -> None:
    for place, one in enumerate(found):
        axes.plot(place, one.mean, "o", color=COLOURS[place])
        if one.low is not None and one.high is not None:
            axes.plot([place, place], [one.low, one.high], color="black", linewidth=1)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xticks(range(len(labels)), _names(labels))
    axes.margins(0.2)


def table(results: Results) -> list[dict[str, Any]]:
    lines = results.table()
    for line in lines:
        label = line["variant"]
        of_loss, of_degradation = spread(results, label)
        line["loss from control, %"] = None if label == CONTROL else str(loss_apart(results, label))
        line |= {"over seeds, loss, %": f"{of_loss:.3f}", "over seeds, points": f"{of_degradation:.3f}"}
        same = [float(np.mean(results.losses(label) == results.losses(CONTROL)))]
        line["sequences with the control's loss"] = f"{100 * same[0]:.0f} %"
    return lines


EXPERIMENT = Experiment(
    name="accumulators",
    claim="how silicon sums products in training matters less than the seed",
    paper="beyond it: the hardware of section 3.2",
    variants=variants,
    judge=judge,
    draw=draw,
    table=table,
)
