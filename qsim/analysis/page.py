"""What ``--out`` holds: analysis.json, a CSV of every table, figures as SVG and PNG, and a self-contained page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qsim import strict_json
from qsim.analysis.comparison import ComparisonRow, compare
from qsim.analysis.figures import figures
from qsim.analysis.results import Analysis, tables
from qsim.analysis.summaries import FormatTotal, by_format, outlier_table, overview
from qsim.atomic import write_atomically
from qsim.report.numbers import Numbers
from qsim.report.sheet import Figure
from qsim.report.svg import PALETTE

__all__ = ["as_json", "write"]

_TEMPLATES = Path(__file__).parents[1] / "templates"
_MOST_ROWS = 40  # of massive activations on the page


def as_json(analyses: Sequence[Analysis]) -> dict[str, Any]:
    """Every row of every model, and the comparison: what ``qsim.strict_json`` writes."""
    return {
        "models": [dataclasses.asdict(one) for one in analyses],
        "comparison": [dataclasses.asdict(row) for row in compare(analyses)],
    }


def write(analyses: Sequence[Analysis], folder: Path, *, block: int | None = None) -> list[Path]:
    """Into a folder, made where it is not there; paths of what was written.  Each file is whole or absent.

    block: whose distributions are drawn, the middle one by default.
    """
    drawn, compared = figures(analyses, block), compare(analyses)
    files: dict[str, str | bytes] = {"analysis.json": strict_json.dumps(as_json(analyses))}
    files |= {f"{name}.csv": table.csv() for name, table in tables(analyses).items()}
    if compared:
        files["comparison.csv"] = _comparison(compared).csv()
    files |= {f"{figure.name}.svg": figure.file for figure in drawn}
    files |= {f"{figure.name}.png": figure.png for figure in drawn}
    files["analysis.html"] = html(analyses, compared, drawn)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomically(folder / name, data.encode("utf-8") if isinstance(data, str) else data)
    return [folder / name for name in files]


def _comparison(rows: Sequence[ComparisonRow]) -> Numbers:
    return Numbers(
        columns=tuple(field.name for field in dataclasses.fields(ComparisonRow)),
        rows=[dataclasses.astuple(row) for row in rows],
    )


def html(analyses: Sequence[Analysis], compared: Sequence[ComparisonRow], drawn: Sequence[Figure]) -> str:
    """The page as text; it makes no request."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(palette=PALETTE)
    environment.filters.update(short=_short, count="{:,}".format, sorting=_sorting)
    massive = sorted(
        ((one.model, row) for one in analyses for row in one.massive), key=lambda pair: -abs(pair[1].value)
    )
    totals: list[FormatTotal] = [row for one in analyses for row in by_format(one)]
    return environment.get_template("analysis.html").render(
        analyses=analyses,
        comparison=compared,
        figures={figure.name: figure for figure in drawn},
        overview=[row for one in analyses for row in overview(one)],
        outliers=outlier_table(analyses),
        massive=massive[:_MOST_ROWS],
        massive_count=len(massive),
        formats=totals,
    )


def _short(value: float | int | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _sorting(value: float | int | None) -> str:
    return "" if value is None or value != value else str(value).replace("inf", "Infinity")
