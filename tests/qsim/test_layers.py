"""Each layer's backward pass against ``jax.grad`` in float64, and the tree over chunks that parts share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from strategies import drawn, generator

from qsim import layers
from qsim.policy import POLICIES
from qsim.positions import alibi_slopes
from qsim.sites import Calculator

AR = Calculator(POLICIES["fp64"], "numpy")
BATCH, LENGTH, HEADS, HIDDEN, WIDE, VOCABULARY = 4, 5, 3, 12, 7, 11
ROWS = BATCH * LENGTH

chunked = pytest.mark.parametrize("chunks", [1, 2, 4])


def normal(seed: int, *shape: int) -> np.ndarray:
    return generator(seed).normal(size=shape)


def pulled_back(function: Callable, dy: np.ndarray, *operands: np.ndarray) -> list[np.ndarray]:
    """``function``'s value, and the gradients of its operands at dy, by JAX in float64."""
    with jax.enable_x64(True):
        value, pull = jax.vjp(function, *map(jnp.asarray, operands))
        assert value.dtype == np.float64
        return [np.asarray(x) for x in (value, *pull(jnp.asarray(dy)))]


def assert_close(found: list[Any], expected: list[np.ndarray]) -> None:
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-12 * max(1, np.abs(y).max()))


def whole(gradient: np.ndarray) -> np.ndarray:
    return layers.add_chunks(AR, gradient)


# Backward passes


@chunked
def test_linear(chunks: int) -> None:
    x, w, b, dy = normal(1, ROWS, HIDDEN), normal(2, HIDDEN, WIDE), normal(3, WIDE), normal(4, ROWS, WIDE)
    y = layers.linear_forward(AR, "qkv", x, w, b)
    dx, dw = layers.linear_backward(AR, "qkv", x, w, dy, chunks)
    db = layers.bias_gradient(AR, "qkv", dy, chunks)
    assert_close([y, dx, whole(dw), whole(db)], pulled_back(lambda x, w, b: x @ w + b, dy, x, w, b))


@chunked
def test_layernorm(chunks: int) -> None:
    def plain(x: Any, gain: Any, bias: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain + bias

    x, gain, bias, dy = normal(1, ROWS, HIDDEN), normal(2, HIDDEN), normal(3, HIDDEN), normal(4, ROWS, HIDDEN)
    y, cache = layers.layernorm_forward(AR, "layernorm_1", x, gain, bias, 1e-5)
    dx, *gradients = layers.layernorm_backward(AR, "layernorm_1", cache, gain, dy, chunks)
    assert_close([y, dx, *map(whole, gradients)], pulled_back(plain, dy, x, gain, bias))


@pytest.mark.parametrize("slopes", [None, alibi_slopes(HEADS)], ids=["plain", "alibi"])
def test_attention(slopes: np.ndarray | None) -> None:
    def plain(qkv: Any) -> Any:
        q, k, v = (
            x.reshape(BATCH, LENGTH, HEADS, -1).transpose(0, 2, 1, 3) for x in jnp.split(qkv, 3, axis=1)
        )  # (B, H, T, d)
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(HIDDEN / HEADS)
        if slopes is not None:
            i = np.arange(LENGTH)
            scores = scores - slopes.astype(np.float64)[:, None, None] * (i[:, None] - i)
        weights = jax.nn.softmax(jnp.where(np.tri(LENGTH, dtype=bool), scores, -jnp.inf))
        return (weights @ v).transpose(0, 2, 1, 3).reshape(ROWS, HIDDEN)

    qkv, dy = normal(1, ROWS, 3 * HIDDEN), normal(2, ROWS, HIDDEN)
    y, cache = layers.attention_forward(AR, qkv, BATCH, HEADS, slopes)
    dqkv = layers.attention_backward(AR, cache, dy, BATCH, HEADS)
    assert_close([y, dqkv], pulled_back(plain, dy, qkv))


def test_gelu() -> None:
    x, dy = 2 * normal(1, ROWS, HIDDEN), normal(2, ROWS, HIDDEN)
    found = [layers.gelu_forward(AR, x), layers.gelu_backward(AR, x, dy)]
    assert_close(found, pulled_back(lambda x: jax.nn.gelu(x, approximate=False), dy, x))


def test_residual_and_dropout() -> None:
    """The stream and a branch of which a third is dropped."""
    kept, site = generator(5).random((ROWS, HIDDEN)) < 2 / 3, AR.at("mlp_down", "fprop")
    x, branch, dy = (normal(seed, ROWS, HIDDEN) for seed in (1, 2, 3))

    def plain(x: Any, branch: Any) -> Any:
        return x + jnp.where(kept, branch * 1.5, 0)

    y = layers.residual_forward(AR, x, layers.dropout(AR, site, branch, kept, 1 / 3))
    dbranch = layers.dropout(AR, site, dy, kept, 1 / 3)
    assert_close([y, dy, dbranch], pulled_back(plain, dy, x, branch))
    dx = layers.residual_backward(AR, dy, branch)
    assert_close([dx], [dy + branch])


@chunked
@pytest.mark.parametrize("learned", [False, True])
def test_embedding(chunks: int, learned: bool) -> None:
    """Positions beyond the tokens' length get no gradient; where there are none nothing is added."""
    tokens = generator(1).integers(0, VOCABULARY, (BATCH, LENGTH))
    table, positions, dy = normal(2, VOCABULARY, HIDDEN), normal(3, LENGTH + 2, HIDDEN), normal(4, ROWS, HIDDEN)

    def plain(table: Any, positions: Any) -> Any:
        x = table[tokens] + (positions[:LENGTH] if learned else 0)
        return x.reshape(ROWS, HIDDEN)

    y = layers.embedding_forward(AR, tokens, table, positions if learned else None)
    dtable = whole(layers.embedding_backward(AR, tokens, dy, VOCABULARY, chunks))
    dpositions = whole(layers.positions_backward(AR, dy, BATCH, len(positions), chunks))
    expected = pulled_back(plain, dy, table, positions)
    assert_close([y, dtable], expected[:2])
    if learned:
        assert_close([dpositions], expected[2:])


@chunked
def test_cross_entropy(chunks: int) -> None:
    logits, targets = 3 * normal(1, ROWS, VOCABULARY), generator(2).integers(0, VOCABULARY, ROWS)

    def plain(logits: Any) -> Any:
        return -jax.nn.log_softmax(logits)[np.arange(ROWS), targets].mean()

    loss, cache = layers.cross_entropy_forward(AR, logits, targets, chunks)
    dlogits = layers.cross_entropy_backward(AR, cache, targets, np.float64(8.0), ROWS)
    assert_close([loss, dlogits / 8], pulled_back(plain, np.float64(1), logits))


# The tree over chunks


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize(
    ("chunks", "parts"), [(8, 1), (8, 2), (8, 4), (8, 8), (6, 2), (6, 3), (12, 2), (12, 3), (5, 5)]
)
def test_a_tree_in_parts_is_the_whole_tree(backend: Executor, chunks: int, parts: int) -> None:
    """Over bit patterns, subnormals, infinities and NaN included."""
    ar = Calculator(POLICIES["fp32"], backend.name)
    partial = drawn(generator(chunks), 64 * chunks).view(np.float32).reshape(chunks, 64)

    def in_parts(partial: Any) -> Any:
        folded = [layers.fold_chunks(ar, part) for part in partial.reshape(parts, -1, 64)]
        return layers.add_chunks(ar, ar.xp.concatenate(folded))

    found = ar.backend.jit(in_parts)(partial)
    assert_same_bits(np.asarray(found), np.asarray(ar.float32.sum(partial, axis=0)), any_nan=True)


def test_folded_chunks_are_an_odd_number() -> None:
    for chunks, expected in ((1, 1), (2, 1), (3, 3), (4, 1), (6, 3), (8, 1), (12, 3), (20, 5)):
        assert layers.fold_chunks(AR, np.ones((chunks, 2, 3))).shape == (expected, 2, 3)
