"""INT4 weights (section 4, Transferability): does the recipe that is robust to INT8 hold up under INT4, too?

Claim: under 4-bit column-wise weight-only quantization the 52B model of the recommended recipe (bf16, weight decay
0.1, clipped at 1) loses 3.6 % of mean accuracy, 8.6 % on LAMBADA, where BLOOM-176B and BLOOM-7B lose 29.5 % and
18.7 % there.

Rule, written before it was run, for models of one size and text: *reproduced* where, by the rule of
``experiments.judging`` applied to INT4 weights, the recommended recipe degrades less than fp16 with decay 0.01 and
less than bf16 with decay 0.001.  All rows are those of other experiments.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from experiments.drawing import bars, figure, over_steps, published
from experiments.experiment import Experiment
from experiments.judging import Verdict, all_of, more, unless, untold
from experiments.published import INT4
from experiments.results import Results
from experiments.variant import Variant

SCHEME, INT8_WEIGHTS = "int4_columnwise_weight_only", "int8_weight_only"
GOOD = "bf16, decay 0.1"
OTHERS = {"fp16, decay 0.01": ("fp16", 0.01), "bf16, decay 0.001": ("bf16", 0.001)}


VARIANTS = [
    Variant(label=GOOD),
    *(
        Variant(label=label, policy=fmt, changes=(("optimizer.weight_decay", decay),), control=GOOD)
        for label, (fmt, decay) in OTHERS.items()
    ),
]


def judge(results: Results) -> Verdict:
    return unless(untold(results), lambda: all_of([more(results, label, GOOD, SCHEME) for label in OTHERS]))


def draw(results: Results) -> Figure:
    drawn, axes = figure(3)
    found = [results.degraded(label, SCHEME) for label in results.labels]
    bars(axes[0, 0], [label.replace(", ", "\n") for label in results.labels], found, "INT4 weights")
    published(axes[0, 0], [INT4["52B, 8 tasks"]], [0])
    over_steps(axes[0, 1], results, results.labels, "over time", SCHEME)
    axes[0, 2].barh(list(INT4), [one.value for one in INT4.values()], facecolor="none", edgecolor="black")
    axes[0, 2].set_title("published (hollow)")
    axes[0, 2].set_xlabel("decrease of accuracy, %")
    return drawn


def table(results: Results) -> list[dict[str, Any]]:
    return results.table((SCHEME, INT8_WEIGHTS))


EXPERIMENT = Experiment(
    name="int4",
    claim="the recipe that is robust to INT8 is so to INT4 weights, too",
    paper="section 4, Transferability of Results",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
    table=table,
)
