"""The same hashes on every mesh: one process of eight devices, two processes of two, and meshes that are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Cli
from processes import COMMAND, environment, set_executor, start_two
from small_runs import (
    assert_sentence,
    figures,
    hash_rows,
    interrupted,
    small_config,
    small_flags,
    small_run,
    write_text,
)

from qsim.config import ConfigError
from qsim.devices import OneDevice, check_mesh, find_devices
from qsim.mesh import Mesh, parse_mesh
from qsim.model import parameter_shapes
from qsim.policy import POLICIES, Arithmetic
from qsim.runs import RunFolder
from qsim.sharding import Shards

OPTIONS = "model.tied=true;model.positions=alibi;model.recompute=true;data.accumulation=2"
SCRIPT = Path(__file__).with_name("eight_devices_training.py")


def run_on_eight_devices(cases: list[str], layers: int, steps: int, seconds: int) -> None:
    command = [sys.executable, "-W", "error", str(SCRIPT), str(layers), str(steps), *cases]
    finished = subprocess.run(command, env=environment(8), capture_output=True, text=True, timeout=seconds)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == cases


def test_steps_on_eight_devices() -> None:
    """Hashes, counts and collectives; the positions and the vocabulary have rows that eight devices do not divide."""
    run_on_eight_devices(["fp16:data=4,model=2:data.accumulation=2"], layers=2, steps=2, seconds=600)


@pytest.mark.exhaustive
def test_steps_with_draws_and_scales_on_eight_devices() -> None:
    """The last has scales of whole parts of the batch, and draws every output by its place in the whole: rows,
    columns, heads and chunks.
    """
    run_on_eight_devices(
        ["fp16:data=8", f"fp16:data=4,model=2:{OPTIONS}", f"fp8+drawn:data=4,model=2:{OPTIONS}"],
        layers=2,
        steps=2,
        seconds=600,
    )


@pytest.mark.exhaustive
def test_draws_and_scales_on_other_meshes() -> None:
    """A part of three chunks a device, draws without a part, and both on data or model alone."""
    third = "data.accumulation=2;data.batch_size=12;data.reduction_chunks=12"
    cases = ["bf16+drawn:data=8", "bf16+drawn:model=2", "fp8+drawn:data=2:data.accumulation=4"]
    cases += [f"fp8:data=2:{third}", f"fp8:model=2:{third}", f"bf16+drawn:data=2,model=2:{third}"]
    cases += [f"fp32:data=4,model=2:{OPTIONS}"]
    run_on_eight_devices(cases, layers=2, steps=3, seconds=1200)


@pytest.mark.exhaustive
def test_options_of_the_model_on_a_mesh() -> None:
    changes = ("model.tied=true", "model.positions=sinusoidal", "model.recompute=true", "data.accumulation=2")
    cases = [f"int8-train-sr:data=2,model=2:{change}" for change in (*changes, "model.positions=alibi")]
    run_on_eight_devices(cases, layers=2, steps=3, seconds=1200)


SHARDED_POLICIES = [name for name, policy in POLICIES.items() if policy.promises_bits]


@pytest.mark.exhaustive
@pytest.mark.parametrize("policy", SHARDED_POLICIES)
def test_every_policy_on_a_mesh(policy: str) -> None:
    """With what is counted; the whole of some runs, on every mesh, is in ``test_same_hashes``.

    One splits rows alone: its blocks of 128 columns would be cut.
    """
    mesh = "data=8" if policy == "fp8-1x128" else "data=4,model=2"
    run_on_eight_devices([f"{policy}:{mesh}"], layers=4, steps=5, seconds=1200)


# Several processes


def train_in_two_processes(*words: object) -> list[str]:
    """The standard output of each."""
    started = start_two(*words)
    outcomes = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], outcomes
    return [out for out, _ in outcomes]


def assert_same_run(found: RunFolder, expected: RunFolder, *files: str) -> None:
    """Hashes, figures, and the bytes of these files."""
    assert hash_rows(found) == hash_rows(expected)
    assert figures(found) == figures(expected)
    for name in files:
        assert (found.path / name).read_bytes() == (expected.path / name).read_bytes(), name


CHANGES = {"steps": 3, "record.checkpoint_every": 1, "record.statistics_every": 0, "model.dropout": 0.1}


@pytest.mark.exhaustive
def test_two_processes_go_on_with_a_run_of_one_device(tmp_path: Path) -> None:
    """Begun by one device, ended by two processes of two: the same run."""
    whole = small_run(tmp_path / "whole" / "run", "fp16", **CHANGES)
    begun = tmp_path / "begun" / "run"
    with pytest.raises(KeyboardInterrupt):
        small_run(begun, "fp16", progress=interrupted(1), **CHANGES)
    set_executor(begun, "jax")

    first, second = train_in_two_processes("--resume", "--out", begun)
    assert first.splitlines()[1].startswith("fp16 ")
    assert second == "", "the first process alone prints"
    assert_same_run(RunFolder(begun), whole, *(f"checkpoints/step_{step}/state.safetensors" for step in (2, 3)))


@pytest.mark.exhaustive
def test_a_run_of_two_processes_and_its_verification(tmp_path: Path) -> None:
    """From its beginning, with statistics; then repeated by the devices of one process."""
    changes = CHANGES | {"record.statistics_every": 2}
    whole = small_run(tmp_path / "whole" / "run", "fp16", **changes)
    run = RunFolder(tmp_path / "run")
    text = tmp_path / "whole" / "text.txt"
    first, _ = train_in_two_processes("--policy", "fp16", "--text", text, "--out", run.path, *small_flags(**changes))
    assert first.splitlines()[1].startswith("fp16 ")
    assert_same_run(run, whole, *(f"statistics/step_{step:06d}.json" for step in (1, 2, 3)))
    assert json.loads((run.path / "environment.json").read_text())["mesh"] == "data=2,model=2"

    command = [sys.executable, "-c", COMMAND, "verify", str(run.path), "--devices", "2", "--json"]
    verified = subprocess.run(command, env=environment(2), capture_output=True, text=True, timeout=300)
    assert (verified.returncode, json.loads(verified.stdout)["equal"]) == (0, True), verified.stderr


# What is split


def test_layouts() -> None:
    """Rows of matrices over data where it divides them, columns of linear layers over model, vectors nowhere."""
    config = small_config(**{"model.length": 15}).model
    layouts = Shards.of(2, 2, parameter_shapes(config)).layouts
    assert layouts["blocks.qkv.weight"] == (None, "data", "model")
    assert layouts["logits.weight"] == ("data", "model")
    assert layouts["embedding.tokens"] == ("data", None)
    assert layouts["embedding.positions"] == (None, None)
    assert layouts["blocks.qkv.bias"] == layouts["layernorm_final.gain"] == ()
    assert not any(map(any, Shards.of(1, 1, parameter_shapes(config)).layouts.values()))


def test_one_device_needs_no_mesh() -> None:
    for mesh in (None, Mesh()):
        assert isinstance(find_devices(small_config(), POLICIES["fp32"], "numba", mesh), OneDevice)


@pytest.mark.parametrize(
    ("text", "mesh"),
    [("data=4,model=2", Mesh(data=4, model=2)), ("model=2", Mesh(model=2)), ("data=16", Mesh(data=16))],
)
def test_meshes_are_read(text: str, mesh: Mesh) -> None:
    assert parse_mesh(text) == mesh
    assert parse_mesh(str(mesh)) == mesh


@pytest.mark.parametrize(
    "text", ["", "4", "data", "data=0", "data=-1", "rows=2", "data=2,data=4", "data=2,", "data=2 "]
)
def test_what_is_no_mesh(text: str) -> None:
    with pytest.raises(ConfigError, match="is none; name numbers of devices") as error:
        parse_mesh(text)
    assert_sentence(error.value, repr(text))


# What is refused


@pytest.mark.parametrize(
    ("mesh", "policy", "executor", "changes", "parts"),
    [
        (Mesh(data=2), POLICIES["fp32"], "numba", {}, ("numba", "--executor jax")),
        (Mesh(data=4), POLICIES["fp32"], "jax", {}, ("data=4", "data.reduction_chunks", "2; choose")),
        (Mesh(model=4), POLICIES["fp32"], "jax", {}, ("model=4", "model.heads 2")),
        (Mesh(model=2), POLICIES["fp32"], "jax", {"model.vocabulary": 257}, ("model=2", "model.vocabulary 257")),
        (Mesh(data=2, model=2), POLICIES["fp32"], "jax", {}, ("4 devices", "XLA_FLAGS")),
        (Mesh(data=2), POLICIES["bf16"].quantized("llm_int8"), "jax", {}, ("qkv.fprop", "llm_int8", "one device")),
    ],
)
def test_meshes_that_do_not_fit(
    mesh: Mesh, policy: Arithmetic, executor: str, changes: dict[str, int], parts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        check_mesh(small_config(**changes), policy, executor, mesh)
    assert_sentence(error.value, *parts)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--devices", "2", "--mesh", "data=2"), ("--devices", "--mesh", "one of them")),
        (("--devices", "0"), ("--devices is 0", "at least 1")),
        (("--devices", "2", "--executor", "numba"), ("numba", "--executor jax")),
        (("--devices", "3"), ("data=3", "data.reduction_chunks", "2; choose")),
        (("--mesh", "2x2"), ("'2x2'", "data=4,model=2")),
        (("--coordinator", "127.0.0.1:1"), ("--processes", "--process", "all three")),
        (("--coordinator", "127.0.0.1:1", "--processes", "2", "--process", "2"), ("--process is 2", "0 to 1")),
    ],
    ids=" ".join,
)
def test_command_lines_that_are_refused(
    cli: Cli, tmp_path: Path, flags: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    text = write_text(tmp_path)
    line = cli.refused(tmp_path, "train", "--text", text, "--out", tmp_path / "run", *small_flags(), *flags)
    assert_sentence(line, *parts)
