"""Sinusoidal and rotary tables and ALiBi's slopes against their definitions in many digits."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor

from qsim.masks import alibi_bias, causal_mask
from qsim.policy import POLICIES
from qsim.positions import alibi_slopes, rotary_table, sinusoidal_table
from qsim.sites import Calculator


def exact_table(positions: list[int], width: int, base: float = 10000) -> list[list[Fraction]]:
    """sin and cos of t / base^(2 i / h), interleaved, to 200 bits."""

    def rational(x: mpmath.mpf) -> Fraction:
        sign, mantissa, exponent, _ = x._mpf_
        return (-1) ** sign * Fraction(int(mantissa)) * Fraction(2) ** int(exponent)

    with mpmath.workprec(200):
        angles = [[t / mpmath.mpf(base) ** (mpmath.mpf(i // 2 * 2) / width) for i in range(width)] for t in positions]
        return [[rational((mpmath.cos if i % 2 else mpmath.sin)(a)) for i, a in enumerate(row)] for row in angles]


def half_unit(x: np.float32) -> Fraction:
    """Half of the distance to the next float32 number of greater magnitude."""
    return (Fraction(float(np.nextafter(np.abs(x), np.float32(np.inf)))) - Fraction(float(np.abs(x)))) / 2


@pytest.mark.parametrize(("length", "width"), [(1, 1), (2, 3), (70, 8), (2048, 10), (5000, 7)])
def test_sinusoidal_table_is_rounded_once(length: int, width: int) -> None:
    """Half a unit in the last place of float32, and what the float64 before it is off: 2^-51 a doubling."""
    table = sinusoidal_table(length, width)
    assert (table.dtype, table.shape) == (np.float32, (length, width))
    positions = sorted({0, 1, 2, 3, length // 2, length - 1, *range(5, length, 97)} & set(range(length)))
    off = Fraction(max(1, (length - 1).bit_length()), 2**51)
    for row, exact in zip(table[positions], exact_table(positions, width), strict=True):
        for found, true in zip(row, exact, strict=True):
            assert abs(Fraction(float(found)) - true) <= half_unit(found) + off


@pytest.mark.parametrize(("length", "width", "theta"), [(1, 2, 1e4), (70, 8, 1e4), (9000, 6, 1e5), (300, 4, 5e5)])
def test_rotary_tables_are_rounded_once(length: int, width: int, theta: float) -> None:
    cosine, sine = rotary_table(length, width, theta)
    assert cosine.dtype == sine.dtype == np.float32
    assert cosine.shape == sine.shape == (length, width // 2)
    positions = sorted({0, 1, length // 2, length - 1, *range(5, length, 597)} & set(range(length)))
    off = Fraction(max(1, (length - 1).bit_length()), 2**51)
    table = np.stack([sine, cosine], axis=2).reshape(length, width)
    for row, exact in zip(table[positions], exact_table(positions, width, theta), strict=True):
        for found, true in zip(row, exact, strict=True):
            assert abs(Fraction(float(found)) - true) <= half_unit(found) + off


def test_a_longer_table_begins_with_a_shorter_one() -> None:
    assert_same_bits(sinusoidal_table(300, 12)[:77], sinusoidal_table(77, 12))


def test_a_scaled_table() -> None:
    """A power of two moves the exponent alone; another factor is one rounding of float64 more."""
    table = sinusoidal_table(90, 12)
    assert_same_bits(sinusoidal_table(90, 12, 2.0**-5), np.ldexp(table, -5))
    true, scale = exact_table(range(90), 12), Fraction(0.3)
    for row, exact in zip(sinusoidal_table(90, 12, 0.3), true, strict=True):
        for found, one in zip(row, exact, strict=True):
            assert abs(Fraction(float(found)) - scale * one) <= half_unit(found) + Fraction(4, 2**51)


def test_first_rows() -> None:
    table = sinusoidal_table(2, 4)
    assert_same_bits(table[0], np.array([0, 1, 0, 1], np.float32))
    assert_same_bits(table[1], np.sin([1, 1 + np.pi / 2, 0.01, 0.01 + np.pi / 2]).astype(np.float32))


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16, 64, 128])
def test_slopes_of_powers_of_two(heads: int) -> None:
    """The nearest float32 to 2^(-8 n / H): its H-th power against 2^(-8 n), in rational numbers."""
    for n, slope in enumerate(alibi_slopes(heads), start=1):
        ends = (Fraction(float(np.nextafter(slope, np.float32(way)))) for way in (0, 1))
        below, above = ((Fraction(float(slope)) + end) / 2 for end in ends)
        assert below**heads < Fraction(1, 2 ** (8 * n)) < above**heads


def test_slopes_of_other_counts() -> None:
    """BLOOM's 112 heads among them: those of 64, then every other one of 128."""
    for heads, below in ((3, 2), (12, 8), (20, 16), (112, 64)):
        slopes = alibi_slopes(heads)
        assert_same_bits(slopes[:below], alibi_slopes(below))
        assert_same_bits(slopes[below:], alibi_slopes(2 * below)[: 2 * (heads - below) : 2])
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]


def test_bias(backend: Executor) -> None:
    """-slope (i - j) rounded once to float32; -0 where i = j, so that a score of either zero stays; -0 above."""
    ar = Calculator(POLICIES["fp16"], backend.name)
    slopes = alibi_slopes(12)
    found = ar.backend.jit(lambda s: alibi_bias(ar, s, causal_mask(ar, 9)))(slopes)
    expected = np.full((12, 9, 9), -0.0, np.float32)
    for h, i, j in np.ndindex(expected.shape):
        if j < i:
            expected[h, i, j] = np.float32(-(np.float64(slopes[h]) * (i - j)))  # exact in float64
    assert_same_bits(np.asarray(found), expected)
