"""Steps in parts of a batch and with blocks computed again: the same bits and counts, and what is kept between."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from small_runs import assert_same_trees

from precision.backends import BACKENDS
from qsim.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from qsim.hashing import scalar_hash, tree_hash
from qsim.model import initial_parameters, step_keys
from qsim.optimizer import step_scalars
from qsim.policy import POLICIES
from qsim.recorders import CapturingRecorder, Recorder
from qsim.sites import Calculator
from qsim.step import Step
from qsim.training import as_statistics

STEPS = 3
MODEL = ModelConfig(layers=2, hidden=15, heads=3, length=4, vocabulary=32)
CONFIG = RunConfig(
    steps=STEPS,
    model=MODEL,
    optimizer=OptimizerConfig(schedule="wsd", warmup_steps=1, decay_fraction=0.5, clip=0.5),
    data=DataConfig(batch_size=12, reduction_chunks=12),
)
IN_PARTS = pytest.mark.parametrize("parts", [1, 2, 3, 4, 6, 12])


def configured(parts: int = 1, chunks: int = 12, **model: Any) -> RunConfig:
    data = dataclasses.replace(CONFIG.data, reduction_chunks=chunks, accumulation=parts)
    return dataclasses.replace(CONFIG, data=data, model=dataclasses.replace(MODEL, **model))


def inputs(config: RunConfig, policy: str, number: int) -> tuple[Any, ...]:
    """Batch, scalars and keys of a step."""
    size = (2, config.data.batch_size, config.model.length)
    tokens, targets = np.random.default_rng(number).integers(0, config.model.vocabulary, size, np.int32)
    scalars = step_scalars(config.optimizer, number, STEPS, number - 1, 2.0**10)
    return (tokens, targets), scalars, step_keys(config.model, POLICIES[policy], 0, number)


def start(config: RunConfig) -> dict[str, dict[str, np.ndarray]]:
    parameters = initial_parameters(config.model, 0)
    zeros = {name: np.zeros_like(w) for name, w in parameters.items()}
    return {"parameters": parameters, "first": zeros, "second": zeros}


def hashes(config: RunConfig, policy: str, executor: str, steps: int = STEPS) -> list[tuple[str, ...]]:
    """Of loss, gradients and parameters after each step."""
    step, state, rows = Step(config, POLICIES[policy], executor), start(config), []
    for number in range(1, steps + 1):
        state, results = step(state, *inputs(config, policy, number))
        assert results["finite"]
        rows.append((scalar_hash(results["loss"]), tree_hash(results["gradients"]), tree_hash(state["parameters"])))
    return rows


# The same bits


@pytest.mark.thinned(0.25)
@IN_PARTS
@pytest.mark.parametrize("policy", ["fp32", "fp16", "int8-train-sr"])
def test_parts_and_recomputation_change_no_bit(policy: str, parts: int) -> None:
    """Draws included: dropout, and gradients rounded stochastically, by the rows' places in the whole batch."""
    model = {"dropout": 0.2, "positions": "alibi"}
    expected = hashes(configured(**model), policy, "numba", 2)
    assert hashes(configured(parts, recompute=True, **model), policy, "numba", 2) == expected


@pytest.mark.parametrize("chunks", [1, 2, 4, 6])
def test_parts_of_any_whole_number_of_chunks(chunks: int) -> None:
    config = configured(chunks=chunks, positions="sinusoidal", tied=True)
    expected = hashes(config, "bf16", "numba", 1)
    for parts in (p for p in range(2, chunks + 1) if chunks % p == 0):
        split = dataclasses.replace(config, data=dataclasses.replace(config.data, accumulation=parts))
        assert hashes(split, "bf16", "numba", 1) == expected, parts


@pytest.mark.thinned(0.5)
@pytest.mark.parametrize(
    ("policy", "model"),
    [
        ("fp32", {"positions": "sinusoidal", "recompute": True}),
        ("fp16", {"positions": "alibi", "recompute": True, "tied": True, "dropout": 0.2}),
    ],
    ids=["sinusoidal", "alibi"],
)
def test_three_steps_have_equal_hashes_on_every_executor(policy: str, model: dict[str, Any]) -> None:
    config = configured(2, **model)
    reference, *others = (hashes(config, policy, executor) for executor in BACKENDS)
    assert len(set(reference)) == STEPS
    for found in others:
        assert found == reference


@pytest.mark.parametrize(
    ("scheme", "exempt"), [("int8_vectorwise", False), ("int8_rowwise", False), ("int8_tensorwise", True)]
)
def test_schemes_that_look_at_all_rows_depend_on_parts(scheme: str, exempt: bool) -> None:
    """A scale of a whole activation is that of a part's; one of a row, or of a weight, is as it was."""
    policy, given = POLICIES["bf16"].quantized(scheme), inputs(CONFIG, "bf16", 1)
    steps = (Step(configured(parts), policy, "numba") for parts in (1, 4))
    losses = {scalar_hash(step(start(CONFIG), *given)[1]["loss"]) for step in steps}
    assert len(losses) == (2 if exempt else 1)


@pytest.mark.parametrize("executor", BACKENDS)
def test_draws_of_parts_are_those_of_the_whole_batch(executor: str) -> None:
    """Words of dropout, and gradients rounded stochastically, whose rows have scales of their own."""
    ar, key = Calculator(POLICIES["int8-train-sr"], executor), (np.uint32(1), np.uint32(2))
    tokens = np.arange(24, dtype=np.int32).reshape(6, 4)
    weight = ar.backend.asarray(np.random.default_rng(0).normal(size=(5, 3)))

    def drawn(tokens: Any, targets: Any) -> tuple[Any, dict[str, Any]]:
        gradient = ar.backend.asarray(targets.reshape(-1, 1) * np.float32(0.37)) + ar.xp.arange(5, dtype=np.float32)
        product = ar.at("qkv", "dgrad").matmul(gradient, weight, key)
        return ar.random_words(key, (tokens.size, 5)), {"product": product}

    (words, others), (expected, other) = (
        ar.backend.jit(function)(tokens, tokens) for function in (partial(ar.in_parts, drawn, 3), drawn)
    )
    assert_same_trees({"words": words} | others, {"words": expected} | other)


def test_draws_beyond_their_numbers_are_refused() -> None:
    """2^31 rows of 4 values; one part has no such limit, its numbers are of 64 bits."""
    ar = Calculator(POLICIES["fp32"], "numpy")
    tokens = np.broadcast_to(np.int8(0), (2, 1 << 30))
    with pytest.raises(ValueError, match=r"2147483648 rows of 4 values outgrow .* use data\.accumulation 1"):
        ar.in_parts(lambda *_: ar.first_index((1, 4)), 2, tokens, tokens)
    assert ar.first_index((1, 1 << 31)) == 0


# What is recorded


def recorded(config: RunConfig, recorder: type[Recorder], executor: str = "numba") -> tuple[Step, dict[str, Any]]:
    step = Step(config, POLICIES["fp16"], executor, recorder)
    return step, step(start(config), *inputs(config, "fp16", 1))[1]


@pytest.mark.parametrize("executor", ["numpy", "numba"])
def test_counts_are_those_of_the_whole_batch(executor: str) -> None:
    """And a block that is computed again is not counted again."""
    whole, split = (
        as_statistics(results["records"], step.formats)
        for step, results in (
            recorded(configured(dropout=0.2), Recorder, executor),
            recorded(configured(3, dropout=0.2, recompute=True), Recorder, executor),
        )
    )
    assert whole.keys() == split.keys()
    for key, expected in whole.items():
        assert split[key] == expected, key
        np.testing.assert_array_equal(split[key].exponents, expected.exponents, key)


def test_what_is_counted_under_jax_is_of_the_whole_batch() -> None:
    """Traced alone: as many values at each site."""
    sizes = []
    for config in (configured(dropout=0.2), configured(3, dropout=0.2, recompute=True)):
        step = Step(config, POLICIES["fp16"], "jax", CapturingRecorder)
        _, results = jax.eval_shape(partial(step._run, False), start(config), *inputs(config, "fp16", 1))
        sizes.append({key: before.shape for key, (before, _) in results["records"].items()})
    assert sizes[0] == sizes[1]
    assert sizes[0]["layer.1.gelu.fprop"] == (48 * 60,)


def test_tensors_captured_in_parts_lie_in_the_batch_s_order() -> None:
    """Of sites that round once, forward and backward."""
    whole, split = (recorded(configured(parts), CapturingRecorder)[1]["records"] for parts in (1, 4))
    assert whole.keys() == split.keys()
    for key in ("layer.0.gelu.fprop", "layer.1.values.fprop", "layer.1.gelu.dgrad", "loss.dgrad", "loss.fprop"):
        assert_same_trees(dict(enumerate(split[key])), dict(enumerate(whole[key])))


# What is kept and compiled


def equations(jaxpr: Any) -> Iterator[Any]:
    """Of a jaxpr and of all that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def traced(config: RunConfig) -> list[Any]:
    step = Step(config, POLICIES["fp32"], "jax")
    closed = jax.make_jaxpr(partial(step._run, False))(start(config), *inputs(config, "fp32", 1))
    return list(equations(closed.jaxpr))


def test_what_is_compiled_does_not_grow_with_depth() -> None:
    """Eight layers against two: one scan either way, so as many operations of each kind, but for trees.

    The norm of each of the 12 stacked tensors is a tree over rows that is two levels higher.
    """
    counts = []
    for depth in (2, 8):
        names = [equation.primitive.name for equation in traced(configured(layers=depth, dropout=0.2))]
        counts.append({name: names.count(name) for name in sorted(set(names))})
    few, many = counts
    assert sum(few.values()) > 1000
    assert few.keys() == many.keys()
    assert many["add"] - few["add"] == 2 * 12
    assert {name for name in few if few[name] != many[name]} <= {"add", "reshape", "slice", "squeeze"}
    assert sum(many.values()) < 1.05 * sum(few.values())


def kept_by_layers(config: RunConfig) -> set[tuple[int, ...]]:
    """Shapes that a scan over layers hands out stacked."""
    scans = [e for e in traced(config) if e.primitive.name == "scan" and e.params["length"] == config.model.layers]
    return {v.aval.shape for scan in scans for v in scan.outvars[scan.params["num_carry"] :]}


def test_recomputation_keeps_the_inputs_of_blocks_alone() -> None:
    """Of 48 rows; without it, all that a block's backward pass needs, the MLP's width and attention's weights too."""
    plain, again = (kept_by_layers(configured(chunks=4, layers=5, recompute=r)) for r in (False, True))
    inputs, wide, attention = (5, 48, 15), (5, 48, 60), (5, 36, 4, 4)
    assert {inputs, wide, attention} <= plain
    assert {shape for shape in again if 48 in shape or shape == attention} == {inputs}


def test_a_part_keeps_its_own_rows_alone() -> None:
    config = configured(4, layers=5)
    kept = kept_by_layers(config)
    assert (5, 12, 15) in kept
    assert not any(48 in shape for shape in kept)
