"""Half precision (Figure 3): training in fp16 against bf16, with weight decay 0.1 and 0.01, at the end and over time.

Claim: "fp16 training consistently leads to models which are far more sensitive to post-training quantization", and a
small weight decay amplifies it: 1.73 % mean decrease of accuracy for fp16 with decay 0.01.

Rule, written before it was run: *reproduced* where, by the rule of ``experiments.judging`` and at the last step,
fp16 degrades more than bf16 under vector-wise INT8 at either weight decay, and fp16 with decay 0.01 more than fp16
with 0.1.  The curves over steps are drawn and not judged.  LayerNorm is float32 inside in every variant, the loss
scale of fp16 dynamic.

The table has beside them, as ratios to bf16 of the same decay, what the paper's section 5 explains it by: RMSE of the
INT8 input of ``attn-kqv-proj``, STD(g) of the LayerNorm before it, spectral norm of its weight; means over layers.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from experiments.drawing import bars, figure, over_steps, published
from experiments.experiment import Experiment
from experiments.judging import Verdict, all_of, more, unless, untold
from experiments.published import FP16_DECAY_001, FP16_OVER_BF16
from experiments.results import Results
from experiments.variant import Variant

FORMATS = ("bf16", "fp16")
DECAYS = (0.1, 0.01)
LABELS = [f"{fmt}, decay {decay:g}" for decay in DECAYS for fmt in FORMATS]
PAIRS = (("fp16, decay 0.1", "bf16, decay 0.1"), ("fp16, decay 0.01", "bf16, decay 0.01"))
AMPLIFIED = ("fp16, decay 0.01", "fp16, decay 0.1")


CONTROLS = {"bf16, decay 0.01": "bf16, decay 0.1", **dict(PAIRS)}
VARIANTS = [
    Variant(
        label=f"{fmt}, decay {decay:g}",
        changes=(("optimizer.weight_decay", decay), ("optimizer.clip", 1.0)),
        policy=fmt,
        control=CONTROLS.get(f"{fmt}, decay {decay:g}"),
    )
    for decay in DECAYS
    for fmt in FORMATS
]


def judge(results: Results) -> Verdict:
    return unless(untold(results), lambda: all_of([more(results, *pair) for pair in (*PAIRS, AMPLIFIED)]))


def draw(results: Results) -> Figure:
    drawn, axes = figure(2)
    bars(
        axes[0, 0], [label.replace(", ", "\n") for label in LABELS], list(map(results.degraded, LABELS)), "at the end"
    )
    published(axes[0, 0], [FP16_DECAY_001], [LABELS.index("fp16, decay 0.01")])
    over_steps(axes[0, 1], results, LABELS, "over time")
    return drawn


def table(results: Results) -> list[dict[str, Any]]:
    lines = results.table()
    below = dict(PAIRS)
    for line in lines:
        base = below.get(line["variant"])
        for name in FP16_OVER_BF16:
            mine = results.metric(line["variant"], name).mean()
            line[f"{name}, times bf16"] = None if base is None else f"{mine / results.metric(base, name).mean():.2f}"
    return lines


EXPERIMENT = Experiment(
    name="half_precision",
    claim="training in fp16 makes models more sensitive to INT8 than bf16, the more so with little weight decay",
    paper="Figure 3",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
    table=table,
)
