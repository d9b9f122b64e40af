"""All 2^32 float32 patterns to four formats in every mode; in the default run every 4093rd."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits, same_nan
from executors import EXECUTORS, Executor
from format_oracle import FLOATS, MODES
from format_search import searched
from format_steps import expected, expected_by_chance
from jax.extend.random import threefry_2x32

import precision as pr

NAMES = ("fp16", "bf16", "e4m3fn", "e5m2")
STRIDE = 4093  # prime, so that every low bit pattern turns up
BLOCK = 1 << 22
KEY = (0x13198A2E, 0x03707344)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_every_4093rd(backend: Executor, name: str, mode: str) -> None:
    words = np.arange(0, 1 << 32, STRIDE, np.int64).astype(np.uint32)
    assert len(words) >= 1 << 20
    chosen = {"key": KEY} if mode == "stochastic" else {}
    random = pr.random_bits(KEY, np.arange(len(words))) if chosen else None
    by_search = searched(words.view(np.float32), name, mode, words=random)
    found = backend.call(pr.round_to, words.view(np.float32), fmt=name, rounding=mode, **chosen)
    assert_same_bits(found, by_search, words)


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", MODES[:-1])
@pytest.mark.parametrize("name", NAMES)
def test_all(backend: Executor, name: str, mode: str) -> None:
    start = time.perf_counter()
    for first in range(0, 1 << 32, BLOCK):
        words = np.arange(first, first + BLOCK, dtype=np.uint32)
        wanted = expected(first, first + BLOCK, name, mode)
        for part in parts(backend):
            found = backend.call(pr.round_to, words[part].view(np.float32), fmt=name, rounding=mode)
            agree(found, wanted[part], words[part])
    print(f"{backend}: 2^32 patterns to {name}, {mode}: {time.perf_counter() - start:.0f} s")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_all_by_chance(backend: Executor, name: str) -> None:
    """Index i of the stream for pattern i, from JAX's own Threefry."""
    start = time.perf_counter()
    for first in range(0, 1 << 32, BLOCK):
        words = np.arange(first, first + BLOCK, dtype=np.uint32)
        wanted = expected_by_chance(first, first + BLOCK, name, np.asarray(stream(words)))
        for part in parts(backend):
            found = backend.call(by_chance, words[part].view(np.float32), words[part], fmt=name)
            agree(found, wanted[part], words[part])
    print(f"{backend}: 2^32 patterns to {name}, stochastic: {time.perf_counter() - start:.0f} s")


@jax.jit
def stream(index):
    zeros = jnp.zeros_like(index)
    return threefry_2x32(jnp.array(KEY, jnp.uint32), jnp.concatenate([zeros, index]))[: index.size]


def parts(backend: Executor) -> list[slice]:
    """A block in pieces: NumPy's many passes run in cache."""
    size = 1 << 13 if backend.name == "numpy" else BLOCK
    return [slice(first, first + size) for first in range(0, BLOCK, size)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["tf32", "fp32", "int8", "int4"])
def test_all_to_nearest(name: str) -> None:
    """NumPy computes by the same kernel, at a tenth of the speed, and is spared."""
    for first in range(0, 1 << 32, BLOCK):
        words = np.arange(first, first + BLOCK, dtype=np.uint32)
        wanted = same_nan(words) if name == "fp32" else expected(first, first + BLOCK, name, "nearest_even")
        number = (words & 0x7FFFFFFF) <= 0x7F800000
        words = np.where(number | (name in FLOATS), words, np.uint32(0))  # NaN is refused
        wanted = np.where(number | (name in FLOATS), wanted, np.uint32(0))
        for backend in EXECUTORS[1:]:
            agree(backend.call(pr.round_to, words.view(np.float32), fmt=name), wanted, words)


def by_chance(x, index, *, fmt, backend):
    return pr.round_to(x, fmt, rounding="stochastic", key=KEY, counter=index, backend=backend)


def agree(found: np.ndarray, wanted: np.ndarray, words: np.ndarray) -> None:
    """One comparison where all is well."""
    if not np.array_equal(found.view(np.uint32), wanted):
        assert_same_bits(found, wanted, words)
