"""Error by depth, out of shadow replays: how far what each site gives out lies from the recorded run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qsim.report.curves import label_decimals
from qsim.report.numbers import Numbers
from qsim.report.recorded import KINDS, Run, parse_site
from qsim.report.sampled import Propagated
from qsim.report.sheet import INK, MUTED, RULE, WIDE, Sheet, Style, key_height

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_depth", "last_propagation", "numbers_of_depth"]

_PASSES = ("fprop", "dgrad", "wgrad")
_LETTER, _PER_NAME = 6.0, 11.0  # CSS pixels of a letter of a site's name, and across for one that stands upright


def last_propagation(run: Run) -> tuple[int, Mapping[str, Propagated]] | None:
    """The last sampled step that has one, and its sites in the order of computing."""
    found = run.statistics.propagated
    return (max(found), found[max(found)]) if found else None


def _by_pass(shadows: Sequence[Run]) -> dict[str, list[str]]:
    """Keys of the sites of every pass, in the order of computing."""
    keys = list(dict.fromkeys(key for run in shadows for key in (last_propagation(run) or (0, {}))[1]))
    found = {way: [key for key in keys if parse_site(key)[2] == way] for way in _PASSES}
    return {way: names for way, names in found.items() if names}


def numbers_of_depth(shadows: Sequence[Run]) -> Numbers:
    """In the order of computing: the site's own rounding, and the error of what it gives out."""
    rows = []
    for way, keys in _by_pass(shadows).items():
        for run in shadows:
            step, found = last_propagation(run) or (0, {})
            for place, key in enumerate(keys, start=1):
                layer, site, _ = parse_site(key)
                if key in found:
                    rows.append((run.label, step, way, place, layer, site, found[key].rounding, found[key].error))
    columns = ("run", "step", "pass", "place", "layer", "site", "rounding", "error")
    return Numbers(columns=columns, rows=rows)


def draw_depth(shadows: Sequence[Run], styles: Sequence[Style], width: int) -> Sheet:
    """A panel per pass: sites across in the order of computing, errors upwards on a logarithmic axis.

    Lines: the error; dots: what the site's own rounding did.
    """
    names = [run.label for run in shadows]
    left, head = 62.0 if width == WIDE else 46.0, 14 + key_height(names, width - 8)
    passes = _by_pass(shadows)
    across = width - left - 8
    named = max(len(keys) for keys in passes.values()) * _PER_NAME <= across
    foot = 8 + _LETTER * max(len(parse_site(key)[1]) for keys in passes.values() for key in keys) if named else 8.0
    height = 150.0 if width == WIDE else 130.0
    sheet = Sheet(width, head + len(passes) * (height + foot + 58))
    sheet.key(4, 10, list(zip(names, styles, strict=True)), room=width - 8)
    top = head
    for way, keys in passes.items():
        sheet.text(4, top + 8, f"{KINDS[way].capitalize()} ({way})", weight="bold")
        axes = sheet.axes(left, top + 40, across, height)
        for run, style in zip(shadows, styles, strict=True):
            _fill(axes, keys, (last_propagation(run) or (0, {}))[1], style)
        if math.isfinite(axes.dataLim.ymin):
            axes.set_yscale("log")
            axes.margins(y=0.1)
            label_decimals(axes)
        _label(axes, keys, named=named)
        top += height + foot + 58
    return sheet


def _fill(axes: Axes, keys: Sequence[str], found: Mapping[str, Propagated], style: Style) -> None:
    nothing = Propagated(None, None)
    errors = [_positive(found.get(key, nothing).error) for key in keys]
    roundings = [_positive(found.get(key, nothing).rounding) for key in keys]
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(keys) <= 60 else {}
    axes.plot(range(len(keys)), errors, linewidth=1.4, **marker, **style)
    axes.plot(range(len(keys)), roundings, linestyle="none", marker="o", markersize=2.4, mew=0, color=style["color"])


def _positive(value: float | None) -> float:
    """What a logarithmic axis can show; NaN is a gap."""
    return value if value is not None and math.isfinite(value) and value > 0 else math.nan


def _label(axes: Axes, keys: Sequence[str], *, named: bool) -> None:
    """Sites by name where there is room, and where a layer begins."""
    axes.set_xlim(-0.5, len(keys) - 0.5)
    layers = [parse_site(key)[0] for key in keys]
    begun = [i for i, layer in enumerate(layers) if layer is not None and (not i or layers[i - 1] != layer)]
    every = max(1, math.ceil(len(begun) / 12))
    for i in begun:
        axes.axvline(i - 0.5, color=RULE, linewidth=0.8)
    for i in begun[::every]:
        place: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
        axes.annotate(f"layer {layers[i]}", (i - 0.5, 1), xytext=(3, 7), color=MUTED, size=11, va="center", **place)
    names = [parse_site(key)[1] for key in keys] if named else []
    axes.set_xticks(range(len(names)), names, rotation=90, size=10, color=INK)
    axes.tick_params(axis="x", length=0, pad=3)
