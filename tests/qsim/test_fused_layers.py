"""Whole layers as single kernels against the composed steps on NumPy: the same bits, of every kind of value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import drawn, generator, sprinkled

from precision.backends import get_backend
from qsim import config as configuration
from qsim import layers
from qsim.optimizer import adamw
from qsim.policy import Arithmetic, parse_policy
from qsim.sites import Calculator, Recorder

Array = Any
Inputs = dict[str, Array]
CHUNKS, EPSILON, VOCABULARY = 6, 1e-5, 11
POLICIES = ("fp32", "bf16", "fp16")
# rows by columns: one of either, odd ones, more than a thread's part, powers of two
SHAPES = ((6, 1), (6, 5), (18, 7), (24, 128), (36, 130), (12, 64))
OPTIMIZER = configuration.preset("small").optimizer


def values(rng: np.random.Generator, *shape: int) -> Array:
    """Numbers near 1 with any patterns among them: subnormals, infinities, NaN and both zeros."""
    size = int(np.prod(shape))
    plain = rng.normal(0, 2.0 ** rng.integers(-8, 8), size).astype(np.float32).view(np.uint32)
    kind = rng.integers(3)
    words = plain if kind == 0 else sprinkled(rng, plain, 0.02) if kind == 1 else drawn(rng, size)
    return words.astype(np.uint32).view(np.float32).reshape(shape)


def masked(rng: np.random.Generator, n: int) -> Array:
    """Causal, or any; the first row of any mask allows nothing."""
    if rng.integers(2):
        return np.tril(np.ones((n, n), np.bool_))
    mask = rng.integers(2, size=(n, n)).astype(np.bool_)
    mask[0] = False
    return mask


def inputs(seed: int, rows: int, n: int) -> Inputs:
    rng = generator(seed)
    whole = {name: values(rng, rows, n) for name in ("x", "y", "z")}
    whole |= {name: values(rng, n) for name in ("gain", "bias")}
    whole |= {name: values(rng, 3, n, n) for name in ("scores", "dweights")}
    whole |= {"chunked": values(rng, CHUNKS, 3, n), "scalars": values(rng, 3), "factor": values(rng)}
    whole |= {"mask": masked(rng, n), "targets": rng.integers(0, n, rows).astype(np.int32)}
    whole["second"] = np.abs(whole["z"])
    return whole | {"tokens": rng.integers(0, VOCABULARY, (CHUNKS, rows // CHUNKS)).astype(np.int32)}


# Each computes one layer, forward or backward


def layernorm(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    y, cache = layers.layernorm_forward(ar, "layernorm_1", x["x"], x["gain"], x["bias"], EPSILON)
    return y, cache["normal"], cache["inverse"]


def layernorm_gradient(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    cache = {"normal": x["x"], "inverse": x["z"][:, :1]}
    return layers.layernorm_backward(ar, "layernorm_1", cache, x["gain"], x["y"], CHUNKS)


def softmax(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    scores = ar.at("scores", "fprop").deferred(x["scores"], lambda s: ar.xp.where(x["mask"], s, np.float32(0)))
    return layers.softmax_forward(ar, scores, x["mask"]), layers.softmax_forward(ar, x["scores"], x["mask"])


def softmax_gradient(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    gradient = ar.at("values", "dgrad").deferred(x["dweights"])
    return (layers.softmax_backward(ar, x["scores"], gradient, x["mask"]),)


def cross_entropy(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    losses, cache = layers.cross_entropy_rows(ar, x["x"], x["targets"])
    return losses, cache["powers"], cache["total"]


def cross_entropy_gradient(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    cache = {"powers": x["x"], "total": x["y"][:, :1]}
    return (layers.cross_entropy_backward(ar, cache, x["targets"], x["factor"], 100),)


def biased(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    fprop = ar.at("mlp_up", "fprop")
    return (layers.rounded_biased(fprop, x["x"], x["bias"]),)


def residual(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    return layers.residual_forward(ar, x["x"], x["y"]), layers.residual_backward(ar, x["y"], x["z"])


def gelu(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    return layers.gelu_forward(ar, x["x"]), layers.gelu_backward(ar, x["x"], x["y"])


def chunks(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    folded = layers.fold_chunks(ar, ar.at("qkv", "wgrad").deferred(x["chunked"]))
    return folded, layers.fold_chunks(ar, x["chunked"]), layers.bias_gradient(ar, "qkv", x["x"], CHUNKS)


def embedding(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    return (layers.embedding_backward(ar, x["tokens"], x["x"], VOCABULARY, CHUNKS),)


def update(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    names = "a.weight", "b.bias"
    state = {"parameters": dict.fromkeys(names, x["x"]), "first": dict.fromkeys(names, x["y"])}
    state["second"] = dict.fromkeys(names, x["second"])
    scalars = dict(zip(("learning_rate", "correction_1", "correction_2"), x["scalars"], strict=True))
    new = adamw(ar, OPTIMIZER, state, dict.fromkeys(names, x["z"]), scalars, x["factor"])
    return tuple(new[part][name] for part in new for name in names)


LAYERS = (
    layernorm,
    layernorm_gradient,
    softmax,
    softmax_gradient,
    cross_entropy,
    cross_entropy_gradient,
    biased,
    residual,
    gelu,
    chunks,
    embedding,
    update,
)
by_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def check(layer: Callable, ar: Calculator, x: Inputs, *, jitted: bool = False) -> None:
    run = jax.jit(lambda x: layer(ar, x)) if jitted else lambda x: layer(ar, x)
    expected = layer(Calculator(ar.policy, "numpy"), x)
    for i, (found, wanted) in enumerate(zip(run(x), expected, strict=True)):
        assert_same_bits(np.asarray(found), wanted, any_nan=ar.policy.name == "fp32" or i > 0)


@by_layer
@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=20)
@given(seed=st.integers(0, 1 << 32), shape=st.sampled_from(SHAPES))
def test_numba(layer: Callable, policy: str, seed: int, shape: tuple[int, int]) -> None:
    with np.errstate(all="ignore"):
        check(layer, Calculator(parse_policy(policy), "numba"), inputs(seed, *shape))


@by_layer
@pytest.mark.parametrize("policy", POLICIES)
def test_jax(layer: Callable, policy: str) -> None:
    ar = Calculator(parse_policy(policy), "jax")
    run = jax.jit(lambda x: layer(ar, x))
    for seed in range(12):
        x = inputs(seed, 18, 7)
        for found, wanted in zip(run(x), layer(Calculator(ar.policy, "numpy"), x), strict=True):
            assert_same_bits(np.asarray(found), wanted, any_nan=True)


def flushing(policy: Arithmetic) -> Arithmetic:
    """Outputs rounded in a way of which kernels know nothing."""
    rows = tuple((site, way, replace(row, subnormals="flush")) for site, way, row in policy.sites)
    return replace(policy, sites=rows)


@by_layer
def test_a_rounding_that_kernels_do_not_know(layer: Callable) -> None:
    ar = Calculator(flushing(parse_policy("fp16")), "numba")
    for seed in range(5):
        check(layer, ar, inputs(seed, 18, 7))


@by_layer
def test_what_is_recorded_is_the_same(layer: Callable) -> None:
    x = inputs(1, 18, 7)
    records = []
    for backend in ("numpy", "numba"):
        ar = Calculator(parse_policy("bf16"), backend, Recorder())
        layer(ar, x)
        records.append(ar.recorder.results(ar.backend))  # type: ignore[union-attr]
    assert records[0].keys() == records[1].keys()
    for key, wanted in records[0].items():
        assert all(np.array_equal(a, b) for a, b in zip(records[1][key], wanted, strict=True)), key


def test_an_inner_format_is_composed() -> None:
    ar = Calculator(parse_policy("fp16-pure"), "numba")
    for seed in range(3):
        for layer in LAYERS:
            check(layer, ar, inputs(seed, 18, 7))


def test_numpy_has_no_kernels() -> None:
    names = get_backend("numba").layers.LAYERS
    assert all(get_backend("numpy").fused_layer(name) is None for name in names)
