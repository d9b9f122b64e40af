"""Codes of 2 and 4 bits to bytes and back: every byte, every axis, odd lengths, under jit."""

from __future__ import annotations

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from refusals import refused
from strategies import generator

import precision as pr

NIBBLES = np.arange(-8, 8)
CRUMBS = np.arange(-2, 2)


def words_by_hand(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows of codes as bytes: the sum of code mod 2^bits times 2^(bits place), in Python's integers."""
    per_byte = 8 // bits
    rows = [list(map(int, row)) for row in codes]
    packed = [
        [sum((code % 2**bits) << bits * place for place, code in enumerate(row[i : i + per_byte])) for i in starts]
        for row in rows
        for starts in [range(0, len(row), per_byte)]
    ]
    return np.array(packed, np.uint8).reshape(len(rows), -(-codes.shape[1] // per_byte))


def test_every_pair_of_nibbles() -> None:
    low, high = map(np.ravel, np.meshgrid(NIBBLES, NIBBLES))
    pairs = np.stack([low, high], -1).astype(np.int8)
    words = pr.pack_codes(pairs)
    assert_same_bits(words, (low % 16 + 16 * (high % 16)).astype(np.uint8)[:, None])
    assert sorted(words.ravel().tolist()) == list(range(256))
    assert_same_bits(pr.unpack_codes(words, 2), pairs)


def test_every_four_of_two_bits() -> None:
    fours = np.array(list(product(CRUMBS, repeat=4)), np.int8)
    words = pr.pack_codes(fours, 2)
    assert_same_bits(words, words_by_hand(fours, 2))
    assert sorted(words.ravel().tolist()) == list(range(256))
    assert_same_bits(pr.unpack_codes(words, 4, 2), fours)


@pytest.mark.parametrize("bits", [2, 4])
def test_every_byte(bits: int) -> None:
    every = np.arange(256, dtype=np.uint8)
    codes = pr.unpack_codes(every, 256 * 8 // bits, bits)
    assert (codes.dtype, codes.min(), codes.max()) == (np.int8, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    assert_same_bits(pr.pack_codes(codes, bits), every)


def drawn_codes(shape: tuple[int, ...], bits: int) -> np.ndarray:
    return generator(bits).integers(-(1 << (bits - 1)), 1 << (bits - 1), shape).astype(np.int8)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("length", range(10))
def test_lengths(bits: int, length: int) -> None:
    codes = drawn_codes((3, length), bits)
    words = pr.pack_codes(codes, bits)
    assert words.shape == (3, -(-length * bits // 8))
    assert_same_bits(words, words_by_hand(codes, bits))
    assert_same_bits(pr.unpack_codes(words, length, bits), codes)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_axes(bits: int, axis: int) -> None:
    codes = drawn_codes((3, 6, 5), bits)
    words = pr.pack_codes(codes, bits, axis=axis)
    last = np.moveaxis(codes, axis, -1)
    expected = words_by_hand(last.reshape(-1, last.shape[-1]), bits)
    assert_same_bits(np.moveaxis(words, axis, -1).reshape(expected.shape), expected)
    assert_same_bits(pr.unpack_codes(words, codes.shape[axis], bits, axis=axis), codes)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (4, 0), (0, 0, 3)], ids=str)
def test_nothing_to_pack(shape: tuple[int, ...]) -> None:
    words = pr.pack_codes(np.zeros(shape, np.int8))
    assert words.shape == (*shape[:-1], -(-shape[-1] // 2))
    assert_same_bits(pr.unpack_codes(words, shape[-1]), np.zeros(shape, np.int8))


def test_strided_and_read_only_codes() -> None:
    codes = drawn_codes((8, 12), 4)[::-2, ::3]
    expected = pr.pack_codes(np.ascontiguousarray(codes))
    codes.flags.writeable = False
    assert_same_bits(pr.pack_codes(codes), expected)


@pytest.mark.parametrize("bits", [2, 4])
def test_under_jit(bits: int) -> None:
    codes = drawn_codes((3, 7), bits)

    @jax.jit
    def both(codes: Any) -> tuple[Any, Any]:
        words = pr.pack_codes(codes, bits, axis=0)
        return words, pr.unpack_codes(words, 3, bits, axis=0)

    words, again = both(codes)
    assert_same_bits(words, pr.pack_codes(codes, bits, axis=0))
    assert_same_bits(again, codes)
    assert isinstance(pr.pack_codes(jnp.asarray(codes), bits), jax.Array)


def test_codes_of_an_int4_array() -> None:
    x = generator(4).normal(size=(5, 9)).astype(np.float32)
    q = pr.quantize(x, "int4_group4", axis=-2)
    words = pr.pack_codes(q.codes)
    assert words.nbytes + q.scale.nbytes == q.nbytes
    assert_same_bits(pr.unpack_codes(words, 9), q.codes)


def test_refusals() -> None:
    codes = np.zeros((3, 4), np.int8)
    with refused(ValueError, "3 bits", "2 and 4"):
        pr.pack_codes(codes, 3)
    with refused(ValueError, "8 bits", "2 and 4"):
        pr.unpack_codes(codes.view(np.uint8), 4, 8)
    with refused(TypeError, "int8", "int32"):
        pr.pack_codes(codes.astype(np.int32))
    with refused(TypeError, "uint8", "int8"):
        pr.unpack_codes(codes, 8)
    with refused(TypeError, "int8", "list"):
        pr.pack_codes([1, 2])
    for array in (codes, jnp.asarray(codes)):
        with refused(ValueError, "axis 2 does not exist", "(3, 4)"):
            pr.pack_codes(array, axis=2)
    with refused(ValueError, "axis -1 does not exist"):
        pr.pack_codes(np.int8(1))


@pytest.mark.parametrize(("bits", "code", "allowed"), [(4, 8, "-8 ... 7"), (4, -9, "-8 ... 7"), (2, 2, "-2 ... 1")])
def test_codes_that_are_wider(bits: int, code: int, allowed: str) -> None:
    codes = np.zeros((2, 3), np.int8)
    codes[1, 2] = code
    for array in (codes, jnp.asarray(codes)):
        with refused(ValueError, f"codes[1, 2] is {code}", allowed, f"{bits} bits"):
            pr.pack_codes(array, bits)


@pytest.mark.parametrize(("length", "bits"), [(-1, 4), (4, 4), (7, 4), (8, 2), (13, 2)])
def test_lengths_that_were_not_packed(length: int, bits: int) -> None:
    """Three bytes hold 5 or 6 nibbles, and 9 to 12 of two bits."""
    with refused(ValueError, f"{length} codes", "3 bytes"):
        pr.unpack_codes(np.zeros((2, 3), np.uint8), length, bits)
