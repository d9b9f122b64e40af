"""Targets and tokens outside their tables: refused where they are known, in traced code what XLA's gathers make of
them, and never another array's memory."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from layer_cases import CHUNKS, VOCABULARY, Array, Inputs, cross_entropy, cross_entropy_gradient, embedding, inputs
from strategies import generator

from precision.backends import get_backend
from qsim import layers
from qsim.policy import parse_policy
from qsim.sites import Calculator

LAYERS = get_backend("numba").layers.LAYERS
FAR = np.array([-(2**31), 2**31 - 1, -VOCABULARY - 1, -VOCABULARY, -1, VOCABULARY, 1 << 20], np.int32)


def outside(seed: int, shape: tuple[int, ...], size: int) -> Array:
    """Indices around a table of that size."""
    rng = generator(seed)
    near = rng.integers(-2 * size, 2 * size, shape).astype(np.int32)
    return np.where(rng.integers(0, 3, shape) == 0, rng.choice(FAR, shape), near).astype(np.int32)


def composed_in_jax(layer: Callable, x: Inputs, monkeypatch: pytest.MonkeyPatch) -> tuple[Array, ...]:
    with monkeypatch.context() as patch:
        patch.setattr(get_backend("jax"), "fused_layer", lambda _: None)
        return tuple(map(np.asarray, jax.jit(lambda x: layer(Calculator(parse_policy("bf16"), "jax"), x))(x)))


@pytest.mark.parametrize("layer", [cross_entropy, cross_entropy_gradient, embedding])
def test_kernels_do_as_the_composed_steps_under_jit(layer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    x = inputs(3, 18, 7)
    x |= {"targets": outside(1, (18,), 7), "tokens": outside(2, (CHUNKS, 3), VOCABULARY)}
    by_kernel = jax.jit(lambda x: layer(Calculator(parse_policy("bf16"), "jax"), x))(x)
    for found, wanted in zip(by_kernel, composed_in_jax(layer, x, monkeypatch), strict=True):
        assert_same_bits(np.asarray(found), wanted, any_nan=True)


@pytest.mark.parametrize("parallel", [False, True])
def test_losses_outside_are_nan(parallel: bool) -> None:
    logits, targets = np.zeros((40, 7), np.float32), outside(3, (40,), 7)
    losses, powers, total = (np.empty(shape, np.float32) for shape in ((40,), (40, 7), (40, 1)))
    LAYERS["cross_entropy"].kernel.compiled(parallel=parallel)(
        logits, targets, losses, powers, total, np.zeros(7, np.int64)
    )
    assert_same_bits(np.isnan(losses), (targets < -7) | (targets >= 7))


@pytest.mark.parametrize("parallel", [False, True])
def test_a_gradient_has_no_one_outside(parallel: bool) -> None:
    powers, targets, gradient = np.ones((40, 7), np.float32), outside(4, (40,), 7), np.empty((40, 7), np.float32)
    total, factor = np.full((40, 1), 8, np.float32), np.ones(1, np.float32)
    LAYERS["cross_entropy_gradient"].kernel.compiled(parallel=parallel)(
        powers, total, targets, factor, gradient, np.zeros(7, np.int64)
    )
    hit = np.arange(7) == targets[:, None]
    assert_same_bits(gradient, np.where(hit, np.float32(-0.875), np.float32(0.125)))


@pytest.mark.parametrize("parallel", [False, True])
def test_rows_outside_are_left_out(parallel: bool) -> None:
    """And the memory around the table is left as it is."""
    indices, rows = outside(5, (6, 50), VOCABULARY), np.ones((6, 50, 3), np.float32)
    around = np.full((8, VOCABULARY, 3), np.float32(7))
    LAYERS["scattered_rows"].kernel.compiled(parallel=parallel)(indices, rows, around[1:-1], np.zeros(0, np.int64))
    for c, own in enumerate(indices):
        counted = np.bincount(own[(own >= -VOCABULARY) & (own < VOCABULARY)] % VOCABULARY, minlength=VOCABULARY)
        assert_same_bits(around[1 + c], np.repeat(counted.astype(np.float32)[:, None], 3, axis=1))
    assert (around[[0, -1]] == 7).all()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("index", [-1, 7, 1 << 20])
def test_known_indices_are_refused(backend: str, index: int) -> None:
    ar, table = Calculator(parse_policy("bf16"), backend), np.ones((7, 4), np.float32)
    with pytest.raises(ValueError, match=f"token {index} is not one of 0 ... 6"):
        layers.embedding_forward(ar, np.array([[0, index]], np.int32), table, None)
    with pytest.raises(ValueError, match=f"target {index} is not one of 0 ... 6"):
        layers.cross_entropy_rows(ar, np.ones((2, 7), np.float32), np.array([0, index], np.int32))
