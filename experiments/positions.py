"""Positional embeddings (section 4): learned, sinusoidal, ALiBi: a null of the paper's.

The paper's text is silent on what the sinusoidal table is multiplied by.  Vaswani and others multiply the token rows
by sqrt(h) instead; added as it is to rows drawn with a deviation of 0.02 the table drowns them, and the `small` model
ended at 0.88 of the unigram entropy (one row of it is kept), beyond what counts as having learned.  Here it is
multiplied by 2^-5, which puts it where learned rows begin.

Claim: "we did not see a notable difference in downstream PTQ degradation as all values were within 0.06 % of
another".

Rule, written before it was run: *reproduced* where for every pair the 95 % interval of the paired difference lies
within 0.06 percentage points of 0; *not reproduced* where for one pair it lies wholly outside; cannot be told
otherwise, or where ``experiments.judging`` finds the models not comparable (one kind of positions may well model text
better than another; the bound of 2 % holds all the same).
"""

from __future__ import annotations

from itertools import combinations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import COLOURS, bars, figure
from experiments.experiment import Experiment
from experiments.judging import NOT_REPRODUCED, NOTABLE, REPRODUCED, UNTOLD, Verdict, alike, all_of, unless, untold
from experiments.results import CLOSE, Results
from experiments.variant import Variant

KINDS = ("learned", "sinusoidal", "alibi")
SCALES = {"sinusoidal": 2.0**-5}
VARIANTS = [
    Variant(
        label=kind,
        changes=(("model.positions", kind), ("model.position_scale", SCALES.get(kind, 1.0))),
        control=None if kind == KINDS[0] else KINDS[0],
    )
    for kind in KINDS
]


def judge(results: Results) -> Verdict:
    return unless(untold(results), lambda: all_of([_alike(results, a, b) for a, b in combinations(KINDS, 2)]))


def _alike(results: Results, a: str, b: str) -> Verdict:
    found = results.difference(a, b)
    text = f"{a} minus {b}: {found} points"
    if found.low is None or found.high is None:
        return Verdict(outcome=UNTOLD, reason=text)
    apart = found.low > NOTABLE or found.high < -NOTABLE
    return Verdict(outcome=NOT_REPRODUCED if apart else REPRODUCED if alike(found) else UNTOLD, reason=text)


def draw(results: Results) -> Figure:
    drawn, axes = figure(2)
    bars(axes[0, 0], KINDS, list(map(results.degraded, KINDS)), "positional embeddings")
    _losses(axes[0, 1], results)
    return drawn


def _losses(axes: Axes, results: Results) -> None:
    """A point a seed; shaded: what may be compared with learned positions."""
    for place, kind in enumerate(KINDS):
        losses = results.losses(kind).mean(axis=1)
        axes.plot([place] * len(losses), losses, "o", markersize=4, color=COLOURS[place])
    control = float(results.losses(KINDS[0]).mean())
    axes.axhspan((1 - CLOSE) * control, (1 + CLOSE) * control, color="grey", alpha=0.12, linewidth=0, zorder=0)
    axes.set_xticks(range(len(KINDS)), KINDS)
    axes.set_xlim(-0.5, len(KINDS) - 0.5)
    axes.set(title="before quantization; shaded: within 2 %", ylabel="held-out loss")


EXPERIMENT = Experiment(
    name="positions",
    claim="learned, sinusoidal and ALiBi positions degrade alike under INT8, within 0.06 points",
    paper="section 4, Positional Embeddings",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
)
