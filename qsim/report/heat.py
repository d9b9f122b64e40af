"""The picture of what a run lost by layer and site, all sampled steps together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qsim.report.findings import share
from qsim.report.numbers import Numbers
from qsim.report.recorded import KINDS, Site
from qsim.report.sheet import HEAT, INK, MUTED, RULE, WIDE, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_heat", "numbers_of_heat"]

_LETTER = 7.5  # CSS pixels of a letter of a panel's title
_FAINTEST = 1e-6  # the share at which a cell begins to colour


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
    titled = _LETTER * max(len(KINDS.get(kind, "other")) for kind in kinds)
    apart = max(cell * len(columns), titled) + 24 if width == WIDE else 0
    places, height = _place_panels(rows, across=apart)
    sheet = Sheet(width, height)
    for kind, (x, y) in places.items():
        axes = sheet.axes(left + x, y + 26, cell * len(columns), 24 * len(rows[kind]))
        _fill_cells(axes, panels[kind], rows[kind], columns, numbers=cell >= 30)
        title = KINDS.get(kind, "other").capitalize()
        sheet.text(left + x if width == WIDE else 4, y + 13, title, weight="bold")
        axes.tick_params(labelleft=x == 0)
    return sheet


def numbers_of_heat(sites: Sequence[Site]) -> Numbers:
    """Of the sites that are drawn: those of a name that lost values anywhere."""
    lossy = {site.site for site in sites if site.lost()}
    rows = [
        (site.site, site.layer, site.kind, *(site.counts[name] for name in ("nonzero", "underflowed", "overflowed")))
        for site in sites
        if site.site in lossy
    ]
    return Numbers(columns=("site", "layer", "pass", "nonzero", "underflowed", "overflowed"), rows=rows)


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
