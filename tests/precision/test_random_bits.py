"""Threefry: published vectors, JAX's own generator, streams that do not depend on how they are cut."""

from __future__ import annotations

import re
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.random import threefry_2x32
from strategies import drawn, generator

import precision as pr
from precision import bits
from precision.backends import get_backend
from precision.backends.numba_ import rounding as numba_rounding
from precision.random_bits import as_key, fold_in, fold_name

words32 = st.integers(0, 2**32 - 1)
words64 = st.integers(0, 2**64 - 1)
keys = st.tuples(words32, words32)
KEY = (0x243F6A88, 0x85A308D3)

# The authors' known-answer vectors (Random123, kat_vectors, threefry2x32 20): counter, key, result
PUBLISHED = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def by_definition(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32-20 from the paper: 20 rounds of add, rotate, xor; a subkey is added after every fourth."""
    schedule = (*key, 0x1BD11BDA ^ key[0] ^ key[1])
    rotations = (13, 15, 26, 6, 17, 29, 16, 24)
    x, y = ((c + k) % 2**32 for c, k in zip(counter, key, strict=True))
    for i in range(20):
        x = (x + y) % 2**32
        y = (y << rotations[i % 8] | y >> 32 - rotations[i % 8]) % 2**32 ^ x
        if i % 4 == 3:
            s = i // 4 + 1
            x, y = (x + schedule[s % 3]) % 2**32, (y + schedule[(s + 1) % 3] + s) % 2**32
    return x, y


@pytest.mark.parametrize(("counter", "key", "result"), PUBLISHED)
def test_published_vectors(counter: tuple[int, int], key: tuple[int, int], result: tuple[int, int]) -> None:
    assert bits.threefry2x32(*key, *counter, 0xFFFFFFFF) == result
    assert by_definition(key, counter) == result
    assert fold_in(key, counter[0] << 32 | counter[1]) == result
    assert int(pr.random_bits(key, np.uint64(counter[0] << 32 | counter[1]))) == result[0]


@given(keys, st.tuples(words32, words32))
def test_python_integers_against_the_paper(key: tuple[int, int], counter: tuple[int, int]) -> None:
    assert bits.threefry2x32(*key, *counter, 0xFFFFFFFF) == by_definition(key, counter)


def test_against_jax() -> None:
    """JAX hashes the first half of a vector against the second."""
    rng = generator(71)
    counter = rng.integers(0, 2**64, 500, np.uint64)
    for key in [KEY, *(tuple(map(int, rng.integers(0, 2**32, 2))) for _ in range(3))]:
        halves = np.concatenate([counter >> np.uint64(32), counter & np.uint64(0xFFFFFFFF)]).astype(np.uint32)
        both = np.asarray(threefry_2x32(jnp.array(key, jnp.uint32), halves))
        assert_same_bits(pr.random_bits(key, counter), both[:500], counter)


# Streams


@given(keys, st.lists(words64, min_size=1, max_size=20))
def test_a_word_depends_on_its_own_counter_alone(key: tuple[int, int], counter: list[int]) -> None:
    together = pr.random_bits(key, np.array(counter, np.uint64))
    apart = [pr.random_bits(key, np.uint64(index)) for index in counter]
    assert_same_bits(together, np.array(apart))
    assert together.tolist() == [by_definition(key, (index >> 32, index % 2**32))[0] for index in counter]


@given(st.integers(0, 2**64 - 300), st.lists(st.integers(0, 60), min_size=1, max_size=5))
def test_chunks_join_to_the_stream(start: int, sizes: list[int]) -> None:
    ends = np.cumsum([0, *sizes])
    index = np.uint64(start) + np.arange(ends[-1], dtype=np.uint64)
    parts = [pr.random_bits(KEY, index[low:high]) for low, high in pairwise(ends)]
    assert_same_bits(np.concatenate(parts), pr.random_bits(KEY, index))


def test_counters_beyond_one_word() -> None:
    index = np.array([2**32 - 1, 2**32, 2**32 + 1, 2**64 - 1], np.uint64)
    expected = [by_definition(KEY, (i >> 32, i % 2**32))[0] for i in index.tolist()]
    assert pr.random_bits(KEY, index).tolist() == expected


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0, 2), (4, 5, 6), (3, 700)])
def test_words_of_a_shape(backend: Executor, shape: tuple[int, ...]) -> None:
    """The counter of an element is its row-major index."""
    found = backend.apply("random_words", key=KEY, shape=shape)
    index = np.arange(np.prod(shape, dtype=int), dtype=np.uint64).reshape(shape)
    assert found.dtype == np.uint32
    assert_same_bits(found, pr.random_bits(KEY, index))


@pytest.mark.parametrize("first", [2**32 - 3, 2**32, 2**63 + 5, 2**64 - 4])
def test_words_from_a_counter_on(backend: Executor, first: int) -> None:
    """The low word carries into the high one; after 2^64 - 1 comes 0."""
    found = backend.apply("random_words", key=KEY, shape=(3, 4), counter=first)
    expected = [by_definition(KEY, (i % 2**64 >> 32, i % 2**32))[0] for i in range(first, first + 12)]
    assert found.ravel().tolist() == expected


def test_words_of_counters(backend: Executor) -> None:
    """An index for each element, repeated along what it does not have."""
    index = generator(72).integers(0, 2**64, 6, np.uint64)
    found = backend.module.random_words(KEY, (2, 6), index)
    assert_same_bits(np.asarray(found), np.stack([pr.random_bits(KEY, index)] * 2))


@pytest.mark.parametrize("fmt", ["fp16", "bf16", "e8m0"])
def test_streams_longer_than_a_word_counts(fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a loop told no more than eight elements apart: the parts join to the same stream."""
    x = drawn(generator(73), 40, (110, 140)).view(np.float32)
    where = {"key": KEY, "counter": 2**32 - 9}
    wanted = pr.round_to(x, fmt, rounding="stochastic", backend="numpy", **where)
    monkeypatch.setattr(numba_rounding, "STREAMED", 8)
    assert_same_bits(pr.round_to(x, fmt, rounding="stochastic", backend="numba", **where), wanted)
    words = get_backend("numba").random_words(KEY, (40,), where["counter"])
    assert_same_bits(words, get_backend("numpy").random_words(KEY, (40,), where["counter"]))


def test_jax_refuses_a_stream_longer_than_a_word_counts() -> None:
    """By shape alone: nothing of this size is allocated."""
    many = jax.ShapeDtypeStruct((1 << 16, (1 << 16) + 1), np.float32)
    with pytest.raises(
        ValueError, match=r"^a JAX array of 4295032832 elements [^\n]*in parts[^\n]*(\Z|\n-+\nFor simplicity)"
    ):
        jax.eval_shape(lambda x: pr.round_to(x, "fp16", rounding="stochastic", key=1), many)
    most = jax.ShapeDtypeStruct((1 << 16, 1 << 16), np.float32)
    assert jax.eval_shape(lambda x: pr.round_to(x, "fp16", rounding="stochastic", key=1), most).shape == most.shape


def test_words_of_extreme_keys(backend: Executor) -> None:
    for key in ((0, 0), (2**32 - 1, 2**32 - 1), (0, 2**31)):
        found = backend.apply("random_words", key=key, shape=(9,))
        assert found.tolist() == [by_definition(key, (0, i))[0] for i in range(9)]


def test_shapes_and_types_of_counters() -> None:
    for counter in (np.uint64(5), np.zeros((2, 3), np.uint64), np.zeros((0, 4), np.uint64), [1, 2], 7):
        found = pr.random_bits(KEY, counter)
        assert (found.shape, found.dtype) == (np.shape(counter), np.uint32)
    strided = np.arange(20, dtype=np.uint64)[::-3]
    assert_same_bits(pr.random_bits(KEY, strided), pr.random_bits(KEY, np.arange(20))[::-3].copy())


def test_bits_look_fair() -> None:
    """Each of the 32 bits set half the time, and neighbours unlike: six standard deviations of room."""
    words = pr.random_bits(KEY, np.arange(1 << 16))
    for stream in (words, words ^ np.roll(words, 1)):
        share = (stream[:, None] >> np.arange(32, dtype=np.uint32) & 1).mean(axis=0)
        assert np.abs(share - 0.5).max() < 6 * 0.5 / 256


# Keys


@given(words64)
def test_key_of_a_seed(seed: int) -> None:
    high, low = as_key(seed)
    assert high << 32 | low == seed
    assert max(high, low) < 2**32


@given(keys, words64)
def test_fold_in_is_threefry_of_the_data(key: tuple[int, int], data: int) -> None:
    assert fold_in(key, data) == by_definition(key, (data >> 32, data % 2**32))


def test_fold_in_of_any_words() -> None:
    """NumPy's give Python's, JAX's stay JAX's, traced or not."""
    expected = fold_in(KEY, 1 << 63 | 5)
    assert fold_in(tuple(np.array(KEY, np.uint32)), 1 << 63 | 5) == expected
    words = jnp.array(KEY, jnp.uint32)
    for fold in (fold_in, jax.jit(fold_in, static_argnums=1)):
        assert [int(word) for word in fold((words[0], words[1]), 1 << 63 | 5)] == list(expected)


def test_folded_names_are_apart() -> None:
    names = ["", "\0", "\0\0", "a", "b", "aa", "layers", "layer", "abcdefgh", "abcdefg", "abcdefgha", "abcdefgh\0"]
    assert len({fold_name(KEY, name) for name in names}) == len(names)
    assert fold_name(KEY, "a") != fold_name((1, 2), "a")


def test_folded_name_by_definition() -> None:
    key = fold_in(KEY, 10)
    for part in (b"abcdefgh", b"ij"):
        key = fold_in(key, sum(byte << 8 * i for i, byte in enumerate(part)))
    assert fold_name(KEY, "abcdefghij") == key


def refuses(message: str) -> object:
    return pytest.raises(ValueError, match=rf"^{re.escape(message)}\Z")


@pytest.mark.parametrize("value", [-1, 2**64])
def test_values_out_of_range(value: int) -> None:
    with refuses(f"seed {value} is outside 0 <= seed < 2^64; choose a seed in that range"):
        as_key(value)
    with refuses(f"data {value} to fold into a key is outside 0 <= data < 2^64"):
        fold_in(KEY, value)
