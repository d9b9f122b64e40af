"""The recorded tables of the half-precision experiment: what its verdicts say, and runs that give the same hashes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from small_runs import hash_rows

from qsim.config import override, preset
from qsim.policy import POLICIES
from qsim.replay import replay
from qsim.report.recorded import HASHED
from qsim.training import train_new

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "results"


def table(name: str) -> list[dict[str, str]]:
    with (RESULTS / f"half_precision_{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(policy: str, name: str) -> list[float]:
    return [float(row[name]) for row in table("runs") if row["policy"] == policy]


def total(policy: str, name: str, passes: tuple[str, ...] = ("fprop", "dgrad", "wgrad")) -> int:
    rows = [row for row in table("layernorm") if row["policy"] == policy]
    return sum(int(row[name]) for row in rows if row["site"].endswith(passes))


def test_dynamic_scaling_brings_gradients_back() -> None:
    assert column("fp16-noscale", "gradients_underflowed") == [635_900, 698_076, 670_115]
    assert column("fp16", "gradients_underflowed") == [8, 26, 19]


def test_which_the_held_out_loss_does_not_show() -> None:
    for a, b in zip(column("fp16-noscale", "held_out_loss"), column("fp32", "held_out_loss"), strict=True):
        assert abs(a - b) < 0.0003


def test_layernorm_in_fp16_lost_squares_and_nothing_to_overflow() -> None:
    assert total("fp16-ln16", "underflowed") == 3_658
    assert total("fp16-ln16", "underflowed", ("fprop",)) == 3_649
    assert [total("fp16-ln16", name) for name in ("overflowed", "infinite", "nan")] == [0, 0, 0]
    assert total("fp16", "underflowed") == 0


@pytest.mark.exhaustive
def test_runs_give_the_recorded_hashes_again(tmp_path: Path) -> None:
    """Seed 1, a few minutes at most."""
    recorded = {row["policy"]: row for row in table("runs") if row["seed"] == "1"}
    base = train_new(tmp_path / "fp32", override(preset("tiny"), "seed", 1), "fp32", "numba", None)
    runs = [base, *(replay(base, POLICIES[name], tmp_path / name) for name in ("fp16", "fp16-noscale", "fp16-ln16"))]
    for run in runs:
        last, row = hash_rows(run)[-1], recorded[run.policy.name]
        assert {name: last[name] for name in HASHED} == {name: row[f"{name}_sha256"] for name in HASHED}
