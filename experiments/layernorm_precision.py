"""LayerNorm's precision (section 3.2): does fp16 train at all where LayerNorm's arithmetic is fp16, too?

Claim: "we experimented with a variant by switching layernorm arithmetic from fp16 to fp32 for better numeric
stability.  Without layernorm arithmetic being in fp32, the training was unable to converge."

Rule, written before it was run: *reproduced* where, in every seed, the model with LayerNorm in fp16 ends with a loss
that is no number or above 0.8 of the unigram entropy of the text, and the one with LayerNorm in float32 does not.
*Not reproduced* where in every seed it ends within 2 % of the one with float32 inside.  Cannot be told otherwise,
with fewer than three seeds, or where the model with float32 inside learned too little itself.  Degradation by INT8
is shown beside it and not judged.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.drawing import COLOURS, bars, figure
from experiments.experiment import Experiment
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD, Verdict
from experiments.results import CLOSE, LEARNED, Results
from experiments.statistics import FEWEST_SEEDS
from experiments.variant import Variant

STYLES = ("-", "--")  # they may lie on one another
WIDE, NARROW = "LayerNorm in float32", "LayerNorm in fp16"
VARIANTS = [Variant(label=WIDE, policy="fp16"), Variant(label=NARROW, policy="fp16-ln16", control=WIDE)]


def judge(results: Results) -> Verdict:
    wide, narrow = (results.losses(label).mean(axis=1) for label in (WIDE, NARROW))
    limit = LEARNED * results.rows[WIDE][0]["unigram_entropy"]
    reason = f"losses of {len(wide)} seed(s): {_listed(narrow)} with LayerNorm in fp16, {_listed(wide)} in float32"
    if len(wide) < FEWEST_SEEDS or not (wide <= limit).all():
        return Verdict(outcome=UNTOLD, reason=f"{reason}; it takes {FEWEST_SEEDS}, the latter at most {limit:.3f}")
    if not (narrow <= limit).any():
        return Verdict(outcome=REPRODUCED, reason=reason)
    close = np.abs(narrow / wide - 1) <= CLOSE
    return Verdict(outcome=NOT_REPRODUCED if close.all() else UNTOLD, reason=reason)


def _listed(losses: np.ndarray) -> str:
    return ", ".join(f"{loss:.4f}" for loss in losses)


def draw(results: Results) -> Figure:
    drawn, axes = figure(2)
    for number, label in enumerate(results.labels):
        for row in results.rows[label]:
            losses = {int(step): loss for step, loss in row["training"]["losses"].items()}
            axes[0, 0].plot(
                list(losses), list(losses.values()), color=COLOURS[number], linewidth=1, linestyle=STYLES[number]
            )
        axes[0, 0].plot([], [], color=COLOURS[number], linestyle=STYLES[number], label=label)
    axes[0, 0].set(xlabel="step", ylabel="training loss", title="does it train?")
    axes[0, 0].legend(frameon=False)
    bars(axes[0, 1], [WIDE, NARROW], list(map(results.degraded, results.labels)), "after training: INT8")
    return drawn


EXPERIMENT = Experiment(
    name="layernorm_precision",
    claim="fp16 does not train where LayerNorm's arithmetic is fp16",
    paper="section 3.2, Training details",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
)
