"""Weights and gains (Figure 4): their distributions by block, fp16 beside bf16.

Claim: "the fp16 variant has a significantly wider distribution compared to bf16" of the weights of ``attn-kqv-proj``;
gains of the LayerNorm before it "can significantly vary in distribution shape".

Rule, written before it was run: *reproduced* where at weight decay 0.1 the ratio fp16 over bf16 of the standard
deviation of those weights, blocks and seeds drawn anew, has its 95 % interval above 1.05; *not reproduced* where it
lies below 1.05; cannot be told otherwise, or where ``experiments.judging`` says so.  Gains are drawn and not judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.compared import analysis_of
from experiments.drawing import COLOURS, figure, key_below, say
from experiments.experiment import Experiment
from experiments.half_precision import LABELS, PAIRS, VARIANTS
from experiments.judging import Verdict, ratio_verdict, unless, untold
from experiments.results import Results

PANELS = (("weights", "qkv.weight", "attn-kqv-proj"), ("gains", "layernorm_1.gain", "gain of the LayerNorm before"))
BLOCKS = 6  # drawn at most, spread evenly


def judge(results: Results) -> Verdict:
    return unless(
        untold(results), lambda: ratio_verdict(results, *PAIRS[0], "weight_std", "standard deviation of the weights")
    )


def histograms(results: Results, label: str, kind: str, tensor: str) -> list[dict[str, Any]]:
    """By block, of the first seed; none of a model that is not finite."""
    last = results.rows[label][0]["checkpoints"][str(results.steps[-1])]
    return sorted((one for one in last.get(kind, []) if one["tensor"] == tensor), key=lambda one: one["layer"])


def blocks(results: Results) -> list[int]:
    count = results.metric(LABELS[0], "rmse").shape[1]
    return sorted(set(np.linspace(0, count - 1, min(BLOCKS, count)).round().astype(int).tolist()))


def draw(results: Results) -> Figure:
    shown = blocks(results)
    drawn, axes = figure(len(shown), width=max(2.5, 6 / len(shown)), height=2.3, rows=len(PANELS))
    for row, (kind, tensor, words) in zip(axes, PANELS, strict=True):
        for one, block in zip(row, shown, strict=True):
            for number, label in enumerate(LABELS):
                for found in histograms(results, label, kind, tensor)[block : block + 1]:
                    _density(one, found["low"], found["high"], found["counts"], COLOURS[number], label)
            one.set(title=f"block {block}: {words}", yticks=[])
            one.title.set_fontsize(7)
            one.xaxis.set_major_locator(MaxNLocator(nbins=4))
    key_below(drawn, axes[0, 0])
    return drawn


def _density(axes: Any, low: float, high: float, counts: Sequence[int], colour: str, label: str, **more: Any) -> None:
    """In some 20 bins where values are few, as gains are, and in up to all where they are many."""
    total, edges = max(1, sum(counts)), np.linspace(low, high, len(counts) + 1)
    first = np.arange(0, len(counts), max(1, len(counts) // max(20, total // 100)))
    edges = np.append(edges[first], edges[-1])
    density = np.add.reduceat(np.asarray(counts), first) / total / np.diff(edges)
    axes.stairs(density, edges, color=colour, label=label, linewidth=0.9, **more)


def compare(drawn: Figure, results: Results, models: Sequence[Path]) -> None:
    """Dashed, from the block at the same part of their depth."""
    shown = blocks(results)
    depth = max(1, results.metric(LABELS[0], "rmse").shape[1] - 1)
    axes = np.array(drawn.axes[: len(PANELS) * len(shown)]).reshape(len(PANELS), len(shown))
    for number, path in enumerate(models, start=len(LABELS)):
        found = analysis_of(path)
        for row, (_, tensor, _) in zip(axes, PANELS, strict=True):
            own = [one for one in found.histograms if one.tensor == tensor and one.layer is not None]
            for one, block in zip(row, shown, strict=True):
                their = own[round(block / depth * (len(own) - 1))]
                colour = COLOURS[number % len(COLOURS)]
                _density(one, their.low, their.high, their.counts, colour, found.model, linestyle="--")
    key_below(drawn, axes[0, 0])
    say(drawn, "dashed: models of others, from the block at the same part of their depth")


def table(results: Results) -> list[dict[str, Any]]:
    lines = []
    below = dict(PAIRS)
    for label in results.labels:
        line: dict[str, Any] = {"variant": label}
        for name in ("weight_std", "weight_kurtosis", "weight_infinity_norm", "std_gain"):
            line[name] = f"{results.metric(label, name).mean():.4g}"
            over = below.get(label)
            line[f"{name}, times bf16"] = None if over is None else results.ratio(label, over, name).plain
        lines.append(line)
    return lines


EXPERIMENT = Experiment(
    name="weights",
    claim="training in fp16 leaves wider distributions of weights than bf16",
    paper="Figure 4",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
    table=table,
    compare=compare,
)
