"""Histograms of every block above each other over one axis: a ridge each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qsim.analysis.histograms import HistogramRow
from qsim.analysis.results import Analysis
from qsim.report.numbers import Numbers
from qsim.report.sheet import INK, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["blocks_of", "fill_ridges", "numbers_of_ridges"]

_MERGED = 3  # bins of weights that are drawn as one
_HEIGHT = 0.92  # of a ridge, in blocks
_TICKS = 16  # most block numbers on an axis


def blocks_of(one: Analysis, tensor: str) -> list[HistogramRow]:
    """Of the blocks that have it."""
    return [row for row in one.histograms if row.tensor == tensor and row.layer is not None]


def numbers_of_ridges(analyses: Sequence[Analysis], tensors: Sequence[str]) -> Numbers:
    """A row a histogram: of equal bins from low to high, how many values each has."""
    rows = [
        (tensor, one.model, row.layer, row.low, row.high, " ".join(map(str, drawn_counts(row))))
        for tensor in tensors
        for one in analyses
        for row in blocks_of(one, tensor)
    ]
    return Numbers(columns=("tensor", "model", "block", "low", "high", "counts"), rows=rows)


def drawn_counts(row: HistogramRow) -> list[int]:
    """As they are; of weights three bins in one."""
    counts = np.array(row.counts)
    if row.tensor.endswith(".weight"):
        counts = np.add.reduceat(counts, np.arange(0, counts.size, _MERGED))
    return [int(count) for count in counts]


def fill_ridges(axes: Axes, rows: Sequence[tuple[HistogramRow, Style]]) -> None:
    """Block 0 on top."""
    from matplotlib.ticker import MaxNLocator

    for row, style in rows:
        counts = drawn_counts(row)
        heights = _heights(np.array(counts, np.float64), logarithmic=row.tensor.endswith(".weight"))
        axes.stairs(
            (row.layer or 0) - _HEIGHT * heights,
            np.linspace(row.low, row.high, len(counts) + 1),
            baseline=row.layer,
            linewidth=1.0,
            **style,
        )
    blocks = 1 + max((row.layer or 0 for row, _ in rows), default=0)
    axes.set_ylim(blocks - 0.8, -1.1)
    shown = range(0, blocks, math.ceil(blocks / _TICKS))
    axes.set_yticks(list(shown), [str(block) for block in shown])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("value", color=INK, labelpad=2)


def _heights(counts: np.ndarray, *, logarithmic: bool) -> np.ndarray:
    """Of bins, relative to the fullest, 0 to 1; logarithmic: of one more than a count, 0 where there is none."""
    sizes = np.log1p(counts) if logarithmic else counts
    return sizes / (sizes.max() or 1.0)
