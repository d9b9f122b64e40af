"""Sums, products, quotients and roots as a truncated pattern and the 32 bits after it: against fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import numpy as np
import oracles
import pytest
from arithmetic_oracle import DEFINITIONS
from bits_assertions import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from reals import NAN_BITS, Real, power, read_all
from strategies import EDGES, drawn, every_pair, generator, patterns

from precision import soft_division, soft_float

INFINITY = 0x7F800000
KERNELS = {
    "add": lambda a, b, down=0: soft_float.exact_add(a, b, down),
    "mul": lambda a, b: soft_float.exact_multiply(a, b),
    "fma": lambda a, b, c, down=0: soft_float.exact_fused_multiply_add(a, b, c, down),
    "div": lambda a, b: soft_division.exact_divide(a, b),
    "sqrt": lambda a: soft_division.exact_square_root(a),
}
OPERANDS = {"add": 2, "mul": 2, "fma": 3, "div": 2, "sqrt": 1}


def two_words(x: Real) -> tuple[int, int]:
    """(u, extra) of an exact result, from its definition."""
    if x.is_nan:
        return NAN_BITS, 0
    sign = x.negative << 31
    if x.is_infinite or x.magnitude >= power(128):
        return sign | INFINITY, int(not x.is_infinite)
    exponent = max(oracles.exponent_of(x.magnitude), -126) if x.magnitude else -126
    units = x.magnitude / power(exponent - 23 - 32)
    whole = math.floor(units)
    pattern = (whole >> 32) + (exponent + 126 << 23)
    return sign | pattern, (whole & 0xFFFFFFFF) | (whole != units)


def check(operation: str, words: tuple[np.ndarray, ...], mode: str = "nearest_even") -> None:
    expected = [
        two_words(DEFINITIONS[operation](*numbers, mode)) for numbers in zip(*map(read_all, words), strict=True)
    ]
    down = {"down": 1} if mode == "down" else {}
    u, extra = KERNELS[operation](*(w.copy() for w in words), **down)
    pattern, rest = np.array(expected, np.uint32).T
    assert_same_bits(u, np.ascontiguousarray(pattern), *words)
    assert_same_bits(extra, np.ascontiguousarray(rest), *words)


def operands(seed: int, count: int) -> tuple[np.ndarray, ...]:
    rng = generator(seed)
    ranges = ((0, 255), (100, 150), (0, 3))
    return tuple(np.concatenate([drawn(rng, count, exponents) for exponents in ranges]) for _ in range(3))


@pytest.mark.parametrize("operation", KERNELS)
def test_drawn_operands(operation: str) -> None:
    check(operation, operands(101, 1200)[: OPERANDS[operation]])


@pytest.mark.parametrize("operation", ["add", "mul", "div"])
def test_every_pair_of_edges(operation: str) -> None:
    check(operation, every_pair(EDGES))


@pytest.mark.parametrize("operation", ["add", "fma"])
def test_zeros_when_rounding_down(operation: str) -> None:
    zeros = np.array([0, 1 << 31, 0x3F800000, 0xBF800000], np.uint32)
    words = tuple(w.ravel() for w in np.meshgrid(*[zeros] * OPERANDS[operation]))
    for mode in ("nearest_even", "down"):
        check(operation, words, mode)


@given(patterns, patterns, patterns, st.sampled_from(sorted(KERNELS)))
def test_any_patterns(a: int, b: int, c: int, operation: str) -> None:
    check(operation, tuple(np.array([u], np.uint32) for u in (a, b, c))[: OPERANDS[operation]])


def test_roots_of_squares_and_their_neighbours() -> None:
    """A root of 12 bits is exact; beside its square the rest decides, and in 4 s + 1 the last bit of 28."""
    n = np.arange(1, 1 << 12, 7)
    squares = (n * n).astype(np.float32).view(np.uint32)
    check("sqrt", (np.concatenate([squares - np.uint32(1), squares, squares + np.uint32(1)]),))
    u, extra = soft_division.exact_square_root(squares)
    assert_same_bits(u, n.astype(np.float32))
    assert not extra.any()


def test_quotients_of_products_are_exact() -> None:
    a, b = (np.arange(1, 1 << 12, 11) * 3 % 4093 + 1).astype(np.float32), np.float32(3001)
    u, extra = soft_division.exact_divide((a * b).view(np.uint32), np.full(a.shape, b).view(np.uint32))
    assert_same_bits(u, a)
    assert not extra.any()


def test_a_number_beyond_float32_is_no_infinity() -> None:
    large = np.array([0x7F7FFFFF], np.uint32)
    assert [int(word[0]) for word in soft_float.exact_multiply(large, large)] == [INFINITY, 1]
    assert [int(word[0]) for word in soft_float.exact_add(large, large, 0)] == [INFINITY, 1]
    infinite = np.array([INFINITY], np.uint32)
    assert [int(word[0]) for word in soft_float.exact_add(large, infinite, 0)] == [INFINITY, 0]
    assert two_words(Real(False, power(128) - Fraction(1))) == (0x7F7FFFFF, 0xFFFFFFFF)


@pytest.mark.parametrize("operation", KERNELS)
def test_under_jit(operation: str) -> None:
    words = operands(102, 20_000)[: OPERANDS[operation]]
    for traced, plain in zip(jax.jit(KERNELS[operation])(*words), KERNELS[operation](*words), strict=True):
        assert_same_bits(traced, plain, *words)
