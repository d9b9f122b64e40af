"""Scales of whole tensors against their definition in exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from hypothesis import given
from hypothesis import strategies as st
from strategies import generator

from precision.accumulators import parse_accumulator
from precision.backends import get_backend
from precision.formats import BF16, E4M3FN, E5M2, Format
from precision.scaled_products import block_scaled_product, scaled, scaled_product

FORMATS = (E4M3FN, E5M2)
FINITE = st.integers(0, 0xFF7FFFFF).filter(lambda u: u & 0x7F800000 != 0x7F800000)


def exponent_of(x: np.ndarray, fmt: Format) -> int:
    """k of s = 2^k, the largest with absmax s <= max, at most 127."""
    largest = max(abs(Fraction(float(v))) for v in x.reshape(-1))
    if largest == 0:
        return 127
    k = 200
    while largest * Fraction(2) ** k > Fraction(fmt.maximum):
        k -= 1
    return min(k, 127)


def nearest(x: Fraction, fmt: Format) -> Fraction:
    """x rounded to nearest even; |x| <= max."""
    if x == 0:
        return x
    exponent = math.floor(math.log2(abs(x)))
    exponent += (abs(x) >= Fraction(2) ** (exponent + 1)) - (abs(x) < Fraction(2) ** exponent)
    unit = Fraction(2) ** (max(exponent, fmt.min_normal_exponent) - fmt.significand_bits)
    return round(x / unit) * unit  # Python rounds a Fraction to nearest even


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@given(patterns=st.lists(FINITE, min_size=1, max_size=5))
def test_scale_and_values_by_their_definition(fmt: Format, patterns: list[int]) -> None:
    x = np.array(patterns, np.uint32).view(np.float32)
    rounded, code = scaled(get_backend("numpy"), x, fmt)
    k = exponent_of(x, fmt)
    assert int(code[0, 0]) == 127 - k
    for value, result in zip(x, rounded, strict=True):
        product = Fraction(float(value)) * Fraction(2) ** k
        assert Fraction(float(result)) == nearest(product, fmt)
        assert np.signbit(result) == np.signbit(value)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_what_is_not_finite_is_not_hidden(backend: Executor, fmt: Format, bad: float) -> None:
    x = np.array([[[1, bad], [2, 3]]], np.float32)
    b = np.ones((1, 2, 2), np.float32)
    y = product(backend, x, b, (fmt, E4M3FN))
    assert not np.isfinite(y[0, 0]).any()


def product(backend: Executor, a: np.ndarray, b: np.ndarray, formats: tuple[Format, Format]) -> np.ndarray:
    """Rounded to BF16, as a site does."""
    module, accumulator = backend.module, parse_accumulator("fp32_sequential")

    def run(a, b):
        plain = scaled_product(
            module, a, b, lambda x, y: module.matmul(x, y, None, accumulator, formats, None), formats
        )
        return module.round_to(plain, BF16)

    return np.asarray(module.jit(run)(backend.array(a), backend.array(b)))


def exact_product(a: np.ndarray, b: np.ndarray, formats: tuple[Format, Format]) -> np.ndarray:
    """Operands by the definition above, multiplied and added as fractions."""
    sides = []
    for x, fmt in zip((a, b), formats, strict=True):
        k = exponent_of(x, fmt)
        values = [nearest(Fraction(float(v)) * Fraction(2) ** k, fmt) for v in x.reshape(-1)]
        sides.append((np.array(values, object).reshape(x.shape), k))
    (qa, ka), (qb, kb) = sides
    total = np.einsum("bmk,bkn->bmn", qa, qb)
    return np.array([[[v * Fraction(2) ** -(ka + kb) for v in row] for row in block] for block in total], object)


@pytest.mark.parametrize("size", [(0, 0), (-60, 40), (-126, -20), (100, 20), (-100, 120)])
def test_unscaling_is_exact(backend: Executor, size: tuple[int, int]) -> None:
    """Two products of three bits each: the running sum is exact, so the result is that of fractions rounded once."""
    rng = generator(7)
    a = (rng.integers(-7, 8, (2, 3, 2)) * 2.0 ** size[0]).astype(np.float32)
    b = (rng.integers(-7, 8, (2, 2, 3)) * 2.0 ** size[1]).astype(np.float32)
    y = product(backend, a, b, (E4M3FN, E5M2))
    with np.errstate(over="ignore"):
        expected = np.array([float(v) for v in exact_product(a, b, (E4M3FN, E5M2)).reshape(-1)])
    expected = np.asarray(get_backend("numpy").round_to(expected, BF16)).reshape(y.shape)
    assert_same_bits(y, expected)


# Blocks


def exact_block_product(
    a: np.ndarray, b: np.ndarray, formats: tuple[Format, Format], block: int, square: bool
) -> np.ndarray:
    """The definition written out, one output at a time; sums within a block are few and exact in float64."""
    m, k, n = (*a.shape, b.shape[1])
    y = np.zeros((m, n), np.float32)
    for i, j in np.ndindex(m, n):
        for first in range(0, k, block):
            along = slice(first, first + block)
            columns = slice(j - j % block, j - j % block + block) if square else slice(j, j + 1)
            ka, kb = exponent_of(a[i, along], formats[0]), exponent_of(b[along, columns], formats[1])
            terms = [
                nearest(Fraction(float(p)) * Fraction(2) ** ka, formats[0])
                * nearest(Fraction(float(q)) * Fraction(2) ** kb, formats[1])
                for p, q in zip(a[i, along], b[along, j], strict=True)
            ]
            part = np.float32(float(sum(terms)))  # exact: see the operands below
            y[i, j] += np.float32(np.ldexp(np.ldexp(part, -ka), -kb))
    return y


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("block", [2, 3, 8])
def test_block_scales_by_their_definition(backend: Executor, block: int, square: bool) -> None:
    """k = 7 and n = 5: blocks that do not divide them, and one that is longer.  Small integers times powers of two
    that differ from place to place, so that scales differ and what a common one would lose is kept."""
    rng = generator(11)
    a, b = (
        (rng.integers(-15, 16, shape) * 2.0 ** rng.integers(-9, 9, shape)).astype(np.float32)
        for shape in ((4, 7), (7, 5))
    )
    a[1, :3], b[:, 2] = 0, 0
    module, formats = backend.module, (E4M3FN, E4M3FN)
    accumulator = parse_accumulator("exact")

    def run(a, b):
        return block_scaled_product(
            module, a, b, lambda x, y: module.matmul(x, y, None, accumulator, formats, None), formats, block, square
        )

    y = np.asarray(module.jit(run)(backend.array(a[None]), backend.array(b[None])))[0]
    assert_same_bits(y, exact_block_product(a, b, formats, block, square))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_block_that_is_not_finite_is_nan(backend: Executor, bad: float) -> None:
    a, b = np.ones((1, 2, 4), np.float32), np.ones((1, 4, 2), np.float32)
    a[0, 0, 3] = bad
    module, formats = backend.module, (E4M3FN, E5M2)
    accumulator = parse_accumulator("fp32_sequential")

    def run(a, b):
        return block_scaled_product(
            module, a, b, lambda x, y: module.matmul(x, y, None, accumulator, formats, None), formats, 2, True
        )

    y = np.asarray(module.jit(run)(backend.array(a), backend.array(b)))
    assert np.isnan(y[0, 0]).all()
    assert_same_bits(y[0, 1], np.array([4, 4], np.float32))
