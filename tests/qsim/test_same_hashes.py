"""The promise as it is made: one run, whatever it computes on, has one ``hashes.jsonl``.

SHA-256 of loss, gradients, parameters and optimizer over 50 steps of a GPT of four layers, with dropout, clipping
and, where the loss scale is dynamic, skipped steps: NumPy = Numba = JAX = JAX on 2, 4 and 8 devices, split along
data, tensors or both = 2 processes of 2 devices.  The whole is under the mark ``exhaustive``; a few steps are always
run by ``test_equality`` (executors) and ``test_sharding`` (meshes, processes).
"""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from processes import environment, free_port
from small_runs import hash_rows, write_text

from qsim.runs import RunFolder

STEPS = 50
POLICIES = ("fp32", "bf16", "fp16", "fp16-ln16", "fp8", "int8-train", "bf16-sr")
SINGLE = ("numpy", "numba", "jax")
MESHES = ("data=2", "model=2", "data=4", "model=4", "data=2,model=2", "data=8", "data=4,model=2", "data=2,model=4")
PROCESSES = "processes:data=2,model=2"
SCRIPT = Path(__file__).with_name("one_policy_everywhere.py")


def train(devices: int, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", str(SCRIPT), *map(str, words)]
    return subprocess.Popen(
        command, env=environment(devices), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        out, err = process.communicate(timeout=3600)
        assert process.returncode == 0, err
        print(out, end="")


@pytest.mark.exhaustive
@pytest.mark.parametrize("policy", POLICIES)
def test_one_run_has_the_same_hashes_everywhere(tmp_path: Path, policy: str) -> None:
    write_text(tmp_path)
    finish([train(8, tmp_path, policy, STEPS, *SINGLE, *MESHES)])
    coordinator = f"127.0.0.1:{free_port()}"
    finish([train(2, tmp_path, policy, STEPS, PROCESSES, "--join", coordinator, i) for i in range(2)])

    reference = hash_rows(tmp_path / "numpy")
    assert [sorted(row) for row in reference] == [["gradients", "loss", "optimizer", "parameters", "step"]] * STEPS
    for place in (*SINGLE, *MESHES, PROCESSES):
        for expected, found in zip(reference, hash_rows(tmp_path / place), strict=True):
            assert found == expected, f"{policy} on {place} parts from NumPy at step {expected['step']}"
    assert_worth_comparing(RunFolder(tmp_path / "numpy"))


def assert_worth_comparing(run: RunFolder) -> None:
    """Every step computes something else; some gradients are clipped and some not; a scale goes down and up again."""
    rows = [row for row in run.rows("metrics.jsonl") if "validation_loss" not in row]
    assert len({row["gradients"] for row in hash_rows(run)}) > STEPS - 10
    norms = [row["gradient_norm"] for row in rows if not row["skipped"]]
    assert min(norms) < (run.config.optimizer.clip or 0) < max(norms)
    scales = [row["loss_scale"] for row in rows]
    if run.policy.loss_scaling.mode == "dynamic":
        changes = {after / before for before, after in pairwise(scales)}
        assert changes == {0.5, 1.0, 2.0}
        assert any(row["skipped"] for row in rows)
