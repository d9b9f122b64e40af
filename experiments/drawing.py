"""Pieces of the pictures: bars with intervals, degradation over steps, published numbers drawn hollow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.judging import NOTABLE
from experiments.published import Published
from experiments.quantizing import INT8
from experiments.results import Results
from experiments.statistics import Interval

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")
DEGRADATION = "increase of held-out loss, %"
SMALL, LETTERS = 32, 48  # letters of labels side by side, above which they are small, slanted
READ = "whiskers, bands: 95 % intervals; shaded: within 0.06, not notable"


def figure(columns: int, width: float = 3.4, height: float = 2.8, rows: int = 1) -> tuple[Figure, Any]:
    """A figure and its axes, (rows, columns)."""
    drawn = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return drawn, drawn.subplots(rows, columns, squeeze=False)


def bars(axes: Axes, labels: Sequence[str], intervals: Sequence[Interval], title: str) -> None:
    """A bar a variant, its bootstrap interval as a whisker, on no finer a scale than what is notable at all."""
    for place, found in enumerate(intervals):
        axes.bar(place, found.mean, width=0.6, color=COLOURS[place % len(COLOURS)])
        if found.low is not None and found.high is not None:
            axes.plot([place, place], [found.low, found.high], color="black", linewidth=1)
    letters = max((len(line) for label in labels for line in label.split("\n")), default=0)
    slanted: dict[str, Any] = (
        {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if letters * len(labels) > LETTERS else {}
    )
    axes.set_xticks(range(len(labels)), labels, fontsize=7 if letters * len(labels) > SMALL else 8, **slanted)
    axes.axhline(0, color="black", linewidth=0.6)
    notable(axes)
    axes.set_title(title)
    axes.set_ylabel(DEGRADATION)


def notable(axes: Axes) -> None:
    """Shade what lies within 0.06 points of 0, which the paper calls no notable difference, and show all of it."""
    axes.axhspan(-NOTABLE, NOTABLE, color="grey", alpha=0.12, linewidth=0, zorder=0)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -1.1 * NOTABLE), max(high, 1.1 * NOTABLE))
    axes.figure.supxlabel(READ, fontsize=6)


def over_steps(axes: Axes, results: Results, labels: Sequence[str], title: str, scheme: str = INT8) -> None:
    """Degradation of every checkpoint that was measured, with its interval as a band."""
    for number, label in enumerate(labels):
        found = [results.degraded(label, scheme, step) for step in results.steps]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(results.steps, [one.mean for one in found], marker="o", markersize=3, color=colour, label=label)
        if all(one.low is not None for one in found):
            low, high = [one.low for one in found], [one.high for one in found]
            axes.fill_between(results.steps, low, high, color=colour, alpha=0.15, linewidth=0)  # type: ignore[arg-type]
    axes.set_xlabel("step")
    axes.set_ylabel(DEGRADATION)
    axes.set_title(title)
    notable(axes)
    axes.legend(frameon=False, fontsize=6)


def key_below(drawn: Figure, axes: Axes) -> None:
    """One key for all axes, outside of them: what these axes have labels of."""
    for older in list(drawn.legends):
        older.remove()
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=7)


def say(drawn: Figure, words: str) -> None:
    """Below the picture, behind what is said there."""
    drawn.supxlabel("; ".join(filter(None, [drawn.get_supxlabel(), words])), fontsize=6)


def from_zero(axes: Axes) -> None:
    """Values from 0, blocks as whole numbers."""
    from matplotlib.ticker import MaxNLocator

    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    drawn = drawn[np.isfinite(drawn)]
    axes.set_ylim(0, 1.1 * float(drawn.max(initial=0.0)) or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def published(axes: Axes, numbers: Sequence[Published], places: Sequence[float]) -> None:
    """The paper's numbers, hollow, on an axis of their own with 0 where ours is: of accuracies, ours of losses."""
    other = axes.twinx()
    other.scatter(places, [one.value for one in numbers], s=36, facecolors="none", edgecolors="black", marker="D")
    low, high = axes.get_ylim()
    top = 1.1 * max(one.value for one in numbers)
    other.set_ylim(top * low / high, top)
    other.set_ylabel("published (hollow): accuracy lost, %")
