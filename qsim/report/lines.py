"""What pictures over steps are made of: panels one under the other, lines with gaps, marks of events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qsim.report.recorded import Run
from qsim.report.sheet import INK, WIDE, End, Sheet, Style, key_height, label_room
from qsim.report.thinning import joined, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Panels", "clamp", "mark", "stack", "stretches", "trace"]

_HIGHEST = 1e38  # values beyond are drawn here: axes in float64 need room above
_FEW = 30  # points that are marked one by one


class Panels:
    """Titled panels on one sheet, all over the same steps."""

    def __init__(self, sheet: Sheet, axes: Sequence[Axes], runs: Sequence[Run]) -> None:
        self.sheet, self.axes = sheet, axes
        steps = [step for run in runs for step in run.losses] or [step for run in runs for step in run.scales]
        self.first, self.last = min(steps, default=0), max(steps, default=1)

    def finish(self, ends: Sequence[Sequence[End]]) -> Sheet:
        """One step axis under all panels, and on a desk the names at the ends of the lines."""
        from matplotlib.ticker import MaxNLocator

        for axes, named in zip(self.axes, ends, strict=True):
            axes.set_xlim(self.first - 0.5, self.last + 0.5)
            ticks = 8 if self.sheet.width == WIDE else 4
            axes.xaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True, min_n_ticks=1))
            axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
            axes.tick_params(labelbottom=axes is self.axes[-1])
            if self.sheet.width == WIDE:
                self.sheet.end_labels(axes, named)
        self.axes[-1].set_xlabel("step", color=INK, labelpad=2)
        return self.sheet


def stack(width: int, titles: Sequence[str], runs: Sequence[Run], styles: Sequence[Style]) -> Panels:
    """Empty panels, with room for the names of the lines."""
    names, wide = [run.label for run in runs], width == WIDE
    left, right = (62.0, label_room(names)) if wide else (46.0, 8.0)
    top = 4.0 if wide else 8 + key_height(names, width - 8)
    heights = [270, 170] if wide else [210, 150]
    sheet = Sheet(width, top + sum(38 + height for height in heights[: len(titles)]) + 34)
    if not wide:
        sheet.key(4, 10, list(zip(names, styles, strict=True)), room=width - 8)
    panels = []
    for title, height in zip(titles, heights, strict=False):
        sheet.text(4, top + 8, title, weight="bold")
        panels.append(sheet.axes(left, top + 26, width - left - right, height))
        top += 38 + height
    return Panels(sheet, panels, runs)


def trace(axes: Axes, name: str, style: Style, points: Mapping[int, float], **options: Any) -> list[End]:
    """Draw a line with gaps where a value is not finite; gives its end, or nothing where it has no point."""
    clamped = {step: clamp(value) if math.isfinite(value) else math.nan for step, value in points.items()}
    last = next((step for step in reversed(clamped) if not math.isnan(clamped[step])), None)
    if last is None:
        return []
    marker = {"marker": "o", "markersize": 3} if len(points) <= _FEW else {}
    kept = thinned(clamped, _pixels(axes))
    place: dict[str, Any] = {"linewidth": 1.4, **marker, **style, **options}
    axes.plot([step for step, _ in kept], [value for _, value in kept], **place)
    axes.plot([last], [clamped[last]], color=style["color"], marker="o", markersize=4, mew=0)
    return [(name, style, float(last), clamped[last])]


def clamp(value: float) -> float:
    return max(-_HIGHEST, min(value, _HIGHEST))


def _pixels(axes: Axes) -> int:
    """CSS pixels across the axes."""
    return round(axes.bbox.width)


def mark(axes: Axes, runs: Sequence[Run], styles: Sequence[Style], event: str) -> None:
    """Losses that are not finite in rows from the top, skipped steps in rows from the foot."""
    found = [
        (run.not_finite if event == "not finite" else run.skipped, run, style)
        for run, style in zip(runs, styles, strict=True)
    ]
    last = max((run.last_step for run in runs), default=0)
    for row, (steps, run, style) in enumerate(item for item in found if item[0]):
        height, marker = (0.95 - 0.08 * row, "x") if event == "not finite" else (0.05 + 0.08 * row, "|")
        apart = joined(stretches(steps, run.rows), gap=2 * last / _pixels(axes))
        place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "color": style["color"]}
        begun = [first for first, _ in apart]
        axes.plot(begun, [height] * len(begun), marker=marker, markersize=6, mew=1.6, linestyle="none", **place)
        bars = [x for first, end in apart for x in (first, end, math.nan)]
        axes.plot(bars, [height] * len(bars), linewidth=1, **place)
        _name_mark(axes, begun[-1], height, event, style["color"], late=begun[-1] > 0.75 * last)


def _name_mark(axes: Axes, step: int, height: float, event: str, color: str, *, late: bool) -> None:
    place: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
    offset, ha = ((-6, 7), "right") if late else ((6, 7), "left")
    axes.annotate(event, (step, height), xytext=offset, color=color, ha=ha, va="center", size=11, **place)


def stretches(steps: Sequence[int], recorded: Iterable[int]) -> list[tuple[int, int]]:
    """First and last step of every run of neighbours among the recorded steps."""
    chosen, found, open_at = set(steps), [], None
    previous = 0
    for step in recorded:
        if step in chosen and open_at is None:
            open_at = step
        elif step not in chosen and open_at is not None:
            found.append((open_at, previous))
            open_at = None
        previous = step
    return found if open_at is None else [*found, (open_at, previous)]
