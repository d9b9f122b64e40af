"""One self-contained page about a recorded run and its replays: no script, no request, inline SVG."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qsim.atomic import write_atomically
from qsim.report import distributions, figures, findings, loss_scales
from qsim.report.headline import headline, scheme_name
from qsim.report.recorded import HASHED, KINDS, Run, Site, read_run
from qsim.report.sheet import SERIES, Picture, draw
from qsim.report.updates import Swallowed, WhatIf, by_parameter
from qsim.what_if import SCALES

__all__ = ["render", "write_report"]

_TEMPLATES = Path(__file__).parents[1] / "templates"
_WORST = 10  # sites shown before the table is unfolded
_UNKNOWN = "not recorded"


def write_report(base: Path, replays: Sequence[Path], out: Path) -> Path:
    """Write the report of a run and its replays; gives the path of the page.

    base, replays: run folders, read only.  out: the page (a name ending in .html), or the folder to put
    ``report.html`` into.  The page replaces an older one in one step.
    Errors: ReportError, naming the file and the remedy, for a folder that is no run or holds a damaged file.
    """
    runs = _tell_apart([read_run(Path(folder)) for folder in (base, *replays)])
    page = render(runs[0], runs[1:])
    path = Path(out) if Path(out).suffix == ".html" else Path(out) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode("utf-8"))
    return path


def render(base: Run, replays: Sequence[Run]) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(share=findings.share, signed=findings.signed, loss=findings.loss)
    environment.filters.update(count=findings.count)
    return environment.get_template("report.html").render(_context(base, replays))


def _context(base: Run, replays: Sequence[Run]) -> dict[str, Any]:
    """Everything the template prints."""
    runs = [base, *replays]
    scaled = [i for i, run in enumerate(runs) if run.scaled_dynamically]
    return {
        "base": base,
        "replays": replays,
        "runs": runs,
        "headline": headline(base, replays),
        "reservations": findings.reservations(base, replays),
        "marked": {
            "skipped": any(run.skipped for run in runs),
            "not_finite": any(run.not_finite for run in runs),
        },
        "summary": [_summary(base, run, i) for i, run in enumerate(runs)],
        "losses": _losses(base, replays),
        "exponents": _exponents(base),
        "scaled_up": max(base.scales.values(), default=1.0) > 1,
        "lossy": [_lossy(run, i) for i, run in enumerate(runs) if run.sites and (i or not replays)],
        "updates": [_updates(run) for run in runs if run.swallowed],
        "what_if": _what_if(runs),
        "quantization": _quantization(base),
        "scales": _scales(runs, scaled),
        "scaled": [runs[i].label for i in scaled],
        "records": [_record(base, run) for run in runs],
    }


def _tell_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs of one policy get the names of their folders, and a number where those agree, too."""
    labels = Counter(run.label for run in runs)
    named = [run.label if labels[run.label] == 1 else f"{run.label} ({run.folder.name})" for run in runs]
    seen: Counter[str] = Counter()
    for i, name in enumerate(named):
        seen[name] += 1
        named[i] = name if seen[name] == 1 else f"{name} #{seen[name]}"
    return [replace(run, label=name) for run, name in zip(runs, named, strict=True)]


def _summary(base: Run, run: Run, index: int) -> dict[str, Any]:
    """One row of the table of runs."""
    planned = "" if run.planned is None or run.planned == run.last_step else f" of {run.planned:,}"
    return {
        "label": run.label,
        "series": f"--series-{(index - 1) % len(SERIES) + 1}" if index else "",
        "steps": f"{run.last_step:,}{planned}",
        "loss": findings.loss(run.losses.get(run.last_step)),
        "held_out": findings.loss(run.held_out[max(run.held_out)] if run.held_out else None),
        "difference": findings.compare_losses(base, run) if index else "–",
        "underflowed": findings.share(run.total("underflowed"), run.total("nonzero")) if run.sites else "–",
        "overflowed": findings.count(run.total("overflowed")) if run.sites else "–",
        "skipped": len(run.skipped),
        "hashes": findings.compare_hashes(base, run) if index else "–",
    }


# Pictures.


def _losses(base: Run, replays: Sequence[Run]) -> Picture | None:
    if not any(run.losses for run in (base, *replays)):
        return None
    label = f"Loss over steps of {', '.join(run.label for run in (base, *replays))}"
    return draw("loss", label, lambda width: figures.draw_losses(base, replays, width))


def _exponents(run: Run) -> Picture | None:
    if not any(run.exponents(kind) for kind in KINDS):
        return None
    label = f"Exponents of the values of {run.label} beside the ranges of fp16, bf16 and fp32"
    return draw("exponents", label, lambda width: distributions.draw_exponents(run, width))


def _scales(runs: Sequence[Run], scaled: Sequence[int]) -> Picture | None:
    styles = figures.run_styles(runs[1:])
    chosen = [runs[i] for i in scaled]
    if not chosen:
        return None
    label = f"Loss scale over steps of {', '.join(run.label for run in chosen)}"
    return draw("scale", label, lambda width: figures.draw_scales(chosen, [styles[i] for i in scaled], width))


def _lossy(run: Run, index: int) -> dict[str, Any]:
    """What a run lost by site: a picture where anything was lost, and the rows of the table."""
    ordered = findings.worst_sites(run.sites)
    lost = [site for site in ordered if site.lost()]
    label = f"Share of values lost to underflow in {run.label}, by layer and site"
    picture = draw(f"heat-{index}", label, lambda width: distributions.draw_heat(run.sites, width)) if lost else None
    return {
        "run": run,
        "lost": len(lost),
        "picture": picture,
        "worst": [_site_row(site) for site in lost[:_WORST]],
        "all": [_site_row(site) for site in ordered],
    }


def _updates(run: Run) -> dict[str, Any]:
    """What the parameters of a run did not take up: all layers of each together, then one by one."""
    together = by_parameter(run.swallowed)
    return {
        "run": run,
        "formats": list(together[0].elsewhere),
        "lost": sum(one.counts["swallowed"] + one.counts["swallowed_decays"] for one in run.swallowed),
        "together": [_update_row(one) for one in together],
        "all": [_update_row(one) for one in run.swallowed],
    }


def _update_row(one: Swallowed) -> dict[str, Any]:
    return {"name": one.name, "format": one.format, "elsewhere": one.elsewhere, **one.counts}


def _what_if(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The gradients of the first run that counted them."""
    run = next((run for run in runs if run.what_if is not None), None)
    if run is None or (found := run.what_if) is None:
        return None
    label = f"Share of the gradients of {run.label} that would be lost, by format and loss scale"
    drawn = draw("what-if", label, lambda width: loss_scales.draw_what_if(found, SCALES, width))
    return {"run": run, "picture": drawn, "finite": found.finite, "rows": [_scale_row(found, k) for k in SCALES]}


def _scale_row(found: WhatIf, k: int) -> dict[str, Any]:
    lost = [(found.underflowed[fmt].get(k, 0), found.overflowed[fmt].get(k, 0)) for fmt in found.underflowed]
    return {"scale": findings.power_of_two(k), "lost": lost}


def _site_row(site: Site) -> dict[str, Any]:
    where = site.site if site.layer is None else f"{site.site} {site.layer}"
    return {"where": where, "kind": site.kind or "–", "format": site.format, **site.counts}


def _quantization(run: Run) -> dict[str, Any] | None:
    if run.quantization is None:
        return None
    rows = [row for row in run.quantization.get("layers") or [] if isinstance(row, Mapping)]
    label = f"SQNR and RMSE of INT8 in {run.label}, by layer and site"
    drawing = draw("int8", label, lambda width: distributions.draw_quantization(rows, width)) if rows else None
    losses = run.quantization.get("validation_loss") or {}
    return {
        "name": scheme_name(run),
        "scheme": run.quantization.get("scheme", "int8"),
        "tokens": run.quantization.get("tokens"),
        "before": losses.get("before"),
        "after": losses.get("after"),
        "picture": drawing,
        "rows": rows,
    }


# What was run.


def _record(base: Run, run: Run) -> dict[str, Any]:
    """A run's own account of itself, as tables of plain text."""
    config = {name: value for name, value in run.config.items() if name != "policy"}
    policy = dict(run.policy)
    sites = [row for row in policy.pop("sites", None) or [] if isinstance(row, Mapping)]
    last = max(run.hashes, default=None)
    final = {} if last is None else run.hashes[last]
    return {
        "run": run,
        "last_hashed": last,
        "parameters": final.get("parameters", _UNKNOWN),
        "hashes": [(part, final[part]) for part in HASHED if part in final],
        "data": run.data.get("sha256", _UNKNOWN),
        "executor": run.config.get("executor", _UNKNOWN),
        "seed": run.config.get("seed", _UNKNOWN),
        "tables": [
            (name, flatten(value))
            for name, value in (
                ("Configuration", config),
                ("Policy", policy),
                ("Data", run.data),
                ("Environment", run.environment),
            )
            if value and (run is base or name != "Data" or value != base.data)
        ],
        "columns": list(dict.fromkeys(name for row in sites for name in row)),
        "sites": [{name: plain(value) for name, value in row.items()} for row in sites],
    }


def flatten(value: object, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as rows of a dotted name and plain text."""
    if not isinstance(value, Mapping):
        return [(prefix, plain(value))]
    return [row for name, inner in value.items() for row in flatten(inner, f"{prefix}.{name}" if prefix else name)]


def plain(value: object) -> str:
    """A JSON value as a reader wants it: text bare, lists by commas, null as a dash."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(map(plain, value))
    return json.dumps(value)
