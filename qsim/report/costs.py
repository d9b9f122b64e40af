"""What ``qsim attribute`` wrote, read back: what each unit of other arithmetic costs, or the smallest set kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsim import strict_json
from qsim.report.findings import plural
from qsim.report.json_files import ReportError, as_mapping, read_object
from qsim.report.numbers import Numbers
from qsim.report.sheet import INK, SERIES, WIDE, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Costs", "Kept", "draw_costs", "numbers_of_costs", "read_attribution"]

_WAYS = {"alone": "One swapped, the rest as recorded", "all but": "All swapped but one"}
_MOST = 30  # bars of a panel
_BAR, _LETTER = 19.0, 6.4  # CSS pixels of a bar's row and of a letter of its name


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of every unit: the rows of ``qsim.attribution.Cost``."""

    path: Path
    base: str
    other: str
    step: int
    batches: int
    scale: float
    whole: Mapping[str, Any]
    alone: Sequence[Mapping[str, Any]]
    all_but: Sequence[Mapping[str, Any]]
    parts: Sequence[Mapping[str, Any]]

    @property
    def drawn(self) -> list[Mapping[str, Any]]:
        """Those with a bar: of each way, as many as there is room for, in the order of what they cost alone."""
        names = [cost["unit"] for cost in self.alone][:_MOST]
        others = {cost["unit"]: cost for cost in self.all_but}
        return [*self.alone[:_MOST], *(others[name] for name in names if name in others)]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The smallest set found that must stay as it is (``qsim.minimal.Minimal``)."""

    path: Path
    base: str
    other: str
    steps: int
    tolerance: float
    kept: Sequence[str] | None
    deviation: float
    without: float
    tried: int
    search: str

    @property
    def words(self) -> str:
        """The finding as one sentence."""
        limits = f"within {self.tolerance:g} of the recorded ones over {plural(self.steps, 'step')}"
        end = f" ({plural(self.tried, 'short run')}; {self.search})."
        if self.kept is None:
            return f"No set of sites of {self.base} kept the losses {limits} with the rest in {self.other}{end}"
        if not self.kept:
            start = f"Nothing had to stay in {self.base}: all in {self.other}, losses lay {limits}"
            return f"{start}, at most {self.deviation:.2g} apart{end}"
        stay = f"where {'these stay' if len(self.kept) > 1 else 'this one stays'} in {self.base}"
        return (
            f"With the rest in {self.other}, losses lay {limits} {stay}: {', '.join(self.kept)}; "
            f"at most {self.deviation:.2g} apart, and {self.without:.2g} with none{end}"
        )


def read_attribution(path: Path) -> Costs | Kept:
    """What ``qsim attribute --out`` wrote; ReportError where it is none of its files."""
    if not path.is_file():
        raise ReportError(f"{path} is no file; name one that `qsim attribute RUN --to POLICY --out FILE.json` wrote")
    value = read_object(path, strict_json.loads)
    try:
        return _kept(path, value) if "kept" in value else _costs(path, value)
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{path} is no file of `qsim attribute` ({error!r}); write it again") from error


def _costs(path: Path, value: Mapping[str, Any]) -> Costs:
    groups = {name: list(map(_checked, value[name])) for name in ("alone", "all_but", "parts")}
    if not groups["alone"]:
        raise ValueError("it holds no unit")
    return Costs(
        path=path,
        base=str(value["base"]),
        other=str(value["other"]),
        step=int(value["step"]),
        batches=int(value["batches"]),
        scale=float(value["scale"]),
        whole=_checked(value["whole"]),
        **groups,
    )


def _checked(cost: Any) -> Mapping[str, Any]:
    """A cost with all that a table shows of it."""
    for name in ("unit", "way", "underflowed", "overflowed", "not_finite"):
        cost[name]
    for measure in ("loss", "gradient", "update"):
        if not {"mean", "low", "high"} <= set(as_mapping(cost[measure])):
            raise KeyError(measure)
    return as_mapping(cost)


def _kept(path: Path, value: Mapping[str, Any]) -> Kept:
    kept = value["kept"]
    return Kept(
        path=path,
        base=str(value["base"]),
        other=str(value["other"]),
        steps=int(value["steps"]),
        tolerance=float(value["tolerance"]),
        kept=None if kept is None else [str(name) for name in kept],
        deviation=float(value["deviation"]),
        without=float(value["without"]),
        tried=int(value["tried"]),
        search=str(value["search"]),
    )


# The bars.


def numbers_of_costs(costs: Costs) -> Numbers:
    """Error of the gradients by unit and way, and the interval of 95 % of its mean over batches."""
    rows = [
        (cost["unit"], cost["way"], *(cost["gradient"][name] for name in ("mean", "low", "high")))
        for cost in (costs.whole, *costs.drawn)
    ]
    return Numbers(columns=("unit", "way", "gradient error", "low", "high"), rows=rows)


def draw_costs(costs: Costs, width: int) -> Sheet:
    """A bar per unit, the costliest first: what it costs alone, and what all but it cost; whiskers: the interval.

    The line across marks what everything costs at once.
    """
    units = [cost["unit"] for cost in costs.alone][:_MOST]
    groups = {way: {cost["unit"]: cost for cost in costs.drawn if cost["way"] == way} for way in _WAYS}
    wide = width == WIDE
    left = 14 + _LETTER * max(map(len, units))
    height = _BAR * len(units)
    across = (width - left - 40) / 2 if wide else width - left - 16
    sheet = Sheet(width, (height + 72) * (1 if wide else 2))
    for i, (way, title) in enumerate(_WAYS.items()):
        x, y = (left + i * (across + 28), 0.0) if wide else (left, i * (height + 72))
        sheet.text(x if wide else 4, y + 10, title, weight="bold")
        axes = sheet.axes(x, y + 24, across, height)
        _fill(axes, [groups[way].get(unit) for unit in units], costs.whole, colour=SERIES[i])
        named = not wide or not i
        axes.set_yticks(range(len(units)), units if named else [""] * len(units), color=INK)
    return sheet


def _fill(axes: Axes, costs: Sequence[Mapping[str, Any] | None], whole: Mapping[str, Any], colour: str) -> None:
    for row, cost in enumerate(costs):
        found = as_mapping(cost and cost["gradient"])
        if found.get("mean") is None or not math.isfinite(found["mean"]):
            words = "not finite" if cost and cost["not_finite"] else "–"
            axes.annotate(words, (0, row), xytext=(4, 0), textcoords="offset points", va="center", size=11, color=INK)
            continue
        axes.barh(row, found["mean"], height=0.62, color=colour, alpha=0.75, linewidth=0)
        axes.plot([found["low"], found["high"]], [row, row], color=INK, linewidth=1.4, solid_capstyle="butt")
    if (everything := whole["gradient"]["mean"]) is not None and math.isfinite(everything):
        axes.axvline(everything, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.set_ylim(len(costs) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("error of the gradients", color=INK, labelpad=3)
