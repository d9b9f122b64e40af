"""Formats beside the paper's two: what training in fp8, tf32, INT8 or stochastically rounded bf16 leaves behind.

Claim: a model whose linear layers were INT8 in training, forward and backward, has learned to live with INT8 and
degrades less by it than one trained in bf16 (a hypothesis that is not the paper's).

Rule, written before it was run: *reproduced* where bf16 degrades more under vector-wise INT8 than INT8 training does,
by the rule of ``experiments.judging``.  fp8, tf32, bf16 without a master copy written back stochastically, and fp16
are drawn beside them and not judged; they may lie apart.

All are used in 16 bits before quantization: fp16 in fp16, the others in bf16.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from experiments.comparable import part
from experiments.drawing import bars, figure, over_steps
from experiments.experiment import Experiment
from experiments.judging import Verdict, more, unless, untold
from experiments.results import Results
from experiments.variant import Variant

BF16, INTEGERS = "bf16", "INT8 training"
POLICIES = {INTEGERS: "int8-train", "fp16": "fp16", "fp8": "fp8", "tf32": "tf32", "bf16, stochastic": "bf16-sr"}
VARIANTS = [
    Variant(label=BF16),
    *(Variant(label=label, policy=policy, control=BF16) for label, policy in POLICIES.items()),
]


def judge(results: Results) -> Verdict:
    return unless(untold(part(results, [BF16, INTEGERS])), lambda: more(results, BF16, INTEGERS))


def draw(results: Results) -> Figure:
    drawn, axes = figure(2, width=4.2, height=3.2)
    bars(axes[0, 0], results.labels, list(map(results.degraded, results.labels)), "at the end")
    over_steps(axes[0, 1], results, results.labels, "over time")
    return drawn


def table(results: Results) -> list[dict[str, Any]]:
    lines = results.table()
    for line in lines:
        label = line["variant"]
        line |= {name: f"{results.metric(label, name).mean():.4g}" for name in ("rmse", "std_gain", "spectral_norm")}
    return lines


EXPERIMENT = Experiment(
    name="formats",
    claim="INT8 training degrades less by INT8 than training in bf16; fp8, tf32, stochastic bf16 beside it",
    paper="beyond it: other formats for Figure 3",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
    table=table,
)
