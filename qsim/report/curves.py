"""The pictures over steps: loss, difference, errors of shadow replays, loss scale, each drawn to a given width.

Beside each, the numbers it draws: of all steps, where the line joins the extremes of every pixel column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qsim.report.findings import differences, power_of_two
from qsim.report.lines import clamp, mark, stack, trace
from qsim.report.numbers import Numbers
from qsim.report.recorded import Run
from qsim.report.sheet import INK, End, Sheet, Style, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "draw_errors",
    "draw_losses",
    "draw_scales",
    "numbers_of_errors",
    "numbers_of_losses",
    "numbers_of_scales",
    "run_styles",
]

_DECADES = 6  # a symlog axis shows at most so many on either side of zero
_ERRORS = {"gradient_error": "Error of the gradients", "update_error": "Error of the update"}


def run_styles(others: Sequence[Run]) -> list[Style]:
    """How the base and every other run are drawn, the same in every picture."""
    return [{"color": INK, "linestyle": "-"}, *(series(i) for i in range(len(others)))]


# Losses.


def draw_losses(base: Run, replays: Sequence[Run], styles: Sequence[Style], width: int) -> Sheet:
    """Loss of every run, and under it the difference of each replay to the base."""
    titles = ["Training loss", f"Loss minus the loss of {base.label}"][: 1 + bool(replays)]
    runs = [base, *replays]
    panels = stack(width, titles, runs, styles)
    ends = [_fill_losses(panels.axes[0], runs, styles)]
    if replays:
        ends.append(_fill_differences(panels.axes[1], base, replays, styles[1:]))
    return panels.finish(ends)


def numbers_of_losses(base: Run, replays: Sequence[Run]) -> Numbers:
    """By step: losses, differences to the base where both are finite, and skipped steps where there is one."""
    columns: dict[str, Mapping[int, Any]] = {f"loss of {run.label}": run.losses for run in (base, *replays)}
    columns |= {f"{run.label} minus {base.label}": differences(base, run) for run in replays}
    return _by_step(columns | _skipped((base, *replays)))


def _skipped(runs: Sequence[Run]) -> dict[str, dict[int, int]]:
    """1 where a step was skipped, of the runs that skipped any."""
    steps = {f"{run.label} skipped": (set(run.skipped), run.rows) for run in runs if run.skipped}
    return {name: {step: int(step in chosen) for step in rows} for name, (chosen, rows) in steps.items()}


def _by_step(columns: Mapping[str, Mapping[int, Any]]) -> Numbers:
    """One row a step that any column has."""
    steps = sorted({step for column in columns.values() for step in column})
    rows = [(step, *(column.get(step) for column in columns.values())) for step in steps]
    return Numbers(columns=("step", *columns), rows=rows)


def _fill_losses(axes: Axes, runs: Sequence[Run], styles: Sequence[Style]) -> list[End]:
    ends = []
    for row, (run, style) in enumerate(zip(runs, styles, strict=True)):
        ends += trace(axes, run.label, style, run.losses, linewidth=2.4 if row == 0 else 1.4)
    mark(axes, runs, styles, "not finite")
    mark(axes, runs, styles, "skipped")
    axes.margins(y=0.2 if any(run.skipped for run in runs) else 0.12)
    finite = [clamp(x) for run in runs for x in run.losses.values() if math.isfinite(x)]
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
        values += map(clamp, points.values())
        gaps = {step: points.get(step, math.nan) for step in run.losses}
        ends += trace(axes, run.label, style, gaps)
    mark(axes, replays, styles, "not finite")
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
    for sign, prefix, reach in ((1, "+", 2 * high), (-1, "−", -2 * low)):
        ticks |= {sign * 10.0**e: f"{prefix}{_decimal(e)}" for e in kept if 10.0**e <= reach}
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()


def _decimal(exponent: int) -> str:
    return f"{10.0**exponent:.{max(0, -exponent)}f}" if abs(exponent) < 5 else f"1e{exponent}".replace("-", "−")


# Loss scales.


def draw_scales(runs: Sequence[Run], styles: Sequence[Style], width: int) -> Sheet:
    """Loss scale of every run, as powers of two."""
    panels = stack(width, ["Loss scale"], runs, styles)
    axes, ends = panels.axes[0], []
    for run, style in zip(runs, styles, strict=True):
        logs = {step: math.log2(scale) for step, scale in run.scales.items() if scale > 0}
        ends += trace(axes, run.label, style, logs, drawstyle="steps-post")
    mark(axes, runs, styles, "skipped")
    axes.locator_params(axis="y", integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: power_of_two(value))
    axes.tick_params(axis="y", labelsize=13)
    low, high = axes.get_ylim()
    axes.set_ylim(math.floor(low) - 0.5, math.ceil(high) + 0.5)
    return panels.finish([ends])


def numbers_of_scales(runs: Sequence[Run]) -> Numbers:
    columns: dict[str, Mapping[int, Any]] = {f"loss scale of {run.label}": run.scales for run in runs}
    return _by_step(columns | _skipped(runs))


# Errors of shadow replays.


def draw_errors(shadows: Sequence[Run], styles: Sequence[Style], width: int) -> Sheet:
    """How far the gradients and the update of every step lie from the recorded ones, on logarithmic axes."""
    panels = stack(width, list(_ERRORS.values()), shadows, styles)
    ends = []
    for axes, name in zip(panels.axes, _ERRORS, strict=True):
        named: list[End] = []
        for run, style in zip(shadows, styles, strict=True):
            errors = run.column(name)
            named += trace(axes, run.label, style, {step: errors.get(step) or math.nan for step in run.losses})
        if named:
            axes.set_yscale("log")
            axes.margins(y=0.12)
            label_decimals(axes)
        ends.append(named)
    return panels.finish(ends)


def label_decimals(axes: Axes) -> None:
    """Decimals at the ticks of a logarithmic axis, between the decades, too, where there is but one."""
    from matplotlib.ticker import LogLocator

    low, high = axes.get_ylim()
    few = high < 30 * low
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=6))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()


def numbers_of_errors(shadows: Sequence[Run]) -> Numbers:
    titles = {name: title.lower() for name, title in _ERRORS.items()}
    return _by_step({f"{titles[name]}, {run.label}": run.column(name) for name in _ERRORS for run in shadows})
