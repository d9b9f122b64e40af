"""FP16 on a TPU: which accumulator, which rounding would make the paper's fp16 arm degrade?

The paper trained fp16 on TPU-v4, whose matrix unit takes bf16: how fp16 products were summed there, and where values
were rounded, is not stated.  Its fp16 with weight decay 0.01 lost 1.73 %.

Claim: one of these makes fp16 with decay 0.01 degrade more by INT8 than fp16 with float32 sums does, and more than
bf16 (a hypothesis that is not the paper's): sums in fp16; sums in fp16 of products rounded to fp16;
LayerNorm's arithmetic in fp16; subnormals flushed to zero; all arithmetic in fp16.  (Products rounded to float32 are
no way of their own: those of fp16 values are exact there.)

Rule, written before it was run: each is judged by itself where it can be compared with fp16 of float32 sums
(``experiments.judging``; one that does not train is named and left out).  *Reproduced* where one degrades more than
bf16 and more than fp16 with float32 sums; *not reproduced* where every one is told not to, or has not trained;
cannot be told otherwise.  Five are tried, so that in one set of eight one interval lies above 0 by chance alone.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from experiments.comparable import comparable, part
from experiments.drawing import bars, figure, over_steps, published
from experiments.experiment import Experiment
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD, Verdict, all_of, more, unless, untold
from experiments.published import FP16_DECAY_001
from experiments.results import Results
from experiments.scales import Scale
from experiments.variant import Variant

BF16, PLAIN = "bf16", "fp16, sums in float32"
WAYS = {
    "sums in fp16": "fp16-fp16_fma",
    "products and sums in fp16": "fp16-fp16_mul_add",
    "LayerNorm in fp16": "fp16-ln16",
    "subnormals flushed": "fp16-flush",
    "all of it in fp16": "fp16-pure",
}
LONG = ("products and sums in fp16", "all of it in fp16")  # to compile: left out at ``smoke``
DECAY = (("optimizer.weight_decay", 0.01), ("optimizer.clip", 1.0))


def variants(scale: Scale) -> list[Variant]:
    ways = {label: policy for label, policy in WAYS.items() if scale.name != "smoke" or label not in LONG}
    return [
        Variant(label=BF16, changes=DECAY),
        Variant(label=PLAIN, changes=DECAY, policy="fp16", control=BF16),
        *(Variant(label=label, changes=DECAY, policy=policy, control=PLAIN) for label, policy in ways.items()),
    ]


def judge(results: Results) -> Verdict:
    return unless(untold(part(results, [BF16, PLAIN])), lambda: _judged(results))


def _judged(results: Results) -> Verdict:
    ways = [label for label in results.labels if label not in (BF16, PLAIN)]
    trained = [label for label in ways if comparable(results, label)]
    lost = [label for label in ways if label not in trained]
    behind = f"; not comparable: {', '.join(lost)}" if lost else ""
    found = [all_of([more(results, label, BF16), more(results, label, PLAIN)]) for label in trained]
    for outcome in (REPRODUCED, UNTOLD):
        reasons = [one.reason for one in found if one.outcome == outcome]
        if reasons:
            return Verdict(outcome=outcome, reason="; ".join(reasons) + behind)
    return Verdict(outcome=NOT_REPRODUCED, reason="none degrades more than bf16 and than float32 sums" + behind)


def draw(results: Results) -> Figure:
    drawn, axes = figure(2, width=4.6, height=3.8)
    bars(axes[0, 0], results.labels, list(map(results.degraded, results.labels)), "fp16, decay 0.01, after INT8")
    axes[0, 0].set_xticks(range(len(results.labels)), results.labels, rotation=40, ha="right", fontsize=7)
    published(axes[0, 0], [FP16_DECAY_001], [results.labels.index(PLAIN)])
    over_steps(axes[0, 1], results, results.labels, "over time")
    axes[0, 1].legend(frameon=False, fontsize=6)
    return drawn


def table(results: Results) -> list[dict[str, Any]]:
    lines = results.table()
    for line in lines:
        line["policy"] = results.variant(line["variant"]).policy
        line["skipped steps"] = int(results.training(line["variant"], "skipped_steps").sum())
    return lines


EXPERIMENT = Experiment(
    name="fp16_on_tpu",
    claim="fp16 degrades by where its arithmetic rounds: sums, products, LayerNorm, subnormals",
    paper="section 3.2, Infrastructure",
    variants=variants,
    judge=judge,
    draw=draw,
    table=table,
)
