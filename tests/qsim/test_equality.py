"""One training step, three executors: the same SHA-256 of loss, gradients, parameters and moments."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from precision.backends import BACKENDS
from precision.backends.jax_ import gemm as jax_gemm
from precision.formats import FP16
from qsim.config import ModelConfig, OptimizerConfig, RunConfig
from qsim.data import batch, build_corpus
from qsim.hashing import scalar_hash, tree_hash
from qsim.layers import linear_forward
from qsim.model import dropout_keys, initial_parameters, step_keys
from qsim.optimizer import ScaleState, step_scalars
from qsim.policy import POLICIES
from qsim.recorders import Recorder
from qsim.sites import Calculator
from qsim.step import Step
from qsim.training import as_statistics, held_out_loss

STEPS = 20
FEW = 4  # steps of policies that differ from others in a few products
CONFIG = RunConfig(
    steps=STEPS,
    model=ModelConfig(layers=2, hidden=32, heads=2, length=32, vocabulary=256, dropout=0.1),
    optimizer=OptimizerConfig(warmup_steps=4, clip=0.5),
)


@cache
def corpus():
    return build_corpus(None, tokenizer="bytes", vocabulary_size=256)


@cache
def trajectory(
    policy: str, executor: str, initial_scale: float | None = None, steps: int = STEPS
) -> tuple[dict, ...]:
    """Hashes, scale and skips of the first steps."""
    arithmetic = POLICIES[policy]
    if initial_scale is not None:
        scaling = dataclasses.replace(arithmetic.loss_scaling, initial=initial_scale)
        arithmetic = dataclasses.replace(arithmetic, loss_scaling=scaling)
    step = Step(CONFIG, arithmetic, executor)
    state, scale, updates, rows = start(), ScaleState.start(arithmetic.loss_scaling), 0, []
    for number in range(1, steps + 1):
        scalars = step_scalars(CONFIG.optimizer, number, STEPS, updates, scale.scale)
        state, results = step(state, inputs(number), scalars, step_keys(CONFIG.model, arithmetic, 0, number))
        rows.append(row(results, state) | {"scale": scale.scale, "finite": bool(results["finite"])})
        scale, updates = scale.after(arithmetic.loss_scaling, bool(results["finite"])), updates + rows[-1]["finite"]
    return tuple(rows)


def start():
    parameters = initial_parameters(CONFIG.model, 0)
    zeros = {name: np.zeros_like(w) for name, w in parameters.items()}
    return {"parameters": parameters, "first": zeros, "second": zeros}


def inputs(number):
    return batch(corpus(), seed=0, step=number, batch_size=CONFIG.data.batch_size, length=CONFIG.model.length)


def row(results, state):
    hashes = {part: tree_hash(state[part]) for part in ("parameters", "first", "second")}
    return hashes | {"loss": scalar_hash(results["loss"]), "gradients": tree_hash(results["gradients"])}


@pytest.mark.thinned(0.2)
@pytest.mark.parametrize("executor", [name for name in BACKENDS if name != "numpy"])
@pytest.mark.parametrize("policy", ["fp32", "bf16", "fp16"])
def test_twenty_steps_have_equal_hashes_on_every_executor(policy, executor):
    reference, other = trajectory(policy, "numpy"), trajectory(policy, executor)
    assert len(reference) == len(other) == STEPS
    for number, (expected, found) in enumerate(zip(reference, other, strict=True), start=1):
        assert found == expected, f"{policy} on {executor} parts from the reference at step {number}"


@pytest.mark.parametrize("policy", ["int8-fprop", "int8-train", "int8-train-sr"])
@pytest.mark.parametrize("executor", ["numba", pytest.param("jax", marks=pytest.mark.exhaustive)])
def test_quantized_steps_have_equal_hashes_on_every_executor(policy, executor):
    reference, other = (trajectory(policy, name, steps=FEW) for name in ("numpy", executor))
    assert len(reference) == FEW
    assert other == reference


def test_quantized_policies_differ_where_they_should():
    """In the first step: the forward pass from bf16's, gradients from each other."""
    rows = {name: trajectory(name, "numba", steps=FEW)[0] for name in ("int8-fprop", "int8-train", "int8-train-sr")}
    assert {row["loss"] for row in rows.values()} == {rows["int8-train"]["loss"]}
    assert rows["int8-train"]["loss"] != trajectory("bf16", "numba")[0]["loss"]
    assert len({row["gradients"] for row in rows.values()}) == 3


def test_policies_differ_from_each_other():
    firsts = {trajectory(policy, "numba")[0]["gradients"] for policy in ("fp32", "bf16", "fp16")}
    assert len(firsts) == 3


def test_skipped_steps_are_equal_too():
    """A loss scale that overflows fp16 gradients, so that the first steps are skipped."""
    reference, other = (trajectory("fp16", executor, 2.0**24) for executor in ("numpy", "numba"))
    assert not reference[0]["finite"]
    assert reference[-1]["finite"]
    assert reference == other


def counted(executor, policy):
    step = Step(CONFIG, POLICIES[policy], executor, Recorder)
    scalars = step_scalars(CONFIG.optimizer, 1, STEPS, 0, 1.0)
    state, results = step(start(), inputs(1), scalars, dropout_keys(CONFIG.model, 0, 1))
    return as_statistics(results["records"], step.formats), row(results, state)


@pytest.mark.exhaustive
def test_counting_changes_no_bit_and_counts_alike():
    plain = {key: value for key, value in trajectory("fp16-noscale", "numba")[0].items() if len(str(value)) == 64}
    (reference, hashes), (found, found_hashes), (under_jit, jit_hashes) = (
        counted(executor, "fp16-noscale") for executor in BACKENDS
    )
    assert hashes == found_hashes == jit_hashes == plain
    assert reference.keys() == found.keys() == under_jit.keys()
    for key, expected in reference.items():
        for other in (found[key], under_jit[key]):
            assert other == expected, key
            np.testing.assert_array_equal(other.exponents, expected.exponents, key)


@pytest.mark.parametrize("quantized", [False, True])
def test_held_out_loss_is_equal_on_every_executor(quantized):
    """The configuration has dropout, which evaluation leaves out."""
    policy = POLICIES["fp16"].quantized() if quantized else POLICIES["fp16"]
    parameters = initial_parameters(CONFIG.model, 0)
    losses = {held_out_loss(CONFIG, policy, executor, parameters, corpus()) for executor in BACKENDS}
    assert len(losses) == 1


def scanned_product(executor, speculative):
    """Two layers of x W whose products fall below 2^-126, under bf16."""
    calculator = Calculator(POLICIES["bf16"], executor, speculative=speculative)
    rng = np.random.default_rng(0)
    x = calculator.backend.round_to(rng.normal(size=(4, 8)).astype(np.float32), FP16)
    weights = calculator.backend.round_to(rng.normal(size=(2, 8, 8)).astype(np.float32), FP16) * np.float32(2.0**-62)

    def run(x, weights):
        y, _ = calculator.scan(
            lambda x, layer: (linear_forward(calculator, "qkv", x, layer["w"], None), None), x, {"w": weights}
        )
        return y, calculator.proved()

    y, proved = calculator.backend.jit(run)(x, weights)
    return np.asarray(y).view(np.uint32), bool(proved)


@pytest.fixture
def as_off_the_cpu(monkeypatch):
    """Products by XLA's own operations, as where there are no foreign functions."""
    monkeypatch.setattr(jax_gemm, "FOREIGN_PLATFORMS", ())


def test_nothing_is_speculative_on_a_cpu():
    expected, _ = scanned_product("numpy", False)
    found, proved = scanned_product("jax", True)
    assert proved
    np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("as_off_the_cpu")
def test_speculation_is_disproved_where_products_underflow_and_the_certain_path_keeps_them():
    expected, _ = scanned_product("numpy", False)
    assert np.any(expected & 0x7FFFFFFF)
    certain, proved = scanned_product("jax", False)
    assert proved
    np.testing.assert_array_equal(certain, expected)
    _, proved = scanned_product("jax", True)
    assert not proved


@pytest.mark.exhaustive
@pytest.mark.usefixtures("as_off_the_cpu")
def test_speculation_that_fails_is_made_again():
    """Weights so small that products fall below 2^-126: the float path is disproved, the bits stay."""
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, layers=1, dropout=0.0))
    parameters = initial_parameters(config.model, 0)
    parameters["blocks.mlp_up.weight"] = parameters["blocks.mlp_up.weight"] * np.float32(2.0**-118)
    zeros = {name: np.zeros_like(w) for name, w in parameters.items()}
    state = {"parameters": parameters, "first": zeros, "second": zeros}
    scalars = step_scalars(config.optimizer, 1, STEPS, 0, 1.0)
    found = []
    for executor in ("numba", "jax"):
        step = Step(config, POLICIES["bf16"], executor)
        _, attempt = step._speculative(state, inputs(1), scalars, None)
        assert bool(attempt["proved"]) == (executor == "numba")
        new, results = step(state, inputs(1), scalars, None)
        found.append(row(results, new))
    assert found[0] == found[1]
