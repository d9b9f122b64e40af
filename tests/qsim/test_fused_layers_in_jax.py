"""Whole layers as foreign functions in jitted JAX against the composed steps; where those run instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np
import pytest
from layer_cases import LAYERS, Array, Inputs, assert_same_results, inputs

from precision.random_bits import as_key, fold_in
from qsim.policy import POLICIES, Arithmetic, parse_policy
from qsim.site_policy import PASSES, SITES
from qsim.sites import Calculator

DRAWN = POLICIES["bf16"].with_(name="drawn", rounding="stochastic")
OURS = "precision_backends_numba_"  # what names of our foreign functions begin with
by_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


@pytest.mark.thinned(0.12)
@by_layer
@pytest.mark.parametrize(
    ("policy", "shape"),
    [("fp32", (18, 7)), ("bf16", (18, 7)), ("fp16", (18, 7)), ("bf16", (36, 130)), ("fp16", (6, 1))],
)
def test_the_same_bits(layer: Callable, policy: str, shape: tuple[int, int]) -> None:
    ar = Calculator(parse_policy(policy), "jax")
    run = jax.jit(partial(layer, ar))
    for seed in range(12):
        x = inputs(seed, *shape)
        assert_same_results(layer, run(x), layer(Calculator(ar.policy, "numpy"), x))


# Where the composed steps run


def drawing(policy: Arithmetic, backend: str) -> Calculator:
    """With a key for every output."""
    ar = Calculator(policy, backend)
    names = [f"{site}.{direction}.output" for site in SITES for direction in PASSES]
    ar.draw_from({name: np.array(fold_in(as_key(3), i), np.uint32) for i, name in enumerate(names)})
    return ar


@pytest.mark.thinned(0.25)
@by_layer
@pytest.mark.parametrize("backend", ["numba", "jax"])
def test_outputs_rounded_stochastically_are_composed(layer: Callable, backend: str) -> None:
    x = inputs(4, 18, 7)

    def run(x: Inputs) -> tuple[Array, ...]:
        return layer(drawing(DRAWN, backend), x)

    found = jax.jit(run)(x) if backend == "jax" else run(x)
    assert_same_results(layer, found, layer(drawing(DRAWN, "numpy"), x))


@pytest.mark.parametrize(("platform", "uses_kernels"), [("cpu", True), ("tpu", False), ("cuda", False)])
def test_other_platforms_are_given_the_composed_steps(platform: str, uses_kernels: bool) -> None:
    ar = Calculator(parse_policy("bf16"), "jax")

    def all_layers(x: Inputs) -> list[tuple[Array, ...]]:
        return [layer(ar, x) for layer in LAYERS]

    lowered = jax.jit(all_layers).trace(inputs(0, 18, 7)).lower(lowering_platforms=(platform,))
    assert (OURS in lowered.as_text()) is uses_kernels
