"""Learning-rate decay: is it the falling rate, not the tokens, that makes a model hard to quantize?

Claim: the error of quantization after training rises as the learning rate decays, whatever the number of tokens; at a
constant rate it does not (arXiv 2510.06213; the paper trains with a cosine alone).

Rule, written before it was run: warm-up, stable, decay (``wsd``) and a constant rate are the same run until the last
tenth of the steps, so that what they differ by at the end is what decay did.  *Reproduced* where *wsd* degrades more
under vector-wise INT8 than *constant*, by the rule of ``experiments.judging``, and *cosine* does, too.  A lower loss
is what the decay is for: *constant* may lie apart before quantization, *wsd* not from *cosine*.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.drawing import COLOURS, figure, over_steps
from experiments.experiment import Experiment
from experiments.judging import Verdict, all_of, more, unless, untold
from experiments.results import Results
from experiments.variant import Variant
from qsim.config import OptimizerConfig, override_all
from qsim.schedules import learning_rate

COSINE, STABLE, CONSTANT = "cosine", "wsd", "constant"
LABELS = (COSINE, STABLE, CONSTANT)
VARIANTS = [
    Variant(label=name, changes=(("optimizer.schedule", name),), control=None if name == COSINE else COSINE)
    for name in LABELS
]


def judge(results: Results) -> Verdict:
    told = untold(results, except_for=(CONSTANT,))
    return unless(told, lambda: all_of([more(results, STABLE, CONSTANT), more(results, COSINE, CONSTANT)]))


def rates(results: Results, label: str) -> np.ndarray:
    """(S,) of every step, 1 to the last."""
    config = results.rows[label][0]["config"]
    optimizer = override_all(OptimizerConfig(), config["optimizer"].items())
    return np.array([learning_rate(optimizer, step, config["steps"]) for step in range(1, config["steps"] + 1)])


def draw(results: Results) -> Figure:
    drawn, axes = figure(3)
    over_steps(axes[0, 0], results, LABELS, "degradation by INT8")
    for number, label in enumerate(LABELS):
        found = rates(results, label)
        axes[0, 1].semilogy(np.arange(1, len(found) + 1), found, color=COLOURS[number], label=label)
        losses = [results.losses(label, step=step).mean() for step in results.steps]
        axes[0, 2].plot(results.steps, losses, marker="o", markersize=3, color=COLOURS[number], label=label)
    axes[0, 1].set(title="learning rate, logarithmic", xlabel="step", ylabel="learning rate")
    axes[0, 2].set(title="before quantization", xlabel="step", ylabel="held-out loss")
    for one in axes[0, 1:]:
        one.legend(frameon=False)
    return drawn


def table(results: Results) -> list[dict[str, Any]]:
    lines = results.table()
    for line in lines:
        early = results.steps[-2] if len(results.steps) > 1 else results.steps[-1]
        line[f"int8_vectorwise at step {early}, %"] = str(results.degraded(line["variant"], step=early))
        line["last learning rate"] = f"{rates(results, line['variant'])[-1]:.3g}"
    return lines


EXPERIMENT = Experiment(
    name="learning_rate_decay",
    claim="it is the decay of the learning rate that makes models degrade by INT8",
    paper="beyond it: section 3.2, cosine schedule",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
    table=table,
)
