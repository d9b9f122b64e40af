"""The pictures of what number formats do to values: exponents, losses by site, INT8 by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qsim.report.findings import Band, bands, count, power_of_two, share
from qsim.report.recorded import KINDS, Run, Site
from qsim.report.sheet import ALARM, HEAT, INK, MUTED, RULE, SERIES, WIDE, Sheet, key_height, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_exponents", "draw_heat", "draw_quantization"]

_TAIL = 1e-4  # the exponent axis ends where every panel has less than this share left
_FAINTEST = 1e-6  # the share at which a cell begins to colour
_WITHIN, _SUBNORMAL = SERIES[0], SERIES[4]


# Exponents.


def draw_exponents(run: Run, width: int) -> Sheet:
    """Histograms of floor(log2 |x|) by kind of value over one axis, under the bands of the formats."""
    found = {kind: exponents for kind in KINDS if (exponents := run.exponents(kind))}
    wide, formats = width == WIDE, bands()
    left, right, height = (184.0, 256.0, 92.0) if wide else (44.0, 8.0, 84.0)
    head = 20.0 if wide else 24.0 + 16 * (1 + len(formats))  # words above a panel
    limits = _exponent_limits(list(found.values()), formats[0])
    sheet = Sheet(width, 84 + len(found) * (head + height) + 40)
    _draw_bands(sheet, sheet.axes(left, 20, width - left - right, 57), formats, limits)
    top = 78.0
    for exponents, kind in zip(found.values(), found, strict=True):
        axes = sheet.axes(left, top + head, width - left - right, height)
        _fill_exponents(axes, exponents, formats[0], limits)
        axes.tick_params(labelbottom=kind == list(found)[-1])
        _write_shares(sheet, KINDS[kind], exponents, top + (head + 12 if wide else 22))
        top += head + height
    axes.set_xlabel("size of the value, as a power of two", color=INK, labelpad=3)
    return sheet


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
            sheet.text(sheet.width - 240, sheet.point(axes, low, row)[1], reach, color=MUTED)
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
        left, down = (sheet.width - 240, 18 * row) if wide else (4, 17 + 16 * row)
        sheet.text(left, y + down, words, size=11.5)


# Values lost, layer by site.


def draw_heat(sites: Sequence[Site], width: int) -> Sheet:
    """Share of nonzero values lost to underflow: a column per layer, a row per site, a panel per kind.

    On a desk the panels stand side by side and share their rows; on a phone each has its own.
    """
    lossy = [site for site in sites if site.lost()]
    kinds = [kind for kind in (*KINDS, "") if any(site.kind == kind for site in lossy)]
    panels = {kind: [site for site in sites if site.kind == kind] for kind in kinds}
    rows = {kind: _row_names(sites if width == WIDE else panel, sites) for kind, panel in panels.items()}
    layers = sorted({site.layer for site in sites if site.layer is not None})
    columns = [*layers, *([None] if any(site.layer is None for site in lossy) else [])]
    left = 12 + 7.0 * max(len(name) for names in rows.values() for name in names)
    room = (width - left) / (len(panels) if width == WIDE else 1) - 24
    cell = min(56.0, room / len(columns))
    places, height = _place_panels(rows, across=cell * len(columns) + 24 if width == WIDE else 0)
    sheet = Sheet(width, height)
    for kind, (x, y) in places.items():
        axes = sheet.axes(left + x, y + 26, cell * len(columns), 24 * len(rows[kind]))
        _fill_cells(axes, panels[kind], rows[kind], columns, numbers=cell >= 30)
        title = KINDS.get(kind, "other").capitalize()
        sheet.text(left + x if width == WIDE else 4, y + 13, title, weight="bold")
        axes.tick_params(labelleft=x == 0)
    return sheet


def _row_names(sites: Sequence[Site], order: Sequence[Site]) -> list[str]:
    """Names of the sites that lost anything, in the order of the run."""
    lossy = {site.site for site in sites if site.lost()}
    return [name for name in dict.fromkeys(site.site for site in order) if name in lossy]


def _place_panels(rows: Mapping[str, Sequence[str]], across: float) -> tuple[dict[str, tuple[float, float]], float]:
    """Corners of the panels (``across`` apart; one under the other where that is 0) and the height of all."""
    places, y, heights = {}, 0.0, [60.0 + 24 * len(names) for names in rows.values()]
    for i, (kind, height) in enumerate(zip(rows, heights, strict=True)):
        places[kind] = (i * across, y)
        y += 0 if across else height
    return places, y or max(heights)


def _fill_cells(
    axes: Axes, sites: Sequence[Site], rows: Sequence[str], columns: Sequence[int | None], *, numbers: bool
) -> None:
    """A square per site that was counted; a triangle where values overflowed."""
    for site in sites:
        if site.site in rows and site.layer in columns:
            _fill_cell(axes, site, columns.index(site.layer), rows.index(site.site), numbers=numbers)
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.set_yticks([i + 0.5 for i in range(len(rows))], rows, color=INK)
    every = math.ceil(len(columns) / 16)
    shown = [i for i, layer in enumerate(columns) if layer is None or i % every == 0]
    names = ["–" if columns[i] is None else str(columns[i]) for i in shown]
    axes.set_xticks([i + 0.5 for i in shown], names)
    axes.set_xlabel("layer", color=MUTED, labelpad=2, size=11)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)


def _fill_cell(axes: Axes, site: Site, column: int, row: int, *, numbers: bool) -> None:
    from matplotlib.patches import Rectangle

    lost, nonzero = site.counts["underflowed"], site.counts["nonzero"]
    part = lost / nonzero if nonzero else 0.0
    depth = 1 - math.log(max(part, _FAINTEST)) / math.log(_FAINTEST)  # 0 at the faintest, 1 where all is lost
    box: dict[str, Any] = {"xy": (column + 0.03, row + 0.06), "width": 0.94, "height": 0.88}
    colour, alpha = (HEAT, 0.15 + 0.75 * depth) if lost else (RULE, 0.35)
    axes.add_patch(Rectangle(**box, facecolor=colour, alpha=alpha, linewidth=0))
    if numbers and lost:
        words = share(lost, nonzero).removesuffix("\u00a0%").replace("<\u00a00.0001", "<10⁻⁴")
        axes.text(column + 0.5, row + 0.52, words, ha="center", va="center", size=11)
    if site.counts["overflowed"]:
        axes.plot([column + 0.88], [row + 0.24], marker="^", color=INK, markersize=6, mew=0)


# INT8 by layer.


def draw_quantization(rows: Sequence[Mapping[str, Any]], width: int) -> Sheet:
    """SQNR and RMSE of inputs, weights and outputs over layers, one line per site."""
    sites = list(dict.fromkeys(str(row.get("site")) for row in rows))
    styles = {site: {**series(i), "marker": "osD^v"[i % 5], "markersize": 4} for i, site in enumerate(sites)}
    tensors, measures = ("input", "weight", "output"), ("sqnr_db", "rmse")
    wide = width == WIDE
    across, down = (3, 2) if wide else (2, 3)
    step_x, step_y, head = width / across, 176.0 if wide else 158.0, 14 + key_height(sites, width - 8)
    sheet = Sheet(width, head + down * step_y + 4)
    sheet.key(4, 12, list(styles.items()), room=width - 8)
    for i, tensor in enumerate(tensors):
        for j, measure in enumerate(measures):
            column, row = (i, j) if wide else (j, i)
            left, top = column * step_x, head + row * step_y
            title = f"{tensor.capitalize()}, {'SQNR in dB' if measure == 'sqnr_db' else 'RMSE'}"
            sheet.text(left + 4, top + 8, title, weight="bold")
            axes = sheet.axes(left + 50, top + 24, step_x - 62, step_y - 64)
            _fill_layers(axes, rows, f"{tensor}_{measure}", styles)
    return sheet


def _fill_layers(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, styles: Mapping[str, Any]) -> None:
    for site, style in styles.items():
        points = {row["layer"]: row.get(name) for row in rows if str(row.get("site")) == site and "layer" in row}
        finite = {x: y for x, y in points.items() if x is not None and y is not None and math.isfinite(y)}
        if finite:
            axes.plot(list(finite), list(finite.values()), **{"linewidth": 1.4, **style})
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.locator_params(axis="y", nbins=4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.margins(x=0.08, y=0.15)
    axes.set_xlabel("layer", color=MUTED, labelpad=2, size=11)
