"""The pictures over steps: loss, difference, loss scale, each drawn to a given width in CSS pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qsim.report.findings import differences, power_of_two
from qsim.report.recorded import Run
from qsim.report.sheet import INK, WIDE, End, Sheet, Style, key_height, label_room, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_losses", "draw_scales", "run_styles"]

_HIGHEST = 1e38  # losses beyond are drawn here: axes in float64 need room above
_DECADES = 6  # a symlog axis shows at most so many on either side of zero


def run_styles(replays: Sequence[Run]) -> list[Style]:
    """How the base and every replay are drawn, the same in every picture."""
    return [{"color": INK, "linestyle": "-"}, *(series(i) for i in range(len(replays)))]


def draw_losses(base: Run, replays: Sequence[Run], width: int) -> Sheet:
    """Loss of every run, and under it the difference of each replay to the base."""
    titles = ["Training loss", f"Loss minus the loss of {base.label}"][: 1 + bool(replays)]
    runs, styles = [base, *replays], run_styles(replays)
    sheet, panels = _stack(width, titles, runs, styles)
    ends = [_fill_losses(panels[0], runs, styles)]
    if replays:
        panels[0].tick_params(labelbottom=False)
        ends.append(_fill_differences(panels[1], base, replays, styles[1:]))
    return _finish(sheet, panels, ends, runs)


def draw_scales(runs: Sequence[Run], styles: Sequence[Style], width: int) -> Sheet:
    """Loss scale of every run, as powers of two."""
    sheet, panels = _stack(width, ["Loss scale"], runs, styles)
    axes, ends = panels[0], []
    for run, style in zip(runs, styles, strict=True):
        logs = {step: math.log2(scale) for step, scale in run.scales.items() if scale > 0}
        ends += _trace(axes, run.label, style, logs, drawstyle="steps-post")
    _mark(axes, runs, styles, "skipped")
    axes.locator_params(axis="y", integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: power_of_two(value))
    axes.tick_params(axis="y", labelsize=13)
    low, high = axes.get_ylim()
    axes.set_ylim(math.floor(low) - 0.5, math.ceil(high) + 0.5)
    return _finish(sheet, panels, [ends], runs)


# Panels over steps.


def _stack(
    width: int, titles: Sequence[str], runs: Sequence[Run], styles: Sequence[Style]
) -> tuple[Sheet, list[Axes]]:
    """A sheet of titled panels one under the other, with room for the names of the lines."""
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
    return sheet, panels


def _finish(sheet: Sheet, panels: Sequence[Axes], ends: Sequence[list[End]], runs: Sequence[Run]) -> Sheet:
    """One step axis under all panels, and on a desk the names at the ends of the lines."""
    from matplotlib.ticker import MaxNLocator

    steps = [step for run in runs for step in (*run.losses, *run.scales)]
    first, last = min(steps, default=0), max(steps, default=1)
    for axes, named in zip(panels, ends, strict=True):
        axes.set_xlim(first - 0.5, last + 0.5)
        ticks = 8 if sheet.width == WIDE else 4
        axes.xaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True, min_n_ticks=1))
        if sheet.width == WIDE:
            sheet.end_labels(axes, named)
    panels[-1].set_xlabel("step", color=INK, labelpad=2)
    return sheet


def _fill_losses(axes: Axes, runs: Sequence[Run], styles: Sequence[Style]) -> list[End]:
    ends = []
    for row, (run, style) in enumerate(zip(runs, styles, strict=True)):
        ends += _trace(axes, run.label, style, run.losses, linewidth=2.4 if row == 0 else 1.4)
    _mark(axes, runs, styles, "not finite")
    _mark(axes, runs, styles, "skipped")
    axes.margins(y=0.12)
    finite = [_clamp(x) for run in runs for x in run.losses.values() if math.isfinite(x)]
    if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    return ends


def _fill_differences(axes: Axes, base: Run, replays: Sequence[Run], styles: Sequence[Style]) -> list[End]:
    axes.axhline(0, color=INK, linewidth=1)
    ends: list[End] = []
    values: list[float] = []
    for run, style in zip(replays, styles, strict=True):
        points = differences(base, run)
        values += map(_clamp, points.values())
        gaps = {step: points.get(step, math.nan) for step in run.losses}
        ends += _trace(axes, run.label, style, gaps)
    _mark(axes, replays, styles, "not finite")
    _scale_differences(axes, values)
    return ends


def _scale_differences(axes: Axes, values: Sequence[float]) -> None:
    """Symlog where sizes span more than a decade and a half, else linear; zero always inside."""
    sizes = sorted(abs(value) for value in values if value)
    if not sizes:
        axes.set_ylim(-1, 1)
        axes.set_yticks([0], ["0"])
        return
    small, large = sizes[len(sizes) // 10], sizes[-1]
    low, high = min(0.0, *values), max(0.0, *values)
    if large < 30 * small:
        room = 0.15 * (high - low)
        axes.set_ylim(low - room, high + 2 * room)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")
        return
    top = math.ceil(math.log10(large))
    bottom = max(math.floor(math.log10(small)), top - _DECADES)
    threshold = 10.0**bottom
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.6)
    axes.set_ylim(min(2 * low, -threshold), max(8 * high, threshold))
    _label_decades(axes, range(bottom, top + 1), low, high)


def _label_decades(axes: Axes, exponents: Sequence[int], low: float, high: float) -> None:
    """Ticks at powers of ten on the sides that hold data, at most four a side."""
    kept = [e for e in exponents if (exponents[-1] - e) % max(1, math.ceil(len(exponents) / 4)) == 0]
    ticks = {0.0: "0"}
    for sign, mark, reach in ((1, "+", 2 * high), (-1, "−", -2 * low)):
        ticks |= {sign * 10.0**e: f"{mark}{_decimal(e)}" for e in kept if 10.0**e <= reach}
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()


def _decimal(exponent: int) -> str:
    return f"{10.0**exponent:.{max(0, -exponent)}f}" if abs(exponent) < 5 else f"1e{exponent}".replace("-", "−")


# Lines and marks.


def _trace(axes: Axes, name: str, style: Style, points: Mapping[int, float], **options: Any) -> list[End]:
    """Draw a line with gaps where a value is not finite; gives its end, or nothing where it has no point."""
    finite = {step: _clamp(value) for step, value in points.items() if math.isfinite(value)}
    if not finite:
        return []
    marker = {"marker": "o", "markersize": 3} if len(points) <= 30 else {}
    ys = [finite.get(step, math.nan) for step in points]
    axes.plot(list(points), ys, **{"linewidth": 1.4, **marker, **style, **options})
    last = max(finite)
    axes.plot([last], [finite[last]], color=style["color"], marker="o", markersize=4, mew=0)
    return [(name, style, float(last), finite[last])]


def _clamp(value: float) -> float:
    return max(-_HIGHEST, min(value, _HIGHEST))


def _mark(axes: Axes, runs: Sequence[Run], styles: Sequence[Style], event: str) -> None:
    """Losses that are not finite in rows from the top, skipped steps in rows from the foot."""
    found = [
        (run.not_finite if event == "not finite" else run.skipped, run, style)
        for run, style in zip(runs, styles, strict=True)
    ]
    for row, (steps, run, style) in enumerate(item for item in found if item[0]):
        height, marker = (0.95 - 0.08 * row, "x") if event == "not finite" else (0.05 + 0.08 * row, "|")
        stretches = _stretches(steps, run.rows)
        place = {"transform": axes.get_xaxis_transform(), "color": style["color"]}
        for first, last in stretches:
            axes.plot([first], [height], marker=marker, markersize=6, mew=1.6, **place)
            axes.plot([first, last], [height] * 2, linewidth=1, **place)
        late = stretches[-1][0] > 0.75 * max(run.last_step for run in runs)
        _name_mark(axes, stretches[-1][0], height, event, color=style["color"], ha="right" if late else "left")


def _name_mark(axes: Axes, step: int, height: float, event: str, *, color: str, ha: Any) -> None:
    place: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
    offset = (-6 if ha == "right" else 6, 7)
    axes.annotate(event, (step, height), xytext=offset, color=color, ha=ha, va="center", size=11, **place)


def _stretches(steps: Sequence[int], recorded: Iterable[int]) -> list[tuple[int, int]]:
    """First and last step of every run of neighbours among the recorded steps."""
    chosen, stretches, open_at = set(steps), [], None
    previous = 0
    for step in recorded:
        if step in chosen and open_at is None:
            open_at = step
        elif step not in chosen and open_at is not None:
            stretches.append((open_at, previous))
            open_at = None
        previous = step
    return stretches if open_at is None else [*stretches, (open_at, previous)]
