"""Experiments whose rows are none of the store's: each makes tables of its own, in parts.

A part is made once: its rows are appended to ``NAME.jsonl`` as it ends, and what interrupts the work loses the part
it is at, no more.  Tables (CSV), a picture and a verdict are made of all parts that are there.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.judging import Verdict
from experiments.outcome import draw_into
from experiments.scales import Scale
from qsim import strict_json
from qsim.atomic import append_line, sync_file, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
Part = Mapping[str, Any]
Tables = dict[str, list[Row]]


@dataclass(frozen=True, kw_only=True)
class Standalone:
    """One file of this folder that has tables of its own.

    paper: what it answers to.  parts: at a scale, each as JSON values that say all that its rows depend on, ``seed``
    among them.  make: the rows of a part by table.  judge, draw: of all rows by table.  seconds: what a part takes
    on two cores.  shown: the table that is printed.
    """

    name: str
    claim: str
    paper: str
    parts: Callable[[Scale], Sequence[Part]]
    make: Callable[[Part], Tables]
    judge: Callable[[Tables], Verdict]
    draw: Callable[[Tables], Figure]
    seconds: Callable[[Part], float]
    shown: Callable[[Tables], list[Row]]

    def at(self, scale: Scale) -> Sequence[Part]:
        """Its parts at a scale."""
        return self.parts(scale)


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """CSV of rows, which all have the fields of the first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _identity(part: Part) -> str:
    return json.dumps(part, sort_keys=True)


def _kept(experiment: Standalone, out: Path) -> dict[str, dict[str, Any]]:
    """What is there of its parts; a last line cut short by a kill is none."""
    path = out / f"{experiment.name}.jsonl"
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return {_identity(one["part"]): one for one in map(strict_json.loads, lines)}


def planned(experiment: Standalone, scale: Scale, out: Path) -> list[dict[str, Any]]:
    """A line a part, as ``qsim experiment --plan`` shows rows."""
    kept = _kept(experiment, out)
    return [
        {
            "variant": experiment.name,
            "seed": part["seed"],
            "policy": ", ".join(f"{name} {value}" for name, value in part.items() if name not in ("seed", "steps")),
            "steps": part["steps"],
            "done": _identity(part) in kept,
            "seconds": 0.0 if _identity(part) in kept else round(experiment.seconds(part), 1),
            "wanted by": experiment.name,
            "key": "-",
        }
        for part in experiment.at(scale)
    ]


def make_parts(
    experiment: Standalone, scale: Scale, out: Path, deadline: float | None, say: Callable[[str], None]
) -> None:
    """Make the parts that are not there; none is begun after the deadline of ``time.time``."""
    for part in experiment.at(scale):
        if _identity(part) in _kept(experiment, out):
            continue
        if deadline is not None and time.time() >= deadline:
            return
        began = time.perf_counter()
        tables = experiment.make(part)
        seconds = round(time.perf_counter() - began, 3)
        path = out / f"{experiment.name}.jsonl"
        _drop_cut_line(path)
        append_line(path, strict_json.dumps({"part": part, "seconds": seconds, "tables": tables}))
        sync_file(path)
        say(f"{experiment.name}, {', '.join(f'{name} {value}' for name, value in part.items())}: {seconds:.0f} s")


def _drop_cut_line(path: Path) -> None:
    data = path.read_bytes() if path.is_file() else b""
    if data and not data.endswith(b"\n"):
        write_atomically(path, data[: data.rfind(b"\n") + 1])


def concluded(experiment: Standalone, scale: Scale, out: Path) -> dict[str, Any]:
    """Write tables and picture; the record, as ``experiments.outcome`` has it of the others."""
    record: dict[str, Any] = {"experiment": experiment.name, "claim": experiment.claim, "paper": experiment.paper}
    record |= {"scale": scale.name}
    parts, kept = list(map(_identity, experiment.at(scale))), _kept(experiment, out)
    if not all(part in kept for part in parts):
        return record | {"outcome": None, "reason": "not all parts are there yet", "table": []}
    found = [kept[part] for part in parts]
    tables: Tables = {}
    for one in found:
        for name, rows in one["tables"].items():
            tables.setdefault(name, []).extend(rows)
    for name, rows in tables.items():
        write_table(out / f"{name}.csv", rows)
    draw_into(out, experiment.name, lambda: experiment.draw(tables))
    verdict = experiment.judge(tables)
    seeds = len({one["part"]["seed"] for one in found})
    record |= {"outcome": verdict.outcome, "reason": verdict.reason, "seeds": seeds, "note": None}
    return record | {"seconds": round(sum(one["seconds"] for one in found), 1), "table": experiment.shown(tables)}
