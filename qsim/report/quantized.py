"""The picture of quantization after training: errors of inputs, weights and outputs by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qsim.report.numbers import Numbers
from qsim.report.sheet import MUTED, WIDE, Sheet, key_height, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_quantization", "numbers_of_quantization"]

_TENSORS, _MEASURES = ("input", "weight", "output"), ("sqnr_db", "rmse")


def draw_quantization(rows: Sequence[Mapping[str, Any]], width: int) -> Sheet:
    """SQNR and RMSE of inputs, weights and outputs over layers, one line per site."""
    sites = list(dict.fromkeys(str(row.get("site")) for row in rows))
    styles = {site: {**series(i), "marker": "osD^v"[i % 5], "markersize": 4} for i, site in enumerate(sites)}
    wide = width == WIDE
    across, down = (3, 2) if wide else (2, 3)
    step_x, step_y, head = width / across, 176.0 if wide else 158.0, 14 + key_height(sites, width - 8)
    sheet = Sheet(width, head + down * step_y + 4)
    sheet.key(4, 12, list(styles.items()), room=width - 8)
    for i, tensor in enumerate(_TENSORS):
        for j, measure in enumerate(_MEASURES):
            column, row = (i, j) if wide else (j, i)
            left, top = column * step_x, head + row * step_y
            title = f"{tensor.capitalize()}, {'SQNR in dB' if measure == 'sqnr_db' else 'RMSE'}"
            sheet.text(left + 4, top + 8, title, weight="bold")
            axes = sheet.axes(left + 50, top + 24, step_x - 62, step_y - 64)
            _fill_layers(axes, rows, f"{tensor}_{measure}", styles)
    return sheet


def numbers_of_quantization(rows: Sequence[Mapping[str, Any]]) -> Numbers:
    names = [f"{tensor}_{measure}" for tensor in _TENSORS for measure in _MEASURES]
    found = [(row.get("site"), row.get("layer"), *(row.get(name) for name in names)) for row in rows]
    return Numbers(columns=("site", "layer", *names), rows=found)


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
