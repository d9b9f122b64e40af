"""The fp64 policy: float64 throughout, on NumPy alone, all of it or nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import assert_sentence, small_config, write_text

from qsim.checkpoints import load_checkpoint
from qsim.config import ConfigError
from qsim.hashing import scalar_hash, tree_hash
from qsim.policy import POLICIES, Arithmetic, Stage, Stages
from qsim.recorders import Recorder
from qsim.replay import replay
from qsim.runs import RunFolder
from qsim.sites import Calculator
from qsim.training import train_new

POLICY = POLICIES["fp64"]


def losses(run: RunFolder) -> list[float]:
    return [row["loss"] for row in run.rows("metrics.jsonl") if "loss" in row]


def trained(out: Path, policy: str, executor: str = "numpy", **changes: Any) -> RunFolder:
    out.parent.mkdir(parents=True, exist_ok=True)
    return train_new(out, small_config(steps=3, **changes), policy, executor, [write_text(out.parent)])


def test_a_run_is_float64_and_fp32_follows_it(tmp_path: Path) -> None:
    """3 steps: float32 losses within 64 units of 2^-24 of those in float64, whose parameters no float32 holds.

    A bound of rounding errors: no bits are promised between two policies.
    """
    run, again, single = (trained(tmp_path / name, name[:4]) for name in ("fp64", "fp64-again", "fp32"))
    state = load_checkpoint(run.path, 3).state
    for part in state.values():
        assert {w.dtype for w in part.values()} == {np.dtype(np.float64)}
        assert any(np.any(w != w.astype(np.float32)) for w in part.values())
    assert run.hashes() == again.hashes()
    assert run.hashes()[3]["parameters"] == tree_hash(state["parameters"])
    np.testing.assert_allclose(losses(single), losses(run), rtol=64 * 2.0**-24)
    assert losses(single) != losses(run)
    assert not (run.path / "statistics").exists()


def test_a_run_starts_where_others_start_and_replays_as_they_do(tmp_path: Path) -> None:
    single = trained(tmp_path / "fp32", "fp32")
    run = trained(tmp_path / "fp64", "fp64")
    assert replay(single, POLICY, tmp_path / "as", executor="numpy").hashes() == run.hashes()
    assert replay(run, POLICIES["fp32"], tmp_path / "back").hashes() == single.hashes()


@pytest.mark.parametrize("executor", ["numba", "jax"])
def test_other_executors_are_refused(tmp_path: Path, executor: str) -> None:
    with pytest.raises(ConfigError, match="NumPy alone") as error:
        trained(tmp_path / "run", "fp64", executor)
    assert_sentence(error.value, "fp64", executor, "--executor numpy")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="NumPy alone"):
        Calculator(POLICY, executor)


@pytest.mark.parametrize(
    "change",
    [
        lambda: POLICY.override([("gelu.*", {"inner": "fp32"})]),
        lambda: POLICY.override([("moments", {"format": "fp32"})]),
        lambda: POLICY.quantized(),
        lambda: POLICIES["bf16"].override([("mlp_up.*", "fp64")]),
        lambda: dataclasses.replace(POLICIES["bf16"], stages=Stages(master=Stage(format="fp64"))),
        lambda: dataclasses.replace(POLICY, loss_scaling=POLICIES["fp16"].loss_scaling),
    ],
    ids=["site", "stage", "quantized", "rule", "master", "scaling"],
)
def test_it_does_not_mix(change: Any) -> None:
    with pytest.raises(ValueError, match="float64 throughout") as error:
        change()
    assert_sentence(error.value, "fp64")


def test_nothing_is_recorded() -> None:
    assert Calculator(POLICY, "numpy", Recorder()).recorder is None
    assert isinstance(POLICY, Arithmetic)
    assert [policy.name for policy in POLICIES.values() if policy.identity] == ["fp64"]


def test_hash_of_float64_written_out_by_hand() -> None:
    text = b"w [2]\n" + struct.pack("<d", 0.1) + struct.pack("<Q", 0x7FF8000000000000)
    assert tree_hash({"w": np.array([0.1, -np.nan])}) == hashlib.sha256(text).hexdigest()
    assert scalar_hash(np.float64(0.1)) == hashlib.sha256(b"loss []\n" + struct.pack("<d", 0.1)).hexdigest()
