"""The recorded table of frozen gains: its verdict, the rule behind it, and rows that are made again."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from experiments.frozen_gains import LARGEST_DIRECTION, NAMES, THRESHOLDS, runs_of, summary, verdict

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "results"
NUMBERS = {"learning_rate": float, "seed": int, "gains": int, "at_1": int}


def table() -> list[dict[str, Any]]:
    with (RESULTS / "frozen_gains.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row | {name: kind(row[name]) for name, kind in NUMBERS.items()} for row in rows]


def test_the_recorded_verdict() -> None:
    assert str(verdict(table())).startswith("reproduced: all gains of 18 runs")
    for row in table():
        fmt, _, suffix = row["policy"].partition("-")
        if suffix and LARGEST_DIRECTION * row["learning_rate"] <= THRESHOLDS[fmt]:
            assert row["gain_swallowed"] == row["gain_updates"]
            assert int(row["bias_swallowed"]) < int(row["bias_updates"])
            assert row["std_gain"] == "0.000e+00"


def test_the_rule_can_deny_its_claim() -> None:
    """One gain that moved, one frozen with a master copy, no rate below a threshold."""
    rows = table()
    one = next(row for row in rows if row["policy"] == "fp16-nomaster" and row["learning_rate"] == 1e-4)
    moved = [row | {"at_1": 319} if row is one else row for row in rows]
    assert str(verdict(moved)).startswith("not reproduced: gains moved in 1 of 18 runs")
    other = next(row for row in rows if row["policy"] == "bf16" and row["learning_rate"] == 1e-4)
    frozen = [row | {"at_1": 320} if row is other else row for row in rows]
    assert str(verdict(frozen)).startswith("not reproduced")
    assert str(verdict([row for row in rows if row["learning_rate"] == 4e-3])).startswith("cannot be told")


def test_adams_direction_is_bounded() -> None:
    """By its recurrences under gradients that grow as the bound's equality asks, in float64."""
    first = second = 0.0
    largest = 0.0
    for k in range(400):
        g = (0.95 / 0.9) ** k
        first, second = 0.9 * first + 0.1 * g, 0.95 * second + 0.05 * g * g
        largest = max(largest, first / second**0.5)
    assert largest <= LARGEST_DIRECTION * (1 + 1e-9)
    assert largest > 0.99 * LARGEST_DIRECTION


@pytest.mark.exhaustive
def test_rows_made_again(tmp_path: Path) -> None:
    """One seed at one learning rate: the table's rows, hashes and all."""
    recorded = {row["policy"]: row for row in table() if (row["learning_rate"], row["seed"]) == (1e-3, 0)}
    found = [summary(run) for run in runs_of(0, 1e-3, 100, tmp_path)]
    assert [row["policy"] for row in found] == ["fp32", *NAMES]
    for row in found:
        assert {name: str(value) for name, value in row.items()} == {
            name: str(value) for name, value in recorded[row["policy"]].items()
        }
