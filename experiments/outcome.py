"""What experiments leave: a verdict, a table and a picture each, drawn of the rows that are there."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.experiment import Experiment
from experiments.results import Results
from experiments.rows import Row
from experiments.scales import Scale
from qsim import strict_json
from qsim.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABSENT = "no model of others beside ours; qsim experiment NAME --compare MODEL... draws them"
VERDICTS = "verdicts.json"


def results_of(experiment: Experiment, scale: Scale, data_sha256: str, rows: Mapping[str, Row]) -> Results | None:
    """The rows of an experiment, of the seeds that every variant has; None where no seed has all."""
    variants = experiment.at(scale)
    keys = [{v.label: v.training(scale, seed).key(data_sha256) for v in variants} for seed in range(scale.seeds)]
    whole = [of_seed for of_seed in keys if all(key in rows for key in of_seed.values())]
    if not whole:
        return None
    return Results(variants=variants, rows={v.label: [rows[of_seed[v.label]] for of_seed in whole] for v in variants})


def conclude(
    experiments: Sequence[Experiment],
    scale: Scale,
    data_sha256: str,
    rows: Mapping[str, Row],
    out: Path,
    compared: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Write every experiment's table and picture and all verdicts into ``out``; a record each."""
    found = [_concluded(one, scale, data_sha256, rows, out, compared) for one in experiments]
    keep(found, out)
    return found


def keep(found: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Records into the folder's verdicts, in place of earlier ones of the same experiments."""
    before = {one["experiment"]: one for one in _earlier(out / VERDICTS)}
    merged = before | {one["experiment"]: one for one in found}
    write_atomically(out / VERDICTS, (strict_json.dumps(list(merged.values()), indent=1) + "\n").encode())


def _earlier(path: Path) -> list[dict[str, Any]]:
    return strict_json.loads(path.read_text()) if path.is_file() else []


def _concluded(
    experiment: Experiment,
    scale: Scale,
    data_sha256: str,
    rows: Mapping[str, Row],
    out: Path,
    compared: Sequence[Path],
) -> dict[str, Any]:
    record: dict[str, Any] = {"experiment": experiment.name, "claim": experiment.claim, "paper": experiment.paper}
    record |= {"scale": scale.name}
    results = results_of(experiment, scale, data_sha256, rows)
    if results is None:
        return record | {"outcome": None, "reason": "not all rows of one seed are there yet", "table": []}
    verdict, table = experiment.judge(results), experiment.table(results)
    write_atomically(out / f"{experiment.name}.csv", _csv(table).encode())
    tasks = results.task_table()
    if tasks:
        write_atomically(out / f"{experiment.name}_tasks.csv", _csv(tasks).encode())
    note = _draw(experiment, results, out, compared)
    seconds = sum(row["seconds"] for of_label in results.rows.values() for row in of_label)
    record |= {"outcome": verdict.outcome, "reason": verdict.reason, "seeds": results.seeds, "note": note}
    return record | {"seconds": round(seconds, 1), "table": table, "tasks": tasks}


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _draw(experiment: Experiment, results: Results, out: Path, compared: Sequence[Path]) -> str | None:
    """The picture; what is to be said of models that it has no place for."""

    def drawn() -> Figure:
        from experiments.drawing import say  # matplotlib, which tables do without

        figure = experiment.draw(results)
        # an interval over the sequences of one seed says nothing of another
        say(figure, f"{results.seeds} seeds" if results.seeds > 1 else "one seed")
        if compared and experiment.compare is not None:
            experiment.compare(figure, results, compared)
        return figure

    draw_into(out, experiment.name, drawn)
    if experiment.compare is None:
        return "models given by --compare have no place in this figure" if compared else None
    return None if compared else ABSENT


def draw_into(out: Path, name: str, draw: Callable[[], Figure]) -> None:
    """A picture as SVG and PNG, the same bytes every time."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": name, "font.size": 8, "svg.fonttype": "none"}):
        figure = draw()
        for suffix, more in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 150})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, **more)
            write_atomically(out / f"{name}.{suffix}", buffer.getvalue())
