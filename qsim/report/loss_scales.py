"""The picture of what gradients would lose in which format under which loss scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qsim.report.findings import power_of_two
from qsim.report.numbers import Numbers
from qsim.report.sheet import INK, WIDE, Sheet, key_height, series
from qsim.report.updates import WhatIf

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_what_if", "numbers_of_what_if"]


def draw_what_if(found: WhatIf, scales: Sequence[int], width: int) -> Sheet:
    """Share of the nonzero gradients that underflow, and that overflow, over the loss scale; a line a format."""
    formats = list(found.underflowed)
    styles = {fmt: series(i) for i, fmt in enumerate(formats)}
    wide = width == WIDE
    head = 14 + key_height(formats, width - 8)
    across, height = (width / 2 if wide else width), 200.0 if wide else 160.0
    sheet = Sheet(width, head + (height + 68) * (1 if wide else 2))
    sheet.key(4, 10, list(styles.items()), room=width - 8)
    for i, (title, lost) in enumerate((("Underflow", found.underflowed), ("Overflow", found.overflowed))):
        left, top = (i * across, head) if wide else (0.0, head + i * (height + 68))
        sheet.text(left + 4, top + 8, f"{title}, share of the nonzero gradients", weight="bold")
        axes = sheet.axes(left + 52, top + 26, across - 64, height)
        for fmt, style in styles.items():
            shares = [100 * lost[fmt].get(k, 0) / found.finite for k in scales]
            axes.plot(scales, shares, linewidth=1.6, **style)
        _label_scales(axes, scales, loses=any(lost[fmt].get(k, 0) for fmt in styles for k in scales))
    return sheet


def numbers_of_what_if(found: WhatIf, scales: Sequence[int]) -> Numbers:
    """By format and exponent of the loss scale: how many of the nonzero gradients would be lost."""
    rows = [
        (fmt, k, found.underflowed[fmt].get(k, 0), found.overflowed[fmt].get(k, 0), found.finite)
        for fmt in found.underflowed
        for k in scales
    ]
    return Numbers(columns=("format", "exponent of the scale", "underflowed", "overflowed", "nonzero"), rows=rows)


def _label_scales(axes: Axes, scales: Sequence[int], *, loses: bool) -> None:
    axes.set_xlim(scales[0], scales[-1])
    if loses:
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(0, 1)
    axes.locator_params(axis="x", nbins=8, integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: power_of_two(value))
    axes.tick_params(axis="x", labelsize=13)
    axes.locator_params(axis="y", nbins=4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.set_xlabel("loss scale", color=INK, labelpad=3)
