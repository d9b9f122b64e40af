"""One self-contained page about a recorded run and its replays, and the same for machines.

The page makes no request: pictures are inline SVG, numbers are addresses that hold them, and the one script, which
sorts tables, is inline, too; nothing is missing without it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from qsim.atomic import write_atomically
from qsim.report import curves, findings, sections
from qsim.report.costs import Costs, Kept, read_attribution
from qsim.report.headline import headline
from qsim.report.recorded import Run, read_run
from qsim.report.records import record_of
from qsim.report.sheet import Figure
from qsim.report.svg import PALETTE

__all__ = ["Report", "read_report", "write_report"]

_TEMPLATES = Path(__file__).parents[1] / "templates"


def write_report(base: Path, replays: Sequence[Path], out: Path, *, attributions: Sequence[Path] = ()) -> Path:
    """Write the report of a run and its replays; gives the path of the page.

    base, replays: run folders, read only.  out: the page (a name ending in .html), or the folder to put
    ``report.html`` into.  The page replaces an older one in one step.  attributions: files of ``qsim attribute``.
    Errors: ReportError, naming the file and the remedy, for a folder that is no run or holds a damaged file.
    """
    return read_report(base, replays, attributions).write(out)


def read_report(base: Path, replays: Sequence[Path], attributions: Sequence[Path] = ()) -> Report:
    """Read what a report is about; errors as of ``write_report``."""
    runs = _tell_apart([read_run(Path(folder)) for folder in (base, *replays)])
    return Report(runs[0], runs[1:], [read_attribution(Path(path)) for path in attributions])


class Report:
    """What is said of a run, of its replays and shadows, and of what was attributed."""

    def __init__(self, base: Run, others: Sequence[Run], attributions: Sequence[Costs | Kept] = ()) -> None:
        self.base, self.others, self.attributions = base, others, attributions
        self.replays = [run for run in others if not run.is_shadow]
        self.shadows = [run for run in others if run.is_shadow]

    def write(self, out: Path) -> Path:
        """The page, see ``write_report``."""
        path = Path(out) if Path(out).suffix == ".html" else Path(out) / "report.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.html().encode("utf-8"))
        return path

    def write_files(self, folder: Path) -> list[Path]:
        """Every figure as NAME.svg, which stands alone, and its numbers as NAME.csv; their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for figure in self.figures:
            for ending, text in (("svg", figure.file), ("csv", figure.numbers.csv())):
                written.append(folder / f"{figure.name}.{ending}")
                write_atomically(written[-1], text.encode("utf-8"))
        return written

    def html(self) -> str:
        """The page as text."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            share=findings.share, signed=findings.signed, loss=findings.loss, short=findings.short, palette=PALETTE
        )
        environment.filters.update(count=findings.count, sorting=_sorting)
        return environment.get_template("report.html").render(self.contents)

    def as_json(self) -> dict[str, Any]:
        """Everything the page says, as numbers: what ``qsim.strict_json`` writes."""
        found = self.contents
        return {
            "headline": _plain(found["headline"]),
            "reservations": found["reservations"],
            "runs": [_run_as_json(row, run) for row, run in zip(found["summary"], self._runs, strict=True)],
            "sites": {item["run"].label: item["all"] for item in found["lossy"]},
            "updates": {item["run"].label: item["all"] for item in found["updates"]},
            "quantization": self.base.quantization,
            "attributions": [asdict(one) | {"path": str(one.path)} for one in self.attributions],
            "figures": {one.name: {"label": one.label} | one.numbers.as_json() for one in self.figures},
        }

    @property
    def figures(self) -> list[Figure]:
        """In the order of the page."""
        return list(_figures(self.contents))

    @property
    def _runs(self) -> list[Run]:
        return [self.base, *self.others]

    @cached_property
    def contents(self) -> dict[str, Any]:
        """Everything the template prints, in the order of the page."""
        base, others, runs = self.base, self.others, self._runs
        styles = dict(zip((run.label for run in runs), curves.run_styles(others), strict=True))
        scaled = [run for run in runs if run.scaled_dynamically]
        in_losses = [base, *self.replays]
        shadows = [run for run in runs if run.is_shadow]
        return {
            "base": base,
            "others": others,
            "replays": self.replays,
            "shadows": self.shadows,
            "headline": headline(base, self.replays, self.shadows),
            "reservations": findings.reservations(base, others),
            "marked": {
                "skipped": any(run.skipped for run in in_losses),
                "not_finite": any(run.not_finite for run in in_losses),
            },
            "losses": sections.losses(base, self.replays, [styles[run.label] for run in in_losses]),
            "summary": [sections.summary(base, run, i) for i, run in enumerate(runs)],
            "exponents": sections.exponents(base),
            "scaled_up": max(base.scales.values(), default=1.0) > 1,
            "lossy": [sections.lossy(run, i) for i, run in enumerate(runs) if run.sites and (i or not others)],
            "updates": [sections.updates(run, i) for i, run in enumerate(runs) if run.swallowed],
            "what_if": sections.what_if(runs),
            "errors": sections.errors(shadows, [styles[run.label] for run in shadows]),
            "depth": sections.by_depth(shadows, [styles[run.label] for run in shadows]),
            "costs": [sections.costs(found, i) for i, found in enumerate(self.attributions, start=1)],
            "scales": sections.scales(scaled, [styles[run.label] for run in scaled]),
            "scaled": [run.label for run in scaled],
            "quantization": sections.quantization(base),
            "records": [record_of(base, run) for run in runs],
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


def _figures(value: object) -> Iterator[Figure]:
    """All figures in nested mappings and lists."""
    if isinstance(value, Figure):
        yield value
    elif isinstance(value, Mapping | list):
        inner: Iterable[object] = value.values() if isinstance(value, Mapping) else value
        for one in inner:
            yield from _figures(one)


def _run_as_json(row: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """A row of the table of runs, and where the run lies."""
    return {
        "label": run.label,
        "path": str(run.folder),
        "shadow": run.is_shadow,
        **row["raw"],
        "planned": run.planned,
        "skipped": row["skipped"],
        "hashes": _plain(row["hashes"]),
        "parameters_sha256": run.hashes.get(run.last_step, {}).get("parameters"),
    }


def _sorting(value: float | None) -> str:
    """By what the script sorts a cell: a number as JavaScript reads it, nothing where there is none."""
    if value is None or math.isnan(value):
        return ""
    return str(value) if abs(value) != math.inf else "Infinity" if value > 0 else "-Infinity"


def _plain(words: str) -> str:
    return words.replace("\u00a0", " ")
