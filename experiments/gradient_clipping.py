"""Gradient clipping (Figure 2c): without it, does INT8 cost more?

Claim: "gradient clipping shows a positive impact on the quantization performance"; it "counteracts the effects of a
small weight-decay value", and so the paper varies it at decay 0.001: none against a threshold of 1.

Rule, written before it was run: *reproduced* where, at decay 0.001, the loss of the models trained without clipping
rises by more under vector-wise INT8 than that of those clipped at 1, by the rule of ``experiments.judging``.  The
pair at decay 0.1 is drawn and not judged.  All rows are those of ``weight_decay``.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from experiments.drawing import bars, figure
from experiments.experiment import Experiment
from experiments.judging import Verdict, more, unless, untold
from experiments.results import Results
from experiments.variant import Variant
from experiments.weight_decay import CLIPS, label

DECAYS = (0.001, 0.1)
(NONE, _), (CLIPPED, _) = CLIPS
VARIANTS = [
    Variant(
        label=label(decay, clip),
        changes=(("optimizer.weight_decay", decay), ("optimizer.clip", norm)),
        control=label(decay, CLIPPED) if clip == NONE else None,
    )
    for decay in DECAYS
    for clip, norm in CLIPS
]


def judge(results: Results) -> Verdict:
    return unless(untold(results), lambda: more(results, label(DECAYS[0], NONE), label(DECAYS[0], CLIPPED)))


def draw(results: Results) -> Figure:
    drawn, axes = figure(len(DECAYS))
    for one, decay in zip(axes[0], DECAYS, strict=True):
        bars(one, [NONE, CLIPPED], [results.degraded(label(decay, clip)) for clip, _ in CLIPS], f"decay {decay:g}")
    return drawn


EXPERIMENT = Experiment(
    name="gradient_clipping",
    claim="clipping gradients in training lessens degradation by INT8 where weight decay is small",
    paper="Figure 2c",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
)
