"""Scale (Figure 1): does degradation by INT8 grow with the model, or does the recipe decide?

Claim: models of 410M to 52B trained by the recommended recipe (bf16, weight decay 0.1, clipped at 1, no dropout) show
"minimal degradation"; the cliffs that OPT has from 6B on are "not an inherent product of scale".

Rule, written before it was run, for a ladder of a quarter, a half, three quarters and all of a preset's depth and
width: *reproduced* where the largest model of the recommended recipe degrades by at most 0.06 percentage points more
than the smallest (the 95 % interval of the difference lies below: what the paper calls no notable difference); *not
reproduced* where the interval lies above; cannot be told otherwise, or where ``experiments.judging`` says so.  The
same ladder of fp16 with decay 0.01 is drawn beside it and not judged.  All are trained over as many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterMathtext, LogLocator

from experiments.comparable import part
from experiments.compared import degradation_of
from experiments.drawing import COLOURS, DEGRADATION, figure, notable
from experiments.experiment import Experiment
from experiments.judging import NOT_REPRODUCED, NOTABLE, REPRODUCED, UNTOLD, Verdict, unless, untold
from experiments.published import SCALE
from experiments.quantizing import INT8
from experiments.results import Results
from experiments.scales import Scale
from experiments.statistics import interval
from experiments.variant import Variant
from qsim.config import ModelConfig, override_all

PARTS = (0.25, 0.5, 0.75, 1.0)
RECIPES = {"bf16, decay 0.1": ("bf16", 0.1), "fp16, decay 0.01": ("fp16", 0.01)}
GOOD, BAD = RECIPES


def label(part: float, recipe: str) -> str:
    return f"{recipe}, {part:.0%} of the size"


def sizes(scale: Scale, part: float) -> tuple[tuple[str, Any], ...]:
    """Depth, width and heads of a part of the preset's; width of a head as it is there where it comes out even."""
    whole = scale.config.model
    hidden, most = max(1, round(whole.hidden * part)), max(1, round(whole.heads * part))
    heads = next(number for number in range(most, 0, -1) if hidden % number == 0)
    layers = max(1, round(whole.layers * part))
    return ("model.layers", layers), ("model.hidden", hidden), ("model.heads", heads)


def variants(scale: Scale) -> list[Variant]:
    return [
        Variant(
            label=label(one, recipe),
            changes=(("optimizer.weight_decay", decay), ("optimizer.clip", 1.0), *sizes(scale, one)),
            policy=policy,
            control=None if recipe == GOOD else label(one, GOOD),
        )
        for recipe, (policy, decay) in RECIPES.items()
        for one in PARTS
    ]


def judge(results: Results) -> Verdict:
    ladder = [label(one, GOOD) for one in PARTS]
    return unless(untold(part(results, ladder)), lambda: _judged(results, ladder))


def _judged(results: Results, ladder: list[str]) -> Verdict:
    largest, smallest = results.degradation(ladder[-1]), results.degradation(ladder[0])
    found = interval(largest - smallest)
    reason = f"{ladder[-1]} minus {ladder[0]}: {found} points"
    if found.low is None or found.high is None:
        return Verdict(outcome=UNTOLD, reason=reason)
    if found.high < NOTABLE:
        return Verdict(outcome=REPRODUCED, reason=reason)
    return Verdict(outcome=NOT_REPRODUCED if found.low > NOTABLE else UNTOLD, reason=reason)


def parameters(results: Results, name: str) -> int:
    return override_all(ModelConfig(), results.rows[name][0]["config"]["model"].items()).parameters


def draw(results: Results) -> Figure:
    drawn, axes = figure(3, width=3.8, height=3.2)
    for number, recipe in enumerate(RECIPES):
        ladder = [label(one, recipe) for one in PARTS]
        across = [parameters(results, name) for name in ladder]
        found = [results.degraded(name) for name in ladder]
        axes[0, 0].plot(across, [one.mean for one in found], marker="o", color=COLOURS[number], label=recipe)
        for x, one in zip(across, found, strict=True):
            axes[0, 0].vlines(x, one.low or one.mean, one.high or one.mean, color=COLOURS[number], linewidth=1)
        for scheme, style in (("pre", "-"), (INT8, ":")):
            losses = [results.losses(name, scheme).mean() for name in ladder]
            name = f"{recipe}, {'before' if scheme == 'pre' else 'after INT8'}"
            axes[0, 1].plot(across, losses, style, marker="o", markersize=3, color=COLOURS[number], label=name)
    axes[0, 0].axhline(0, color="black", linewidth=0.6)
    notable(axes[0, 0])
    axes[0, 0].set(title="degradation against size", ylabel=DEGRADATION)
    axes[0, 1].set(title="loss before and after", ylabel="held-out loss")
    _published(axes[0, 2])
    for one in axes[0]:
        one.set_xscale("log")
        one.set_xlabel("parameters")
    across = [parameters(results, label(one, GOOD)) for one in PARTS]
    for one in axes[0, :2]:
        one.set_xticks(across, [_short(count) for count in across], rotation=45)
        one.set_xticks([], minor=True)
        one.legend(frameon=False, loc="best", fontsize=6)
    return drawn


def _short(count: int) -> str:
    """Three figures and a unit."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def compare(drawn: Figure, _: Results, models: Sequence[Path]) -> None:
    """Squares: models of others, on text that they read."""
    for number, path in enumerate(models, start=len(RECIPES)):
        count, before, after, increase = degradation_of(path)
        style: dict[str, Any] = {"marker": "s", "color": COLOURS[number % len(COLOURS)], "linestyle": "none"}
        drawn.axes[0].plot([count], [increase], label=path.name, **style)
        low, high = drawn.axes[0].get_ylim()
        drawn.axes[0].set_ylim(min(low, 1.1 * increase), max(high, 1.1 * increase))
        drawn.axes[1].plot([count], [before], label=f"{path.name}, before", **style)
        drawn.axes[1].plot([count], [after], label="after INT8", fillstyle="none", **style)
    for one in drawn.axes[:2]:
        one.xaxis.set_major_locator(LogLocator())  # sizes of the ladder would stand on top of each other
        one.xaxis.set_major_formatter(LogFormatterMathtext())
        one.legend(frameon=False, loc="best", fontsize=6)


def _published(axes: Any) -> None:
    """Hollow, and apart: accuracies of other tasks, of models a thousand times as large."""
    for name, (count, number) in SCALE.items():
        axes.scatter([count], [number.value], s=36, facecolors="none", edgecolors="black", marker="D")
        axes.annotate(name, (count, number.value), (0, 8), textcoords="offset points", ha="center")
    axes.set(title="published (hollow)", ylabel="accuracy lost, %", ylim=(-2, 50), xlim=(1e9, 3e11))


def table(results: Results) -> list[dict[str, Any]]:
    lines = results.table()
    for line in lines:
        line["parameters"] = parameters(results, line["variant"])
    return lines


EXPERIMENT = Experiment(
    name="scale",
    claim="with the recommended recipe degradation by INT8 does not grow with the model",
    paper="Figure 1",
    variants=variants,
    judge=judge,
    draw=draw,
    table=table,
    compare=compare,
)
