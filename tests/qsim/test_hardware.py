"""Native policies in hardware arithmetic: near the exact ones, made of plain operations, chosen where due."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import environment
from small_runs import assert_sentence, figures, hash_rows, small_config, write_text

from precision.backends import get_backend
from precision.backends.jax_ import arithmetic, gemm, products, rounding
from precision.backends.jax_.hardware import arithmetic as hardware_arithmetic
from precision.formats import BF16
from qsim.bench.train import Training
from qsim.config import DataConfig, ModelConfig, RunConfig
from qsim.executors import hardware_in_words, on_hardware
from qsim.policy import parse_policy
from qsim.position import inputs_of
from qsim.sites import Recorder
from qsim.step import Step
from qsim.training import train_new

SMALL = RunConfig(
    model=ModelConfig(layers=2, hidden=16, heads=2, length=16, vocabulary=32),
    data=DataConfig(batch_size=8, reduction_chunks=4),
)
DROPPED = replace(SMALL, model=replace(SMALL.model, dropout=0.1))
SCRIPT = Path(__file__).with_name("eight_devices_hardware.py")


def training(config: RunConfig, policy: str, executor: str = "jax", **how: Any) -> Training:
    arithmetic = parse_policy(policy)
    return Training(config, arithmetic, Step(config, arithmetic, executor, **how))


def losses(one: Training, steps: int) -> np.ndarray:
    for _ in range(steps):
        one()
    return np.array(one.losses)


# Near


@pytest.mark.thinned(0.5)
@pytest.mark.parametrize(("native", "exact"), [("native-bf16", "bf16"), ("native-fp16", "fp16")])
def test_losses_stay_near_those_of_the_exact_policy(native: str, exact: str) -> None:
    """1e-3 over 20 steps in which the loss falls by far more, dropout included."""
    config = replace(DROPPED, optimizer=replace(SMALL.optimizer, learning_rate=2e-3, warmup_steps=2))
    expected = losses(training(config, exact, "numba"), 20)
    found = losses(training(config, native, hardware=True, donates=True), 20)
    assert np.abs(found - expected).max() <= 1e-3
    assert expected[-1] < expected[0] - 0.1


@pytest.mark.exhaustive
def test_int8_losses_stay_near_those_of_the_exact_policy() -> None:
    expected = losses(training(SMALL, "int8-fprop", "numba"), 3)
    assert np.abs(losses(training(SMALL, "native-int8", hardware=True), 3) - expected).max() <= 1e-3


@pytest.mark.exhaustive
def test_parts_of_a_batch_and_tied_tables_and_counters() -> None:
    """The ways of a step that the other runs do not take."""
    config = replace(
        SMALL, model=replace(SMALL.model, tied=True, recompute=True), data=replace(SMALL.data, accumulation=2)
    )
    one = training(config, "native-bf16", hardware=True, recorder=Recorder)
    assert np.abs(losses(one, 2) - losses(training(config, "bf16", "numba"), 2)).max() <= 1e-3
    assert "layer.1.gelu.fprop" in one.step.formats  # type: ignore[attr-defined]
    assert {x.dtype.name for tree in one.position.state.values() for x in tree.values()} == {"float32"}


@pytest.mark.exhaustive
def test_parameters_without_a_master_copy_stay_float32_arrays() -> None:
    policy = parse_policy("bf16-nomaster").with_(accumulator="native", name="native-nomaster")
    step = Step(SMALL, policy, "jax", hardware=True)
    one = Training(SMALL, policy, step)
    losses(one, 2)
    assert {x.dtype.name for x in one.position.state["parameters"].values()} == {"float32"}


@pytest.mark.exhaustive
def test_eight_devices_have_the_losses_of_one() -> None:
    command = [sys.executable, "-W", "error", str(SCRIPT)]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


# What is computed


@pytest.fixture
def off_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for a device that is no CPU."""
    for module in (arithmetic, gemm, products, rounding):
        monkeypatch.setattr(module, "on_cpu", lambda: False)


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("policy", ["native-bf16", "native-fp16", "native-int8"])
@pytest.mark.usefixtures("off_the_cpu")
def test_a_step_is_lowered_to_plain_operations(policy: str, platform: str) -> None:
    """Two scans, narrow operands in every product, one gather of embeddings and one of targets; no call of a
    function, no barrier, no choice between paths, no integer division and no root of integers."""
    text = lowered(SMALL, policy, platform)
    found = Counter(re.findall(r"stablehlo\.(\w+)", text))
    absent = ("custom_call", "optimization_barrier", "case", "if", "sort")
    assert {name: found[name] for name in absent} == dict.fromkeys(absent, 0)
    assert found["while"] == 2
    assert len(re.findall(r"stablehlo\.gather.*->", text)) == 2
    divisions = re.findall(r"stablehlo\.(?:divide|sqrt).*: tensor<(?:\d+x)*(\w+)>", text)
    assert set(divisions) == {"f32"}
    operands = re.findall(r"dot_general.*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\)", text)
    narrow = "f16" if policy == "native-fp16" else "bf16"
    assert set(operands) == {(narrow, narrow)} | ({("i8", "i8")} if policy == "native-int8" else set())


@pytest.mark.usefixtures("off_the_cpu")
def test_deeper_models_are_no_longer_programs() -> None:
    deeper = replace(SMALL, model=replace(SMALL.model, layers=7))
    lengths = [lowered(config, "native-bf16", "cuda").count("\n") for config in (SMALL, deeper)]
    assert lengths[0] == lengths[1]


def lowered(config: RunConfig, policy: str, platform: str) -> str:
    one = training(config, policy, hardware=True)
    step: Any = one.step
    given = inputs_of(config, step.policy, one.position, one.tokens)
    traced = step._speculative.trace(one.position.state, given.batch, given.scalars, given.keys)
    return traced.lower(lowering_platforms=(platform,)).as_text()


# When it is chosen


def test_native_policies_off_the_cpu_compute_in_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    native, exact = parse_policy("native-bf16"), parse_policy("bf16")
    assert [on_hardware(native, name) for name in ("numpy", "numba", "jax")] == [False] * 3
    assert on_hardware(native, "jax", True)
    monkeypatch.setattr(get_backend("jax").devices, "platform", lambda: "cuda")
    assert on_hardware(native, "jax")
    assert not on_hardware(native, "jax", False)
    assert not on_hardware(native, "numba")
    assert not on_hardware(exact, "jax")
    assert hardware_in_words(native, "jax") == {"arithmetic": "native arithmetic of cuda"}
    assert hardware_in_words(exact, "jax") == {}


@pytest.mark.parametrize(
    ("policy", "executor", "named"), [("bf16", "jax", "bf16"), ("native-bf16", "numba", "numba")]
)
def test_it_is_refused_where_it_cannot_be(policy: str, executor: str, named: str) -> None:
    with pytest.raises(ValueError, match="hardware arithmetic") as error:
        on_hardware(parse_policy(policy), executor, True)
    assert_sentence(error.value, named, "native-bf16")


@pytest.mark.exhaustive
def test_a_run_in_hardware_arithmetic_says_so_and_writes_no_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_backend("jax").devices, "platform", lambda: "cuda")
    config = small_config(**{"model.layers": 1, "steps": 3, "record.statistics_every": 0})
    run = train_new(tmp_path / "run", config, "native-bf16", "jax", [write_text(tmp_path)])
    assert '"native arithmetic of cuda"' in (run.path / "environment.json").read_text()
    assert not (run.path / "hashes.jsonl").exists() or hash_rows(run) == []
    assert len(figures(run)) == 4  # the last of them the held-out loss


def test_a_tpu_s_own_rounding_is_that_to_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """All signs, exponents and kept bits, at midpoints and beside them; a NaN is one, subnormals are the device's."""
    monkeypatch.setattr(hardware_arithmetic, "platform", lambda: "tpu")
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = ((np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] | low).view(np.float32)
    found = np.asarray(hardware_arithmetic.round_to(x, BF16), np.float32)
    expected = get_backend("numpy").round_to(x, BF16)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    compared = ~np.isnan(expected) & (np.abs(x) >= 2.0**-126)
    assert np.array_equal(found.view(np.uint32)[compared], expected.view(np.uint32)[compared])
