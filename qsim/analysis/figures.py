"""The pictures of an analysis, laid out like Figures 4 and 5 of the paper, every model in its colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qsim.analysis.results import PAPER_NAMES, Analysis
from qsim.analysis.ridges import blocks_of, fill_ridges, numbers_of_ridges
from qsim.report.curves import label_decimals
from qsim.report.numbers import Numbers
from qsim.report.sheet import INK, MUTED, WIDE, Figure, Sheet, Style, draw, key_height, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["figures"]

Curve = Callable[[Analysis], Sequence[tuple[int, float]]]  # (block, value)
Panel = tuple[str, str, Curve]  # what, where, and the values
Filled = tuple[str, str, Callable[["Axes"], None]]
_SQNR = "SQNR in dB"
_SITES = ("qkv", "mlp_up", "attention_out", "mlp_down")


def figures(analyses: Sequence[Analysis], block: int | None = None) -> list[Figure]:
    """In the order of the page; block: the example of the distributions, the middle one by default."""
    styles = [series(i) for i in range(len(analyses))]
    number = min(one.layers for one in analyses) // 2 if block is None else block
    return [
        _by_block(analyses, styles, "figure5", "Quantization error and its companions by block", _figure5()),
        _all_distributions(analyses, styles),
        _distributions(analyses, styles, number),
        _by_block(analyses, styles, "sites", "Error and tails at all four sites by block", _all_sites()),
        _by_block(analyses, styles, "outputs", "Largest and median magnitude of what blocks give out", _outputs()),
        _outliers(analyses, styles),
    ]


# Curves by block: Figure 5


def _input(site: str, metric: str) -> Curve:
    return lambda one: [(row.layer, getattr(row, metric)) for row in one.inputs_of(site)]


def _weight(site: str) -> Curve:
    return lambda one: [(row.layer, row.spectral_norm) for row in one.weights_of(f"{site}.weight")]


def _gain(norm: str) -> Curve:
    return lambda one: [(row.layer, row.std) for row in one.gains_of(norm) if row.layer is not None]


def _figure5() -> list[Panel]:
    panels: list[Panel] = []
    for site, norm in (("qkv", "layernorm_1"), ("mlp_up", "layernorm_2")):
        name = PAPER_NAMES[site]
        panels += [
            ("RMSE(X, X^)", name, _input(site, "rmse")),
            ("mean STD of a token", name, _input(site, "token_std")),
            ("STD(g)", f"{norm} before {name}", _gain(norm)),
            ("spectral norm of W", name, _weight(site)),
        ]
    return panels


def _all_sites() -> list[Panel]:
    metrics = ((_SQNR, "sqnr_db"), ("kurtosis", "kurtosis"), ("infinity norm", "infinity_norm"))
    return [(words, f"{site}.input", _input(site, metric)) for words, metric in metrics for site in _SITES]


def _outputs() -> list[Panel]:
    return [
        ("largest magnitude", "block output", lambda one: [(row.layer, row.infinity_norm) for row in one.outputs]),
        ("median magnitude", "block output", lambda one: [(row.layer, row.median) for row in one.outputs]),
    ]


def _by_block(
    analyses: Sequence[Analysis], styles: Sequence[Style], name: str, label: str, panels: Sequence[Panel]
) -> Figure:
    rows = [
        (what, where, one.model, block, value)
        for what, where, curve in panels
        for one in analyses
        for block, value in curve(one)
    ]
    numbers = Numbers(columns=("figure", "place", "model", "block", "value"), rows=rows)

    def panel(axes: Axes, what: str, curve: Curve) -> None:
        for i, (one, style) in enumerate(zip(analyses, styles, strict=True)):
            _line(axes, curve(one), style, width=1.4 + min(len(analyses) - 1 - i, 3))
        _scale(axes, decibels=what == _SQNR)
        axes.set_xlabel("block", color=INK, labelpad=2)

    drawn: list[Filled] = [(what, where, partial(panel, what=what, curve=curve)) for what, where, curve in panels]
    return draw(name, label, numbers, lambda width: _grid(analyses, styles, drawn, width), pixels=True)


def _line(axes: Axes, points: Sequence[tuple[int, float]], style: Style, *, width: float) -> None:
    """Wider than those to be drawn over it, so that it is seen where they coincide."""
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(points) <= 40 else {}
    blocks, values = ([point[i] for point in points] for i in range(2))
    axes.plot(blocks, [v if math.isfinite(v) else math.nan for v in values], linewidth=width, **marker, **style)


def _scale(axes: Axes, *, decibels: bool) -> None:
    """Whole blocks; values from zero, or logarithmic beyond a factor of 30; decibels as they lie."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    drawn = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axes.lines])
    drawn = drawn[np.isfinite(drawn)]
    if decibels:
        axes.margins(y=0.12)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    elif drawn.size and drawn.min() > 0 and drawn.max() / drawn.min() > 30:
        _logarithmic(axes)
    elif drawn.size and drawn.min() >= 0:
        axes.set_ylim(0, drawn.max() * 1.08 or 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    label_decimals(axes)


def _grid(
    analyses: Sequence[Analysis],
    styles: Sequence[Style],
    panels: Sequence[Filled],
    width: int,
    height: float | None = None,
) -> Sheet:
    """Panels side by side, four on a desk (two where there are only two), one on a phone, under one key."""
    names, wide = [one.model for one in analyses], width == WIDE
    across = min(len(panels), 4) if wide else 1
    left, gap, foot = 46.0, 18.0, 58.0
    if height is None:
        height = 200.0 if across == 2 else 150.0 if wide else 140.0
    head = 10 + key_height(names, width - 8)
    each = (width - 8 - gap * (across - 1)) / across
    sheet = Sheet(width, head + math.ceil(len(panels) / across) * (height + foot + 34))
    sheet.key(4, 10, list(zip(names, styles, strict=True)), room=width - 8)
    for i, (what, where, fill) in enumerate(panels):
        x, top = 4 + (i % across) * (each + gap), head + (i // across) * (height + foot + 34)
        sheet.text(x, top + 8, what, weight="bold")
        sheet.text(x, top + 23, where, color=MUTED, size=11)
        axes = sheet.axes(x + left, top + 38, each - left, height)
        fill(axes)
    return sheet


# Distributions: Figure 4

_TENSORS = ("qkv.weight", "layernorm_1.gain", "mlp_up.weight", "layernorm_2.gain")


def _all_distributions(analyses: Sequence[Analysis], styles: Sequence[Style]) -> Figure:
    """Of weights and gains of every block, a ridge each, the first block on top."""
    ridges = {
        tensor: [(row, style) for one, style in zip(analyses, styles, strict=True) for row in blocks_of(one, tensor)]
        for tensor in _TENSORS
    }
    drawn: list[Filled] = [
        (
            _density(tensor),
            _where(tensor, "every block"),
            partial(fill_ridges, rows=rows),
        )
        for tensor, rows in ridges.items()
    ]
    height = 40 + 15.0 * max(one.layers for one in analyses)
    label = "Weights and gains of every block"
    numbers = numbers_of_ridges(analyses, _TENSORS)
    return draw("figure4", label, numbers, lambda width: _grid(analyses, styles, drawn, width, height), pixels=True)


def _density(tensor: str) -> str:
    return "density of weights W" if tensor.endswith(".weight") else "density of gains g"


def _distributions(analyses: Sequence[Analysis], styles: Sequence[Style], block: int) -> Figure:
    """Of weights and gains of one block, one model over the other."""
    label = f"Weights and gains of block {block}"
    numbers = Numbers(columns=("tensor", "model", "low", "high", "density"), rows=list(_bins(analyses, block)))

    def panel(axes: Axes, tensor: str) -> None:
        from matplotlib.ticker import MaxNLocator

        for one, style in zip(analyses, styles, strict=True):
            for row in one.histograms:
                if (row.layer, row.tensor) == (block, tensor):
                    axes.stairs(row.density, row.edges, linewidth=1.3, **style)
        if tensor.endswith(".weight"):
            _logarithmic(axes)
        else:
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_xlabel("value", color=INK, labelpad=2)
        axes.tick_params(axis="y", labelcolor=MUTED)

    drawn: list[Filled] = [
        (_density(tensor), _where(tensor, f"block {block}"), partial(panel, tensor=tensor)) for tensor in _TENSORS
    ]
    return draw("block", label, numbers, lambda width: _grid(analyses, styles, drawn, width), pixels=True)


def _where(tensor: str, blocks: str) -> str:
    place = tensor.rpartition(".")[0]
    return f"{PAPER_NAMES.get(place, place)}, {blocks}"


def _bins(analyses: Sequence[Analysis], block: int) -> Iterator[tuple[Any, ...]]:
    for one in analyses:
        for row in one.histograms:
            if row.layer == block:
                edges = row.edges.tolist()
                for low, high, density in zip(edges, edges[1:], row.density.tolist(), strict=False):
                    yield row.tensor, one.model, low, high, density


# Outlier dimensions over thresholds


def _outliers(analyses: Sequence[Analysis], styles: Sequence[Style]) -> Figure:
    """The most and the fewest dimensions that any reading finds, by threshold."""
    rows = [(one.model, row.reading, row.threshold, row.count) for one in analyses for row in one.outliers]
    numbers = Numbers(columns=("model", "reading", "threshold", "dimensions"), rows=rows)

    def panel(axes: Axes, choose: Callable[[Sequence[float]], float]) -> None:
        from matplotlib.ticker import MaxNLocator

        for one, style in zip(analyses, styles, strict=True):
            thresholds = sorted({row.threshold for row in one.outliers})
            found = [choose([r.count for r in one.outliers if r.threshold == t]) for t in thresholds]
            axes.plot(thresholds, found, marker="o", markersize=4, linewidth=1.4, **style)
        axes.set_ylim(0, max(1.0, axes.dataLim.ymax * 1.1))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_xlabel("threshold of |x|", color=INK, labelpad=2)

    drawn: list[Filled] = [
        ("outlier dimensions", f"the reading that finds {words}", partial(panel, choose=choose))
        for words, choose in (("most", max), ("fewest", min))
    ]
    return draw(
        "outliers",
        "Outlier dimensions by threshold",
        numbers,
        lambda width: _grid(analyses, styles, drawn, width),
        pixels=True,
    )
