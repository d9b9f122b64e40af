"""The step compiled ahead of time: memory beside what is counted, roundings and sites in the program, for this CPU.

And for TPUs and GPUs that are not here, where their compilers are installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import environment
from small_runs import assert_sentence

from precision.backends.jax_ import hardware
from qsim import layers
from qsim.config import ConfigError, DataConfig, ModelConfig, RunConfig
from qsim.memory import counted
from qsim.mesh import Mesh
from qsim.planning import apart
from qsim.planning.apart import compile_apart
from qsim.planning.checks import check
from qsim.planning.compiling import AbsentDevices, compiled, inputs
from qsim.planning.hlo import Program
from qsim.policy import parse_policy
from qsim.recorders import StackedRecorder
from qsim.sites import Calculator
from qsim.step import Step

NATIVE = parse_policy("native-bf16")
SMALL = RunConfig(
    model=ModelConfig(layers=2, hidden=16, heads=2, length=16, vocabulary=32, recompute=True),
    data=DataConfig(batch_size=8, reduction_chunks=8, accumulation=2),
)
COMPILERS = {"v4:2x2x1": ("libtpu", "tpu"), "h100:1x4": ("jax_cuda12_plugin", "gpu")}
INSTALLED = {topology: find_spec(module) is not None for topology, (module, _) in COMPILERS.items()}
absent = pytest.mark.parametrize(
    "topology",
    [
        pytest.param(
            topology,
            marks=pytest.mark.skipif(not INSTALLED[topology], reason=f"{module} (extra {extra}) is not installed"),
        )
        for topology, (module, extra) in COMPILERS.items()
    ],
)


def run_script(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Beside this folder, in a process of eight CPU devices."""
    command = [sys.executable, str(Path(__file__).parents[1] / name), *words]
    alone = environment(8) | {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    return subprocess.run(command, env=alone, capture_output=True, text=True, timeout=600, check=False)


def lost(found: dict[str, Any]) -> list[str]:
    return [fault for fault in found["faults"] if "roundings of" in fault]


@pytest.fixture(scope="module")
def whole() -> tuple[Step, dict[str, Any]]:
    """The step compiled for this CPU, and what is said of it."""
    step, found, row = compiled(SMALL, NATIVE, Mesh())
    return step, row | check(step, Program(found.as_text()))


# once a forward pass, twice for a sum that follows a product; blocks' forward again but for what ends them
FORWARD = {
    "layernorm_1": 1, "qkv": 2, "scores": 2, "softmax": 1, "values": 1, "attention_out": 2, "residual": 1,
    "layernorm_2": 1, "mlp_up": 2, "gelu": 1,
}  # fmt: skip
ENDING = {"mlp_down": 2, "residual": 1}
HEAD = {"embedding": 1, "layernorm_final": 1, "logits": 1}


def test_every_rounding_that_the_policy_asks_for_is_counted() -> None:
    """By site and pass: the table above, backward passes once a product or an operation."""
    step = Step(SMALL, NATIVE, "jax", devices=AbsentDevices(SMALL, NATIVE, Mesh()), hardware=True)
    step.lowered(*inputs(SMALL, NATIVE))
    asked = Counter(key for key, _ in step.roundings)
    forward = Counter(FORWARD) + Counter(FORWARD) + Counter(ENDING) + Counter(HEAD)
    assert dict(forward) == {key.removesuffix(".fprop"): n for key, n in asked.items() if key.endswith(".fprop")}
    assert asked["working_copy"] == 17
    assert asked["qkv.dgrad"] == asked["gelu.dgrad"] == asked["logits.dgrad"] == asked["loss.dgrad"] == 1
    assert asked["residual.dgrad"] == 2


@pytest.mark.exhaustive
def test_a_compiled_step_has_every_rounding_and_every_site(whole: tuple[Step, dict[str, Any]]) -> None:
    """Its products are not looked at: a CPU multiplies 16-bit values as float32."""
    _, found = whole
    assert found["roundings"]["survived"] == found["roundings"]["asked"] > 60
    assert [fault for fault in found["faults"] if "a product of" not in fault] == []


def expanded() -> tuple[dict[tuple[str, int], str], set[tuple[str, int]]]:
    """Of the first half of an MLP: roundings asked for, and those in its program."""
    ar = Calculator(NATIVE, "jax", hardware=True)

    def mlp_up(x: Any, w: Any, b: Any) -> Any:
        return layers.gelu_forward(ar, layers.linear_forward(ar, "mlp_up", x, w, b))

    shapes = [np.zeros(shape, np.float32) for shape in ((8, 16), (16, 64), (64,))]
    text = ar.backend.jit(mlp_up).lower(*shapes).compile().as_text()
    assert ar.names is not None
    return ar.names.roundings, Program(text).roundings(ar.names.roundings)


def test_a_rounding_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its place XLA's own conversion, which it may take away."""
    asked, survived = expanded()
    assert set(asked) == survived == {("mlp_up.fprop", 1), ("mlp_up.fprop", 2), ("gelu.fprop", 1)}
    plain = hardware.round_to
    turns = iter(range(9))

    def round_to(x: Any, fmt: Any, *how: Any) -> Any:
        return x.astype("bfloat16") if next(turns) == 1 else plain(x, fmt, *how)

    monkeypatch.setattr(hardware, "round_to", round_to)
    asked, survived = expanded()
    assert set(asked) - survived == {("mlp_up.fprop", 2)}


@pytest.mark.thinned(0.5)
@pytest.mark.parametrize("statistics", [False, True])
def test_a_program_is_no_longer_for_more_layers(statistics: bool) -> None:
    """Lines of it before XLA has it, but for longer sums in a tree; those of a step that counts, too."""

    def lines(layers: int) -> int:
        config = replace(SMALL, model=replace(SMALL.model, layers=layers))
        recorder = StackedRecorder if statistics else None
        devices = AbsentDevices(config, NATIVE, Mesh())
        step = Step(config, NATIVE, "jax", recorder, devices, hardware=True, counts_tensors=statistics)
        return step.lowered(*inputs(config, NATIVE)).as_text().count("\n")

    assert lines(2) <= lines(7) <= 1.01 * lines(2)


@pytest.mark.exhaustive
def test_held_memory_is_near_what_is_counted(whole: tuple[Step, dict[str, Any]]) -> None:
    """A CPU computes on 16-bit values as float32, so it holds more than is counted, at most twice as much."""
    needed = sum(counted(SMALL, NATIVE, hardware=True).values())
    assert 0.8 <= whole[1]["bytes"]["held"] / needed <= 2


@pytest.mark.exhaustive
def test_held_memory_on_meshes_is_near_what_is_counted() -> None:
    done = run_script("eight_devices_planning.py")
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout)
    assert len(ratios) == 5
    assert all(0.8 <= ratio <= 2 for ratio in ratios.values()), ratios


@pytest.mark.parametrize("topology", COMPILERS)
def test_without_the_compiler_it_says_what_to_install(topology: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as error:
        compile_apart(SMALL, NATIVE, Mesh(data=2, model=2), topology)
    assert_sentence(error.value, "not installed", f"qsim-precision[{COMPILERS[topology][1]}]")


@absent
@pytest.mark.parametrize("policy", ["native-bf16", "native-fp16"])
@pytest.mark.parametrize("statistics", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_a_program_for_what_is_not_here_has_every_rounding_on_the_types_of_the_policy(
    topology: str, policy: str, statistics: bool
) -> None:
    config = replace(SMALL, data=replace(SMALL.data, batch_size=16))
    found = compile_apart(config, parse_policy(policy), Mesh(data=2, model=2), topology, statistics=statistics)
    assert found["checks"]["faults"] == []
    assert found["checks"]["roundings"]["asked"] > 60


@absent
def test_a_rounding_left_out_of_a_program_for_what_is_not_here_is_found(topology: str) -> None:
    done = run_script("absent_planning.py", topology)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["1 of 2 roundings of mlp_up.fprop are not in the program"]
