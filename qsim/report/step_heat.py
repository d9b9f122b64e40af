"""Heat maps over steps: a row per site or parameter, a column per sampled step, coloured by the share lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qsim.report.numbers import Numbers
from qsim.report.recorded import KINDS, Run
from qsim.report.sheet import HEAT, INK, MUTED, RULE, WIDE, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Heat", "draw_step_heat", "numbers_of_rounding", "numbers_of_updates", "rounding_heats", "update_heats"]

_LEVELS = ("none", "< 0.001 %", "< 0.01 %", "< 0.1 %", "< 1 %", "< 10 %", "more")  # a decade each
_ROW, _NARROWEST, _BROADEST = 16.0, 4.0, 28.0  # CSS pixels of a row and of a column
_APART = 9.0  # columns this broad are kept apart by a line
_LETTER = 6.3


@dataclass(frozen=True, kw_only=True)
class Heat:
    """One panel: by name of the row and step, how many were lost and of how many."""

    title: str
    rows: Mapping[str, Mapping[int, tuple[int, int]]]


def rounding_heats(run: Run) -> list[Heat]:
    """Underflow and overflow of the sites that had any, all layers together."""
    places = _lossy(run)
    heats = []
    for title, lost in (("Underflow", "underflowed"), ("Overflow", "overflowed")):
        rows = {
            " ".join(filter(None, place)): {step: (getattr(one, lost), one.nonzero) for step, one in steps.items()}
            for place, steps in places.items()
            if any(getattr(one, lost) for one in steps.values())
        }
        heats += [Heat(title=title, rows=rows)] if rows else []
    return heats


def _lossy(run: Run) -> dict[tuple[str, str], Mapping[int, Any]]:
    """Sites that lost values, by kind and then in the order of computing."""
    rounded, order, kinds = run.statistics.rounded, run.order, [*KINDS, ""]
    lossy = [place for place, steps in rounded.items() if any(one.lost for one in steps.values())]
    lossy.sort(key=lambda place: (kinds.index(place[1]), order.get(place[0], len(order))))
    return {place: rounded[place] for place in lossy}


def numbers_of_rounding(run: Run) -> Numbers:
    rows = [(step, *place, *one) for place, steps in _lossy(run).items() for step, one in steps.items()]
    return Numbers(columns=("step", "site", "pass", "nonzero", "underflowed", "overflowed"), rows=rows)


def update_heats(run: Run) -> list[Heat]:
    """Swallowed updates of the parameters that had any, all layers together."""
    rows = {
        name: {step: (lost, updates) for step, (updates, lost) in steps.items()}
        for name, steps in run.statistics.updated.items()
        if any(lost for _, lost in steps.values())
    }
    return [Heat(title="Swallowed updates", rows=rows)] if rows else []


def numbers_of_updates(run: Run) -> Numbers:
    drawn = [name for heat in update_heats(run) for name in heat.rows]
    rows = [(step, name, *found) for name in drawn for step, found in run.statistics.updated[name].items()]
    return Numbers(columns=("step", "parameter", "updates", "swallowed"), rows=rows)


# The drawing.


def draw_step_heat(heats: Sequence[Heat], steps: Sequence[int], width: int) -> Sheet:
    """Panels one under the other over the same columns.

    Where steps outnumber the columns there is room for, neighbours share one, which shows their largest share.
    """
    left = 12 + _LETTER * max(len(name) for heat in heats for name in heat.rows)
    room = width - left - 12
    columns = _columns(steps, math.floor(room / _NARROWEST))
    across = min(_BROADEST, room / len(columns))
    head = _key_height(width)
    sheet = Sheet(width, head + sum(66 + _ROW * len(heat.rows) for heat in heats))
    _draw_key(sheet)
    top = head
    for heat in heats:
        sheet.text(4, top + 10, heat.title, weight="bold")
        axes = sheet.axes(left, top + 24, across * len(columns), _ROW * len(heat.rows))
        _fill(axes, heat, columns, across)
        _label(axes, heat, columns, ticks=max(1, round(across * len(columns) / 72)))
        top += 66 + _ROW * len(heat.rows)
    return sheet


def _columns(steps: Sequence[int], most: int) -> list[Sequence[int]]:
    """Steps in so many groups of neighbours, or one by one."""
    size = math.ceil(len(steps) / max(1, most))
    return [steps[i : i + size] for i in range(0, len(steps), size)]


def _level(cells: Iterable[tuple[int, int]]) -> int | None:
    """0 where nothing was lost, then one more a decade; None where nothing was counted."""
    shares = [lost / whole if whole else 0.0 for lost, whole in cells]
    if not shares:
        return None
    largest = max(shares)
    return 0 if not largest else 1 + sum(largest >= edge for edge in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1))


def _paint(level: int) -> dict[str, Any]:
    if not level:
        return {"facecolor": RULE, "alpha": 0.4, "linewidth": 0}
    return {"facecolor": HEAT, "alpha": round(0.22 + 0.155 * (level - 1), 2), "linewidth": 0}


def _fill(axes: Axes, heat: Heat, columns: Sequence[Sequence[int]], across: float) -> None:
    """Cells of one level are one shape; neighbours in a row join where no line keeps them apart."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    gap = 1 / across if across >= _APART else 0.0
    boxes: dict[int, list[Path]] = {}
    for row, cells in enumerate(heat.rows.values()):
        levels = [_level(cells[step] for step in column if step in cells) for column in columns]
        for first, last, level in _alike(levels, joins=not gap):
            corners = [(first, row + 0.05), (last - gap, row + 0.05), (last - gap, row + 0.95), (first, row + 0.95)]
            boxes.setdefault(level, []).append(Path([*corners, corners[0]], closed=True))
    for level, paths in sorted(boxes.items()):
        axes.add_patch(PathPatch(Path.make_compound_path(*paths), **_paint(level)))
    axes.set(xlim=(0, len(columns)), ylim=(len(heat.rows), 0))


def _alike(levels: Sequence[int | None], *, joins: bool) -> list[tuple[int, int, int]]:
    """Stretches of one level as (first, last + 1, level), one by one where they do not join."""
    found: list[tuple[int, int, int]] = []
    for i, level in enumerate(levels):
        if level is None:
            continue
        if joins and found and found[-1][1:] == (i, level):
            found[-1] = (found[-1][0], i + 1, level)
        else:
            found.append((i, i + 1, level))
    return found


def _label(axes: Axes, heat: Heat, columns: Sequence[Sequence[int]], ticks: int) -> None:
    every = math.ceil(len(columns) / ticks)
    shown = range(0, len(columns), every)
    axes.set_yticks([i + 0.5 for i in range(len(heat.rows))], list(heat.rows), color=INK)
    axes.set_xticks([i + 0.5 for i in shown], [f"{columns[i][0]:,}" for i in shown])
    axes.set_xlabel("step", color=MUTED, labelpad=2, size=11)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)


def _key_places(width: float) -> list[tuple[float, int]]:
    step = 86 if width == WIDE else 88
    each = max(1, int((width - 8) // step))
    return [(4.0 + step * (i % each), i // each) for i in range(len(_LEVELS))]


def _key_height(width: float) -> float:
    return 14 + 18.0 * (1 + _key_places(width)[-1][1])


def _draw_key(sheet: Sheet) -> None:
    for level, (left, row) in enumerate(_key_places(sheet.width)):
        sheet.box(left, 4 + 18 * row, 14, 12, **_paint(level))
        sheet.text(left + 19, 10 + 18 * row, _LEVELS[level], color=MUTED, size=11)
