"""What each section of the page says, as its template takes it: figures, rows of tables, words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qsim.report import costs as attribution
from qsim.report import curves, depth, distributions, findings, heat, loss_scales, quantized, step_heat
from qsim.report.costs import Costs, Kept
from qsim.report.headline import scheme_name
from qsim.report.numbers import Numbers
from qsim.report.recorded import KINDS, Run, Site
from qsim.report.sheet import SERIES, Figure, Style, draw
from qsim.report.updates import Swallowed, WhatIf, by_parameter
from qsim.what_if import SCALES

_WORST = 10  # sites shown before the table is unfolded


def named(kind: str, index: int, label: str) -> str:
    """A figure's name, and that of its files: heat-1-fp16."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-.")
    return f"{kind}-{index}" + (f"-{words}" if words else "")


# The runs side by side


def summary(base: Run, run: Run, index: int) -> dict[str, Any]:
    """One row of the table of runs; ``raw``: its numbers, None where there is none."""
    last = findings.last_shared_step(base, run) if index else None
    counted = run.total("nonzero") if run.sites else 0
    raw: dict[str, Any] = {
        "steps": run.last_step,
        "loss": run.losses.get(run.last_step),
        "held_out": run.held_out[max(run.held_out)] if run.held_out else None,
        "difference": None if last is None else findings.differences(base, run).get(last),
        "underflowed": run.total("underflowed") / counted if counted else None,
        "overflowed": run.total("overflowed") if run.sites else None,
    }
    planned = "" if run.planned is None or run.planned == run.last_step else f" of {run.planned:,}"
    return {
        "label": run.label,
        "series": f"--series-{(index - 1) % len(SERIES) + 1}" if index else "",
        "raw": raw,
        "steps": f"{run.last_step:,}{planned}",
        "loss": findings.loss(raw["loss"]),
        "held_out": findings.loss(raw["held_out"]),
        "difference": findings.compare_losses(base, run) if index else "–",
        "underflowed": findings.share(run.total("underflowed"), counted) if run.sites else "–",
        "overflowed": "–" if raw["overflowed"] is None else findings.count(raw["overflowed"]),
        "skipped": len(run.skipped),
        "hashes": findings.compare_hashes(base, run) if index else "–",
    }


def losses(base: Run, replays: Sequence[Run], styles: Sequence[Style]) -> Figure | None:
    if not any(run.losses for run in (base, *replays)):
        return None
    label = f"Loss over steps of {', '.join(run.label for run in (base, *replays))}"
    numbers = curves.numbers_of_losses(base, replays)
    return draw("loss", label, numbers, lambda width: curves.draw_losses(base, replays, styles, width))


def scales(runs: Sequence[Run], styles: Sequence[Style]) -> Figure | None:
    """The loss scales of runs that changed it."""
    if not runs:
        return None
    label = f"Loss scale over steps of {', '.join(run.label for run in runs)}"
    numbers = curves.numbers_of_scales(runs)
    return draw("scale", label, numbers, lambda width: curves.draw_scales(runs, styles, width))


# Values


def exponents(run: Run) -> Figure | None:
    if not any(run.exponents(kind) for kind in KINDS):
        return None
    label = f"Exponents of the values of {run.label} beside the ranges of the formats"
    numbers = distributions.numbers_of_exponents(run)
    return draw("exponents", label, numbers, lambda width: distributions.draw_exponents(run, width))


def lossy(run: Run, index: int) -> dict[str, Any]:
    """What a run lost by site: pictures where anything was lost, and the rows of the table."""
    ordered = findings.worst_sites(run.sites)
    lost = [site for site in ordered if site.lost()]
    return {
        "run": run,
        "lost": len(lost),
        "figure": _heat(run, index) if lost else None,
        "by_step": _by_step(
            run,
            named("lost-by-step", index, run.label),
            f"Share of values lost to underflow and overflow in {run.label}, by site and step",
            step_heat.rounding_heats(run),
            step_heat.numbers_of_rounding(run),
        ),
        "worst": [_site_row(site) for site in lost[:_WORST]],
        "all": [_site_row(site) for site in ordered],
    }


def _heat(run: Run, index: int) -> Figure:
    label = f"Share of values lost to underflow in {run.label}, by layer and site"
    sites = sorted(run.sites, key=lambda site: run.order.get(site.site, len(run.order)))
    numbers = heat.numbers_of_heat(sites)
    return draw(named("heat", index, run.label), label, numbers, lambda width: heat.draw_heat(sites, width))


def _by_step(run: Run, name: str, label: str, heats: Sequence[step_heat.Heat], numbers: Numbers) -> Figure | None:
    """None where nothing was lost."""
    if not heats:
        return None
    return draw(name, label, numbers, lambda width: step_heat.draw_step_heat(heats, run.sampled, width))


def _site_row(site: Site) -> dict[str, Any]:
    where = site.site if site.layer is None else f"{site.site} {site.layer}"
    return {"where": where, "kind": site.kind or "–", "format": site.format, **site.counts}


# Updates and gradients


def updates(run: Run, index: int) -> dict[str, Any]:
    """What the parameters of a run did not take up: those that lost any, all of them, and layer by layer."""
    together = by_parameter(run.swallowed)
    lost = [one for one in together if one.counts["swallowed"] or one.counts["swallowed_decays"]]
    return {
        "run": run,
        "formats": list(together[0].elsewhere),
        "lost": [_update_row(one) for one in lost],
        "by_step": _by_step(
            run,
            named("swallowed-by-step", index, run.label),
            f"Share of updates swallowed in {run.label}, by parameter and step",
            step_heat.update_heats(run),
            step_heat.numbers_of_updates(run),
        ),
        "together": [_update_row(one) for one in together],
        "all": [_update_row(one) for one in run.swallowed],
    }


def _update_row(one: Swallowed) -> dict[str, Any]:
    return {"name": one.name, "format": one.format, "elsewhere": one.elsewhere, **one.counts}


def what_if(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The gradients of the first run that counted them."""
    run = next((run for run in runs if run.what_if is not None), None)
    if run is None or (found := run.what_if) is None:
        return None
    label = f"Share of the gradients of {run.label} that would be lost, by format and loss scale"
    numbers = loss_scales.numbers_of_what_if(found, SCALES)
    drawn = draw("what-if", label, numbers, lambda width: loss_scales.draw_what_if(found, SCALES, width))
    return {"run": run, "figure": drawn, "finite": found.finite, "rows": [_scale_row(found, k) for k in SCALES]}


def _scale_row(found: WhatIf, k: int) -> dict[str, Any]:
    lost = [(found.underflowed[fmt].get(k, 0), found.overflowed[fmt].get(k, 0)) for fmt in found.underflowed]
    return {"exponent": k, "scale": findings.power_of_two(k), "lost": lost}


# Errors


def errors(shadows: Sequence[Run], styles: Sequence[Style]) -> Figure | None:
    """Of shadow replays, over steps."""
    if not any(run.losses for run in shadows):
        return None
    label = f"Error of gradients and updates over steps of {', '.join(run.label for run in shadows)}"
    numbers = curves.numbers_of_errors(shadows)
    return draw("errors", label, numbers, lambda width: curves.draw_errors(shadows, styles, width))


def by_depth(shadows: Sequence[Run], styles: Sequence[Style]) -> dict[str, Any] | None:
    """Of shadow replays, by site; ``words``: at which step."""
    pairs = [(run, style) for run, style in zip(shadows, styles, strict=True) if depth.last_propagation(run)]
    if not pairs:
        return None
    runs, own = [run for run, _ in pairs], [style for _, style in pairs]
    numbers = depth.numbers_of_depth(runs)
    label = f"Error by depth of {', '.join(run.label for run in runs)}"
    drawn = draw("depth", label, numbers, lambda width: depth.draw_depth(runs, own, width))
    steps = sorted({row[1] for row in numbers.rows})
    words = f"at step {steps[0]:,}" if len(steps) == 1 else "at the last step of each with statistics"
    return {"figure": drawn, "words": words, "rows": numbers.rows}


def costs(found: Costs | Kept, index: int) -> dict[str, Any]:
    """What ``qsim attribute`` found, as bars and a table, or as a sentence."""
    if isinstance(found, Kept):
        return {"base": found.base, "other": found.other, "found": None, "words": found.words}
    label = f"Error of the gradients by unit of {found.other} swapped into {found.base}"
    groups = {"all": [found.whole], "alone": found.alone, "all but": found.all_but, "alone, a part": found.parts}
    return {
        "base": found.base,
        "other": found.other,
        "found": found,
        "figure": draw(
            named("costs", index, f"{found.base}-{found.other}"),
            label,
            attribution.numbers_of_costs(found),
            lambda width: attribution.draw_costs(found, width),
        ),
        "left_out": len(found.alone) - sum(cost["way"] == "alone" for cost in found.drawn),
        "rows": [(way, cost) for way, group in groups.items() for cost in group],
    }


# Integers


def quantization(run: Run) -> dict[str, Any] | None:
    if run.quantization is None:
        return None
    rows = [row for row in run.quantization.get("layers") or [] if isinstance(row, Mapping)]
    label = f"SQNR and RMSE of INT8 in {run.label}, by layer and site"
    numbers = quantized.numbers_of_quantization(rows)
    drawn = draw("int8", label, numbers, lambda width: quantized.draw_quantization(rows, width)) if rows else None
    found = run.quantization.get("validation_loss") or {}
    return {
        "name": scheme_name(run),
        "scheme": run.quantization.get("scheme", "int8"),
        "tokens": run.quantization.get("tokens"),
        "before": found.get("before"),
        "after": found.get("after"),
        "figure": drawn,
        "rows": rows,
    }
