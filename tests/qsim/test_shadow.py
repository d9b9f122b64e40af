"""Shadow replays: each row is what a step from the recorded weights gives, interrupted or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from command_line import Cli
from small_runs import assert_sentence, figures, hash_rows, interrupted, small_run

from qsim.checkpoints import load_checkpoint
from qsim.policy import POLICIES
from qsim.position import Position
from qsim.rerun import Rerun, capture_step
from qsim.runs import RunError, RunFolder
from qsim.shadow import shadow
from qsim.step import Step

STEPS = 6
CHANGES = {"model.dropout": 0.1, "record.checkpoint_every": 2, "record.statistics_every": 3}
NAMES = ("fp16-noscale", "bf16")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("shadow") / "base", "fp32", **CHANGES)


@pytest.fixture(scope="module")
def shadows(base: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    return shadow(base, [POLICIES[name] for name in NAMES], tmp_path_factory.mktemp("shadows"))


def rows(run: RunFolder) -> list[dict[str, Any]]:
    return list(run.rows("metrics.jsonl"))


def norm(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b).sum() / np.square(a).sum()))


def flat(tree: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.asarray(tree[name], np.float64).reshape(-1) for name in sorted(tree)])


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_row_is_a_step_from_the_recorded_weights(base: RunFolder, shadows: list[RunFolder], step: int) -> None:
    """Of a checkpoint, without any of what computes the shadow: loss, gradient and update by hand."""
    again = Rerun(base)
    before = Position.of(load_checkpoint(base.path, step - 1))
    results, states = {}, {}
    for name in ("fp32", "bf16"):
        given = again.inputs(before, POLICIES[name])
        run = Step(base.config, POLICIES[name], "numpy")
        states[name], results[name] = run(before.state, given.batch, given.scalars, given.keys)
    row = rows(shadows[1])[step - 1]
    assert row["step"] == step
    assert row["loss"] == float(results["bf16"]["loss"])
    assert row["loss_base"] == float(results["fp32"]["loss"])
    gradients = [flat(results[name]["gradients"]) for name in ("fp32", "bf16")]
    assert row["gradient_error"] == pytest.approx(norm(*gradients), rel=1e-12)
    changes = [flat(states[name]["parameters"]) - flat(before.state["parameters"]) for name in ("fp32", "bf16")]
    assert row["update_error"] == pytest.approx(norm(*changes), rel=1e-12)


def test_under_its_own_policy_nothing_differs(base: RunFolder, tmp_path: Path) -> None:
    (same,) = shadow(base, [POLICIES["fp32"]], tmp_path)
    assert hash_rows(same) == hash_rows(base)
    for row in rows(same):
        assert (row["loss"], row["gradient_error"], row["update_error"]) == (row["loss_base"], 0.0, 0.0)
    sites = json.loads((same.path / "statistics" / "step_000003.json").read_text())["propagation"]
    assert all(one["error"] in (0.0, None) for one in sites.values())
    assert all(one["added"] == {"underflowed": 0, "overflowed": 0} for one in sites.values())


def test_what_if_is_rounding_what_the_run_had(base: RunFolder, shadows: list[RunFolder]) -> None:
    """Counts by ml_dtypes and NumPy over the recorded run's own tensors; the shadow's own counts are the sum."""
    again = Rerun(base)
    position = again.at(2)
    tensors, _ = capture_step(again, base.policy, position, ())
    for run, dtype in zip(shadows, (np.float16, ml_dtypes.bfloat16), strict=True):
        record = json.loads((run.path / "statistics" / "step_000003.json").read_text())
        assert len(record["propagation"]) > 50
        for key, found in record["propagation"].items():
            if record["sites"][key]["format"] == "fp32":
                continue
            x = np.concatenate(
                [one.before.reshape(-1) for one in tensors if one.key == key and one.before is not None]
            )
            with np.errstate(over="ignore"):
                cast = x.astype(dtype).astype(np.float32)
            lost = int(np.count_nonzero((cast == 0) & (x != 0)))
            beyond = int(np.count_nonzero(np.isinf(cast) & np.isfinite(x)))
            assert found["what_if"] == {"underflowed": lost, "overflowed": beyond}, key
            own = record["sites"][key]
            assert own["underflowed"] == lost + found["added"]["underflowed"]
            assert own["overflowed"] == beyond + found["added"]["overflowed"]


def test_interrupted_and_resumed(base: RunFolder, shadows: list[RunFolder], tmp_path: Path) -> None:
    policies = [POLICIES[name] for name in NAMES]
    with pytest.raises(KeyboardInterrupt):
        shadow(base, policies, tmp_path, progress=interrupted(3))
    again = shadow(base, policies, tmp_path, resume=True)
    for run, whole in zip(again, shadows, strict=True):
        assert hash_rows(run) == hash_rows(whole)
        assert figures(run) == figures(whole)


def test_some_steps(base: RunFolder, shadows: list[RunFolder], tmp_path: Path) -> None:
    (part,) = shadow(base, [POLICIES["bf16"]], tmp_path, first=3, steps=2)
    assert hash_rows(part) == hash_rows(shadows[1])[3:5]


def test_a_loss_scale_of_its_own(tmp_path: Path) -> None:
    """Halved at every step that overflows, from one row to the next and over a resumption."""
    base = small_run(tmp_path / "base", "fp32", **CHANGES)
    scaled = POLICIES["fp16"].with_(name="loud", loss_scaling=POLICIES["fp16"].loss_scaling.__class__(
        mode="dynamic", initial=2.0**30
    ))  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        shadow(base, [scaled], tmp_path / "runs", progress=interrupted(2))
    (run,) = shadow(base, [scaled], tmp_path / "runs", resume=True)
    scales = [row["loss_scale"] for row in rows(run)]
    skipped = [row["skipped"] for row in rows(run)]
    assert skipped[:2] == [True, True]
    assert scales == [2.0 ** (30 - sum(skipped[:i])) for i in range(STEPS)]


def test_the_report_and_the_command(base: RunFolder, tmp_path: Path, cli: Cli) -> None:
    words = (
        "replay",
        base.path,
        "--as",
        "bf16",
        "--as",
        "fp8",
        "--mode",
        "shadow",
        "--steps",
        2,
        "--out",
        tmp_path / "s",
    )
    found = cli.rows(*words)
    assert [row["policy"] for row in found] == ["bf16", "fp8"]
    assert 0 < found[0]["gradient error"] < found[1]["gradient error"] < 0.5
    code, _, message = cli("report", base.path, tmp_path / "s" / "bf16", "--out", tmp_path / "page.html")
    assert code == 0, message
    assert "bf16" in (tmp_path / "page.html").read_text()
    assert_sentence(cli.refused(tmp_path, *words), "exists already")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--from", 6), ["--from is 6", "0 to 5"]),
        (("--steps", 9), ["9", "6 steps"]),
        (("--steps", 0), ["steps is 0"]),
        (("--inject", "1:logits:fprop:0:0"), ["--inject", "free"]),
        (("--devices", 2), ["--devices", "free"]),
        (("--sites", "x"), ["--mode operands"]),
    ],
)
def test_what_is_refused(
    base: RunFolder, tmp_path: Path, cli: Cli, words: tuple[object, ...], parts: list[str]
) -> None:
    asked = ("replay", base.path, "--as", "bf16", "--mode", "shadow", "--out", tmp_path / "s", *words)
    assert_sentence(cli.refused(tmp_path, *asked), *parts)


def test_a_run_that_its_arithmetic_does_not_give(tmp_path: Path) -> None:
    other = small_run(tmp_path / "other" / "run", "fp32", **CHANGES)
    lines = (other.path / "hashes.jsonl").read_text().splitlines()
    row = json.loads(lines[1]) | {"parameters": "0" * 64}
    (other.path / "hashes.jsonl").write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]) + "\n")
    with pytest.raises(RunError) as error:
        shadow(other, [POLICIES["bf16"]], tmp_path / "s")
    assert_sentence(error.value, "step 2", "qsim verify")
