"""The picture of how large values are, and what each format can hold of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qsim.report.findings import Band, bands, count, power_of_two, share
from qsim.report.numbers import Numbers
from qsim.report.recorded import KINDS, Run
from qsim.report.sheet import ALARM, INK, MUTED, SERIES, WIDE, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_exponents", "numbers_of_exponents"]

_SIDE = 262.0  # CSS pixels of the words at the right on a desk
_RANGE = 19.0  # of the bar of a format
_TAIL = 1e-4  # the exponent axis ends where every panel has less than this share left
_WITHIN, _SUBNORMAL = SERIES[0], SERIES[4]


def draw_exponents(run: Run, width: int) -> Sheet:
    """Histograms of floor(log2 |x|) by kind of value over one axis, under the bands of the formats."""
    found = {kind: exponents for kind in KINDS if (exponents := run.exponents(kind))}
    wide, formats = width == WIDE, bands()
    left, right, height = (184.0, _SIDE + 16, 92.0) if wide else (44.0, 8.0, 84.0)
    head = 20.0 if wide else 24.0 + 16 * (1 + len(formats))  # words above a panel
    limits = _exponent_limits(list(found.values()), formats[0])
    ranges = _RANGE * len(formats)
    sheet = Sheet(width, 27 + ranges + len(found) * (head + height) + 40)
    _draw_bands(sheet, sheet.axes(left, 20, width - left - right, ranges), formats, limits)
    top = 21 + ranges
    for exponents, kind in zip(found.values(), found, strict=True):
        axes = sheet.axes(left, top + head, width - left - right, height)
        _fill_exponents(axes, exponents, formats[0], limits)
        axes.tick_params(labelbottom=kind == list(found)[-1])
        _write_shares(sheet, KINDS[kind], exponents, top + (head + 12 if wide else 22))
        top += head + height
    axes.set_xlabel("size of the value, as a power of two", color=INK, labelpad=3)
    return sheet


def numbers_of_exponents(run: Run) -> Numbers:
    """Values by kind and power of two, those beyond the ends of the axis, too, and of them what each format loses."""
    formats = bands()
    rows = [
        (KINDS[kind], exponent, n, *(band.place(exponent) for band in formats))
        for kind in KINDS
        for exponent, n in sorted(run.exponents(kind).items())
    ]
    return Numbers(columns=("kind", "exponent", "values", *(f"in {band.name}" for band in formats)), rows=rows)


def _exponent_limits(found: Sequence[Mapping[int, int]], narrowest: Band) -> tuple[int, int]:
    """The narrowest format and all but a tail of every histogram."""
    low = min(narrowest.smallest, *(_reach(exponents, sorted(exponents)) for exponents in found))
    high = max(narrowest.largest, *(_reach(exponents, sorted(exponents)[::-1]) for exponents in found))
    return low - 3, high + 4


def _reach(exponents: Mapping[int, int], order: Sequence[int]) -> int:
    """The exponent at which more than a tail of the histogram has been passed."""
    passed, tail = 0, _TAIL * sum(exponents.values())
    for exponent in order:
        passed += exponents[exponent]
        if passed > tail:
            break
    return exponent


def _draw_bands(sheet: Sheet, axes: Axes, formats: Sequence[Band], limits: tuple[int, int]) -> None:
    """One bar per format, its subnormal and its normal range; cut where the axis ends."""
    low, high = limits
    axes.set(xlim=limits, ylim=(len(formats) - 0.5, -0.5))
    axes.set_yticks(range(len(formats)), [band.name for band in formats], color=INK)
    for row, band in enumerate(formats):
        for _, colour, start, stop in _ranges(band):
            left, right = max(start, low), min(stop, high)
            if left < right:
                axes.barh(row, right - left, left=left, height=0.62, color=colour, linewidth=0)
        if sheet.width == WIDE:
            reach = f"{power_of_two(band.smallest)} to {power_of_two(band.largest)}"
            sheet.text(sheet.width - _SIDE, sheet.point(axes, low, row)[1], reach, color=MUTED)
    for name, colour, start, stop in _ranges(formats[0]):
        sheet.text(sheet.point(axes, (start + stop) / 2, 0)[0], 11, name, color=colour, ha="center", size=11)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False, left=False)


def _ranges(band: Band) -> list[tuple[str, str, int, int]]:
    """Name, colour and edges of what a format holds."""
    return [
        ("subnormal", _SUBNORMAL, band.smallest, band.normal),
        ("normal", _WITHIN, band.normal, band.largest + 1),
    ]


def _fill_exponents(axes: Axes, exponents: Mapping[int, int], band: Band, limits: tuple[int, int]) -> None:
    """Share of values per power of two, coloured by where it lies in the narrowest format."""
    total, (low, high) = sum(exponents.values()), limits
    beyond = [("", ALARM, low, band.smallest), ("", ALARM, band.largest + 1, high)]
    for _, colour, start, stop in [*_ranges(band), *beyond]:
        heights = [100 * exponents.get(e, 0) / total for e in range(start, stop)]
        axes.stairs(heights, range(start, stop + 1), fill=True, color=colour, linewidth=0)
    for edge in (band.smallest, band.normal, band.largest + 1):
        axes.axvline(edge, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlim(low, high)
    axes.locator_params(axis="y", nbins=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.locator_params(axis="x", nbins=9, integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: power_of_two(value))
    axes.tick_params(axis="x", labelsize=13)


def _write_shares(sheet: Sheet, title: str, exponents: Mapping[int, int], y: float) -> None:
    """The kind of value, and what each format cannot hold of it: at the sides on a desk, above on a phone."""
    total, wide = sum(exponents.values()), sheet.width == WIDE
    sheet.text(4, y, title.capitalize(), weight="bold")
    if wide:
        sheet.text(4, y + 18, f"{count(total)} values", color=MUTED)
    else:
        sheet.text(sheet.width - 8, y, f"{count(total)} values", color=MUTED, ha="right")
    for row, band in enumerate(bands()):
        words = f"{band.name}: {share(band.outside(exponents), total)} outside"
        if subnormal := band.subnormal(exponents):
            words += f", {share(subnormal, total)} subnormal"
        left, down = (sheet.width - _SIDE, 18 * row) if wide else (4, 17 + 16 * row)
        sheet.text(left, y + down, words, size=11)
