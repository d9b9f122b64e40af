"""The step compiled ahead of time: memory beside what is counted, roundings and sites in the program, for this CPU.

And for a TPU that is not here, where XLA's library for them is installed.
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

import pytest
from processes import environment
from small_runs import assert_sentence

from precision.backends.jax_ import hardware
from qsim.config import ConfigError, DataConfig, ModelConfig, RunConfig
from qsim.memory import counted
from qsim.mesh import Mesh
from qsim.planning.apart import compile_apart
from qsim.planning.checks import check
from qsim.planning.compiling import compiled
from qsim.planning.hlo import Program
from qsim.policy import parse_policy
from qsim.step import Step

SMALL = RunConfig(
    model=ModelConfig(layers=2, hidden=16, heads=2, length=16, vocabulary=32, recompute=True),
    data=DataConfig(batch_size=8, reduction_chunks=8, accumulation=2),
)
needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu (extra tpu) is not installed")


def checks(config: RunConfig, policy: str) -> tuple[Step, dict[str, Any]]:
    step, found, row = compiled(config, parse_policy(policy), Mesh())
    return step, row | check(step, Program(found.as_text()))


def run_script(name: str) -> subprocess.CompletedProcess[str]:
    """Beside this folder, in a process of eight CPU devices."""
    command = [sys.executable, str(Path(__file__).parents[1] / name)]
    alone = environment(8) | {"TPU_SKIP_MDS_QUERY": "1"}
    return subprocess.run(command, env=alone, capture_output=True, text=True, timeout=600, check=False)


def lost(found: dict[str, Any]) -> list[str]:
    return [fault for fault in found["faults"] if "roundings of" in fault]


@pytest.fixture(scope="module")
def whole() -> tuple[Step, dict[str, Any]]:
    return checks(SMALL, "native-bf16")


# once a forward pass, twice for a sum that follows a product; blocks' forward again but for what ends them
FORWARD = {
    "layernorm_1": 1, "qkv": 2, "scores": 2, "softmax": 1, "values": 1, "attention_out": 2, "residual": 1,
    "layernorm_2": 1, "mlp_up": 2, "gelu": 1,
}  # fmt: skip
ENDING = {"mlp_down": 2, "residual": 1}
HEAD = {"embedding": 1, "layernorm_final": 1, "logits": 1}


def test_every_rounding_that_the_policy_asks_for_is_in_the_program(whole: tuple[Step, dict[str, Any]]) -> None:
    """By site and pass: the table above, backward passes once a product or an operation."""
    step, found = whole
    asked = Counter(key for key, _ in step.roundings)
    forward = Counter(FORWARD) + Counter(FORWARD) + Counter(ENDING) + Counter(HEAD)
    assert dict(forward) == {key.removesuffix(".fprop"): n for key, n in asked.items() if key.endswith(".fprop")}
    assert asked["working_copy"] == 17
    assert asked["qkv.dgrad"] == asked["gelu.dgrad"] == asked["logits.dgrad"] == asked["loss.dgrad"] == 1
    assert asked["residual.dgrad"] == 2
    assert found["roundings"]["survived"] == found["roundings"]["asked"] == sum(asked.values())
    assert lost(found) == []


def test_every_site_has_its_name_in_the_program(whole: tuple[Step, dict[str, Any]]) -> None:
    assert [fault for fault in whole[1]["faults"] if "name of" in fault] == []


def test_a_rounding_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its place XLA's own conversion, which it may take away."""
    plain, dy = hardware.round_to, []

    def round_to(x: Any, fmt: Any, *how: Any) -> Any:
        if x.shape[-1:] == (4 * SMALL.model.hidden,) and fmt.name == "bf16" and x.ndim == 2 and not dy:
            dy.append(x)
            return x.astype("bfloat16")
        return plain(x, fmt, *how)

    monkeypatch.setattr(hardware, "round_to", round_to)
    _, found = checks(replace(SMALL, model=replace(SMALL.model, layers=1)), "native-bf16")
    assert len(lost(found)) == 1
    assert_sentence(lost(found)[0], "1 of ", "are not in the program")


def test_held_memory_is_near_what_is_counted(whole: tuple[Step, dict[str, Any]]) -> None:
    """A CPU computes on 16-bit values as float32, so it holds more than is counted, at most twice as much."""
    needed = sum(counted(SMALL, parse_policy("native-bf16"), hardware=True).values())
    assert 0.8 <= whole[1]["bytes"]["held"] / needed <= 2


@pytest.mark.exhaustive
def test_held_memory_on_meshes_is_near_what_is_counted() -> None:
    done = run_script("eight_devices_planning.py")
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout)
    assert len(ratios) == 5
    assert all(0.8 <= ratio <= 2 for ratio in ratios.values()), ratios


@pytest.mark.skipif(find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_the_library_it_says_what_to_install() -> None:
    with pytest.raises(ConfigError) as error:
        compile_apart(SMALL, parse_policy("native-bf16"), Mesh(data=2, model=2), "v4:2x2x1")
    assert_sentence(error.value, "not installed", "qsim-precision[tpu]")


@needs_libtpu
@pytest.mark.parametrize("mesh", [Mesh(data=2, model=2)])
def test_a_tpu_s_program_has_every_rounding_on_the_types_of_the_policy(mesh: Mesh) -> None:
    config = replace(SMALL, data=replace(SMALL.data, batch_size=16))
    found = compile_apart(config, parse_policy("native-bf16"), mesh, "v4:2x2x1")
    assert found["checks"]["faults"] == []
    assert found["checks"]["roundings"]["asked"] > 60


@needs_libtpu
def test_a_rounding_left_out_of_a_tpu_s_program_is_found() -> None:
    done = run_script("tpu_planning.py")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["1 of 2 roundings of mlp_up.fprop are not in the program"]
