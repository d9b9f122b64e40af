"""Methods (sections 2 and 6): does the simple one do, or does it take decomposition, smoothing, calibration?

Claim: with a recipe that is friendly to quantization, one-shot vector-wise INT8 needs no "mixed-precision
decomposition" (LLM.int8()) and no smoothing (SmoothQuant), and finer scales are what it takes: a scale a row and
column in place of one a tensor.

Rule, written before it was run, for the recommended recipe (bf16, weight decay 0.1, clipped at 1): *reproduced* where
tensor-wise INT8 degrades more than vector-wise (the 95 % interval of the paired difference lies above 0), and
``llm_int8`` and ``smoothquant`` do not degrade less by more than 0.06 percentage points (the interval of vector-wise
minus theirs lies below that); *not reproduced* where one is contradicted: the first interval lies below 0, or another
above 0.06; cannot be told otherwise.  Static ranges, weights alone, keys and values in INT8, and dequantization to
bf16 are drawn and not judged, as are the other recipes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.drawing import COLOURS, DEGRADATION, figure, notable
from experiments.experiment import Experiment
from experiments.half_precision import VARIANTS as HALVES
from experiments.judging import (
    NOT_REPRODUCED,
    NOTABLE,
    REPRODUCED,
    UNTOLD,
    Verdict,
    above_zero,
    all_of,
    unless,
    untold,
)
from experiments.quantizing import INT8, LLM_INT8, SCHEMES, SMOOTHQUANT, TENSORWISE
from experiments.results import Results

GOOD = "bf16, decay 0.1"


def judge(results: Results) -> Verdict:
    return unless(untold(results), lambda: _judged(results))


def _judged(results: Results) -> Verdict:
    coarse = results.between(GOOD, TENSORWISE, INT8)
    first = Verdict(outcome=above_zero(coarse), reason=f"{TENSORWISE} minus {INT8}: {coarse} points")
    return all_of([first, *(_needless(results, scheme) for scheme in (LLM_INT8, SMOOTHQUANT))])


def _needless(results: Results, scheme: str) -> Verdict:
    found = results.between(GOOD, INT8, scheme)
    reason = f"{INT8} minus {scheme}: {found} points"
    if found.low is None or found.high is None:
        return Verdict(outcome=UNTOLD, reason=reason)
    if found.high < NOTABLE:
        return Verdict(outcome=REPRODUCED, reason=reason)
    return Verdict(outcome=NOT_REPRODUCED if found.low > NOTABLE else UNTOLD, reason=reason)


def draw(results: Results) -> Figure:
    drawn, axes = figure(1, width=9.0, height=3.4)
    one, width = axes[0, 0], 0.8 / len(results.labels)
    for number, label in enumerate(results.labels):
        found = [results.degraded(label, scheme) for scheme in SCHEMES]
        places = np.arange(len(SCHEMES)) + (number - (len(results.labels) - 1) / 2) * width
        one.bar(places, [each.mean for each in found], width=0.9 * width, color=COLOURS[number], label=label)
        for place, each in zip(places, found, strict=True):
            if each.low is not None:
                one.plot([place, place], [each.low, each.high], color="black", linewidth=0.8)
    one.set_xticks(range(len(SCHEMES)), [_short(scheme) for scheme in SCHEMES])
    one.axhline(0, color="black", linewidth=0.6)
    notable(one)
    one.set(title="one model, many methods", ylabel=DEGRADATION)
    one.legend(frameon=False)
    return drawn


def _short(scheme: str) -> str:
    """In as many lines as it has words."""
    return (
        scheme.replace("_columnwise", "")
        .replace("_weight_only", "\nweights")
        .replace("llm_int8", "LLM.int8()")
        .replace("_", "\n")
    )


def table(results: Results) -> list[dict[str, Any]]:
    """A line a variant and method."""
    return [
        {
            "variant": label,
            "method": scheme,
            "degradation, %": str(results.degraded(label, scheme)),
            f"points above {INT8}": None if scheme == INT8 else str(results.between(label, scheme, INT8)),
        }
        for label in results.labels
        for scheme in SCHEMES
    ]


EXPERIMENT = Experiment(
    name="methods",
    claim="with the good recipe vector-wise INT8 does as well as decomposition or smoothing, better than tensor-wise",
    paper="sections 2 and 6",
    variants=HALVES,
    judge=judge,
    draw=draw,
    table=table,
)
