"""Experiments with tables of their own: parts made once, tables, pictures and verdicts of them."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from experiments import fp16_attribution, frozen_gains, half_precision_evidence
from experiments.catalogue import NAMES, STANDALONE, experiments_named
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD, Verdict
from experiments.scales import SCALES
from experiments.standalone import Part, Standalone, Tables, concluded, make_parts, planned

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "results"
SMOKE, SMALL = SCALES["smoke"], SCALES["small"]


class Counted:
    """An experiment of two parts that counts how often each is made."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.told: list[str] = []

    def make(self, part: Part) -> Tables:
        self.made.append(part["seed"])
        return {"counted": [{"seed": part["seed"], "x": 0.5}], "counted_more": [{"y": "z"}]}

    def experiment(self) -> Standalone:
        return Standalone(
            name="counted",
            claim="counts",
            paper="nowhere",
            parts=lambda _: [{"seed": seed, "steps": 2} for seed in range(2)],
            make=self.make,
            judge=lambda tables: Verdict(outcome=REPRODUCED, reason=str(len(tables["counted"]))),
            draw=lambda _: Figure(),
            seconds=lambda part: 3.0 * part["steps"],
            shown=lambda tables: tables["counted"],
        )

    def run(self, out: Path, deadline: float | None = None) -> dict[str, Any]:
        make_parts(self.experiment(), SMOKE, out, deadline, self.told.append)
        return concluded(self.experiment(), SMOKE, out)


def test_parts_are_made_once(tmp_path: Path) -> None:
    counted = Counted()
    assert [line["seconds"] for line in planned(counted.experiment(), SMOKE, tmp_path)] == [6.0, 6.0]
    first, second = counted.run(tmp_path), counted.run(tmp_path)
    assert counted.made == [0, 1]
    assert first == second
    assert (first["outcome"], first["reason"], first["seeds"]) == (REPRODUCED, "2", 2)
    assert (tmp_path / "counted.csv").read_text() == "seed,x\n0,0.5\n1,0.5\n"
    assert all((tmp_path / name).is_file() for name in ("counted.png", "counted.svg", "counted_more.csv"))
    assert [line["done"] for line in planned(counted.experiment(), SMOKE, tmp_path)] == [True, True]


def test_a_part_cut_short_is_made_again(tmp_path: Path) -> None:
    counted = Counted()
    counted.run(tmp_path)
    path = tmp_path / "counted.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert concluded(counted.experiment(), SMOKE, tmp_path)["outcome"] is None
    assert counted.run(tmp_path)["outcome"] == REPRODUCED
    assert counted.made == [0, 1, 1]


def test_no_part_begins_after_the_deadline(tmp_path: Path) -> None:
    found = Counted().run(tmp_path, deadline=1.0)
    assert (found["outcome"], found["reason"]) == (None, "not all parts are there yet")


def recorded(name: str) -> list[dict[str, Any]]:
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return [{k: json.loads(v) if k in NUMBERS else v for k, v in row.items()} for row in csv.DictReader(file)]


NUMBERS = ("seed", "learning_rate", "gains", "at_1")
TABLES = {
    "frozen_gains": ("frozen_gains",),
    "half_precision_evidence": ("half_precision_runs", "half_precision_layernorm"),
    "fp16_attribution": ("fp16_attribution",),
}


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("frozen_gains", REPRODUCED),
        ("half_precision_evidence", NOT_REPRODUCED),
        ("fp16_attribution", NOT_REPRODUCED),
    ],
)
def test_verdicts_and_pictures_of_the_recorded_tables(name: str, outcome: str) -> None:
    (experiment,) = experiments_named([name])
    assert isinstance(experiment, Standalone)
    tables = {one: recorded(one) for one in TABLES[name]}
    assert experiment.judge(tables).outcome == outcome
    assert all(axes.has_data() for axes in experiment.draw(tables).axes)
    assert experiment.shown(tables)


def test_evidence_of_its_three_verdicts() -> None:
    rows = recorded("half_precision_runs")
    assert half_precision_evidence.verdict([row for row in rows if row["seed"] < 2]).outcome == UNTOLD
    worse = [row | {"held_out_loss": "9"} if "ln16" in row["policy"] else row for row in rows]
    assert half_precision_evidence.verdict(worse).outcome == REPRODUCED
    lossless = [row | {"share": "0"} if row["policy"] == "fp16-noscale" else row for row in worse]
    assert half_precision_evidence.verdict(lossless).outcome == NOT_REPRODUCED


def test_attribution_names_what_its_recorded_table_names() -> None:
    reason = fp16_attribution.judge({"fp16_attribution": recorded("fp16_attribution")}).reason
    assert "fp16-noscale: not scores; named instead: logits, loss, parameters" in reason


@pytest.mark.parametrize("name", STANDALONE)
def test_parts_say_all_that_rows_depend_on(name: str) -> None:
    (experiment,) = experiments_named([name])
    assert isinstance(experiment, Standalone)
    assert experiment.name == name
    small = experiment.at(SMALL)
    assert all({"seed", "steps"} <= set(part) for part in small)
    assert len({json.dumps(part) for part in small}) == len(small)
    assert len(experiment.at(SMOKE)) == 1
    assert experiment.seconds(small[0]) > experiment.seconds(experiment.at(SMOKE)[0])
    assert "Rule, written" in (__import__(f"experiments.{name}", fromlist=["x"]).__doc__ or "")


def test_the_recorded_table_of_gains_is_that_of_small() -> None:
    wanted = {
        (part["learning_rate"], part["seed"]) for part in frozen_gains.parts(dataclasses.replace(SMALL, seeds=3))
    }
    assert {(row["learning_rate"], row["seed"]) for row in recorded("frozen_gains")} == wanted
    assert NAMES[-len(STANDALONE) :] == STANDALONE
