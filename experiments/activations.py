"""Activations (Figure 5): RMSE, STD, STD(g) and spectral norm by block, fp16 beside bf16.

Claim: what enters ``attn-kqv-proj`` has in the fp16 variant 6.9 times bf16's RMSE under INT8 and a far higher
standard deviation by token; the gain of the LayerNorm before it spreads twice as much; its weight's spectral norm is
four times as large.

Rule, written before it was run: *reproduced* where at weight decay 0.1 the ratio fp16 over bf16 of each of the four,
blocks and seeds drawn anew, has its 95 % interval above 1.05; *not reproduced* where one's lies below 1.05; cannot be
told otherwise, or where ``experiments.judging`` says so.  Decay 0.01 and the MLP's first layer are drawn and not
judged.  All blocks are shown, where the paper shows one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.compared import analysis_of
from experiments.drawing import COLOURS, figure, from_zero, key_below, say
from experiments.experiment import Experiment
from experiments.half_precision import LABELS, PAIRS, VARIANTS
from experiments.judging import Verdict, all_of, ratio_verdict, unless, untold
from experiments.published import FP16_OVER_BF16
from experiments.results import Results

METRICS = {
    "rmse": "RMSE(X, X^)",
    "std": "mean STD of a token",
    "std_gain": "STD(g)",
    "spectral_norm": "spectral norm",
}
SITES = {"qkv": "attn-kqv-proj", "mlp_up": "outer-expander-mlp"}
HELD = {"rmse": "rmse", "std": "token_std", "std_gain": "gain_std"}  # fields of the analysis


def judge(results: Results) -> Verdict:
    told = untold(results)
    return unless(
        told, lambda: all_of([ratio_verdict(results, *PAIRS[0], name, words) for name, words in METRICS.items()])
    )


def draw(results: Results) -> Figure:
    drawn, axes = figure(len(METRICS), width=2.7, height=2.5, rows=len(SITES))
    for row, (site, paper) in zip(axes, SITES.items(), strict=True):
        for one, (name, words) in zip(row, METRICS.items(), strict=True):
            for number, label in enumerate(LABELS):
                found = results.metric(label, name, site)
                style = {"color": COLOURS[number], "marker": "o", "markersize": 3}
                one.plot(range(found.shape[1]), found.mean(axis=0), label=label, **style)
            one.set(title=f"{words}\n{paper}", xlabel="block")
            from_zero(one)
    key_below(drawn, axes[0, 0])
    return drawn


def compare(drawn: Figure, results: Results, models: Sequence[Path]) -> None:
    """Dashed, their blocks spread over ours."""
    last = results.metric(LABELS[0], "rmse").shape[1] - 1
    axes = np.array(drawn.axes[: len(SITES) * len(METRICS)]).reshape(len(SITES), len(METRICS))
    for number, path in enumerate(models, start=len(LABELS)):
        found = analysis_of(path)
        places = np.linspace(0, last, found.layers)
        for row, site in zip(axes, SITES, strict=True):
            for one, name in zip(row, METRICS, strict=True):
                if name == "spectral_norm":
                    values: list[Any] = [each.spectral_norm for each in found.weights_of(f"{site}.weight")]
                else:
                    values = [getattr(each, HELD[name]) for each in found.inputs_of(site)]
                one.plot(
                    places,
                    values,
                    linestyle="--",
                    marker="x",
                    markersize=3,
                    color=COLOURS[number % len(COLOURS)],
                    label=found.model,
                )
    for one in axes.flat:
        from_zero(one)
    key_below(drawn, axes[0, 0])
    say(drawn, "dashed: models of others, their blocks spread over ours")


def table(results: Results) -> list[dict[str, Any]]:
    """A line a metric, site and weight decay, with the paper's ratio where it states one."""
    lines = []
    for site, paper in SITES.items():
        for name, words in METRICS.items():
            line: dict[str, Any] = {"metric": words, "site": paper}
            for fp16, bf16 in PAIRS:
                above = results.metric(fp16, name, site) > results.metric(bf16, name, site)
                line[f"{fp16} over {bf16}"] = results.ratio(fp16, bf16, name, site).plain
                line[f"blocks above, {fp16}"] = f"{above.mean():.0%}"
            told = FP16_OVER_BF16.get(name) if site == "qkv" else None
            lines.append(line | {"the paper's": None if told is None else f"{told.value:g}"})
    return lines


EXPERIMENT = Experiment(
    name="activations",
    claim="fp16 leaves activations, gains and weights that INT8 meets with larger errors than bf16's",
    paper="Figure 5",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
    table=table,
    compare=compare,
)
