"""Laws of quantizers: errors, and what reorders, negates, scales or joins vectors."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from hypothesis import assume, example, given
from hypothesis import strategies as st
from quantizer_cases import AFFINE, OTHERS, ROUNDED_SCALES, WIDTHS, with_granularity
from strategies import drawn, finite_patterns, generator

import precision as pr
from precision.quantization.scheme import VECTOR, QScheme

words = st.lists(finite_patterns, min_size=1, max_size=8)
SMALLEST = Fraction(2) ** -112
QUOTIENTS = {"bound": 4, "unit": 5, "inverse": 2, "scale": 1}  # roundings between x / s and what is rounded to a code
MIRRORED = ("nearest_even", "nearest_away", "toward_zero", "to_odd")


def floats(patterns: list[int]) -> np.ndarray:
    return np.array(patterns, np.uint32).view(np.float32)


def along(x: np.ndarray, scheme: QScheme) -> pr.QArray:
    return pr.quantize(x, scheme, axis=-1, backend="numpy")


def holds(x: np.ndarray, scheme: QScheme) -> bool:
    """Whether bound / a, which a range beyond bound x 2^126 would take below the normal numbers, is not flushed."""
    return Fraction(float(np.abs(x).max())) <= Fraction(scheme.span) * 2**126


def check_errors(x: np.ndarray, scheme: QScheme, excess: Fraction, absolute: Fraction = Fraction(0)) -> None:
    """|x - (q - z) s| <= s (1/2 + excess) + absolute, and where s = 0 the least range that has a scale."""
    q = along(x, scheme)
    scale, zero = Fraction(float(q.scale[0])), 0 if q.zero_point is None else int(q.zero_point[0])
    allowed = scale * (Fraction(1, 2) + excess) + absolute
    for value, code in zip(x.tolist(), q.codes.tolist(), strict=True):
        error = abs(Fraction(value) - (code - zero) * scale)
        assert error <= allowed if scale else abs(Fraction(value)) < max(2 * SMALLEST, absolute)


# Errors


@given(words, st.integers(2, 8), st.sampled_from(list(QUOTIENTS)))
@example([0x07800000], 8, "bound")
@example([0x7F7FFFFF, 0x7F7FFFFE, 0x00000001], 8, "inverse")
@example([0x42FE0000, 0x3F000000, 0x3FC00000], 8, "scale")
def test_error(patterns: list[int], bits: int, quotient: Any) -> None:
    """Each of n roundings moves a quotient of at most 2^(bits-1) by 2^-24 of it: n 2^(bits-25).

    Domain: a <= bound 2^126, all of float32 from 4 bits on; of "unit", where 1 / a would be flushed, a <= 2^126.
    """
    x, scheme = floats(patterns), replace(VECTOR, bits=bits, quotient=quotient)
    assume(holds(x, scheme) and (quotient != "unit" or np.abs(x).max() <= 2.0**126))
    check_errors(x, scheme, QUOTIENTS[quotient] * Fraction(2) ** (bits - 25))


@given(words, st.integers(2, 8), st.sampled_from(["inverse", "scale"]))
@example([0x42FEFEFF], 8, "inverse")
def test_error_with_bf16_scales(patterns: list[int], bits: int, quotient: Any) -> None:
    """s lies within 2^-8 of what it should be: at most 127 / 256 of a step is clipped, less than rounding costs."""
    x, scheme = floats(patterns), replace(VECTOR, bits=bits, quotient=quotient, scale_format="bf16")
    assume(holds(x, scheme))
    check_errors(x, scheme, 2 * Fraction(2) ** (bits - 25))


@given(words, st.integers(2, 8), st.sampled_from(["inverse", "scale"]))
@example([0x36000000, 0x35000000], 8, "inverse")
def test_error_with_fp16_scales(patterns: list[int], bits: int, quotient: Any) -> None:
    """As bf16 where s >= 2^-14.  Below, s is off by up to 2^-25, and 2^(bits-1) times that is clipped.

    Domain: a at most bound x 65,504; beyond it s saturates and codes are clipped.
    """
    x, scheme = floats(patterns), replace(VECTOR, bits=bits, quotient=quotient, scale_format="fp16")
    assume(np.abs(x).max() <= scheme.span * 65504)
    small = float(np.abs(x).max()) < scheme.span * 2.0**-14
    check_errors(x, scheme, 2 * Fraction(2) ** (bits - 25), small * Fraction(2) ** (bits - 26))


@given(words, st.integers(2, 8), st.sampled_from(["inverse", "scale"]))
@example([0x7F7FFFFF, 0x00000001], 8, "inverse")
def test_error_with_scales_that_are_powers_of_two(patterns: list[int], bits: int, quotient: Any) -> None:
    """Nothing but the code is rounded."""
    x, scheme = floats(patterns), replace(VECTOR, bits=bits, quotient=quotient, scale_format="e8m0")
    assume(holds(x, scheme))
    check_errors(x, scheme, Fraction(0))


@given(words, st.integers(2, 8))
@example([0xBFC00000, 0x437D8000], 8)  # -1.5, 253.5: both ends round away from the middle, and one is clipped
@example([0x81000000, 0x08000000], 8)
@example([0x7F7FFFFF, 0xFF7FFFFF, 0x00000001], 8)
def test_error_of_affine_codes(patterns: list[int], bits: int) -> None:
    """Four roundings between x / s and what is rounded; a clipped end is off by what rounded the zero point, and by
    three more: 7 2^-24 of at most 2^bits steps.  Domain: ranges up to levels x 2^126, all from 4 bits on."""
    x, scheme = floats(patterns), replace(AFFINE, bits=bits)
    assume(spread_of(x) <= Fraction(scheme.span) * 2**126)
    check_errors(x, scheme, 7 * Fraction(2) ** (bits - 24))


@pytest.mark.parametrize("bits", [2, 3])
def test_ranges_whose_quotient_is_flushed(bits: int) -> None:
    """Beyond bound x 2^126 all codes stand for zero; the largest float32 is beyond that with 2 and 3 bits."""
    for scheme, edge in (
        (replace(VECTOR, bits=bits), 2 ** (bits - 1) - 1),
        (replace(AFFINE, bits=bits), 2**bits - 1),
    ):
        half = np.float32(edge * 2.0**125)
        at, beyond = (np.array([-a, a], np.float32) for a in (half, np.nextafter(half, np.float32(np.inf))))
        if scheme.symmetric:
            at, beyond = 2 * at, 2 * beyond
        assert along(at, scheme).dequantize().all()
        assert not along(beyond, scheme).dequantize().any()


def spread_of(x: np.ndarray) -> Fraction:
    """Width of the range that holds x and 0."""
    values = [Fraction(v) for v in (*x.tolist(), 0)]
    return max(values) - min(values)


# The same codes again


def test_codes_are_fixed_points_and_scales_nearly() -> None:
    """Of vectors quantized, dequantized and quantized again no code moves, and no scale by more than a unit in the
    last place, none at all where scales are fp16 (normal ones), bf16 or powers of two.

    Counts are of this seed: per 100,000 vectors; of INT8 40,652 of 1,000,000 move.
    """
    x = np.random.Generator(np.random.PCG64(111)).standard_normal((1_000_000, 2), np.float32)
    x = np.where(np.abs(x).max(axis=1, keepdims=True) < 2.0**-7, np.float32(1), x)
    moved = {}
    for scheme in (*WIDTHS, *ROUNDED_SCALES[::2]):
        part = x if scheme.bits == 8 and scheme.scale_format == "fp32" else x[:100_000]
        once = pr.quantize(part, scheme, axis=-1)
        again = pr.quantize(once.dequantize(), scheme, axis=-1)
        assert_same_bits(again.codes, once.codes)
        ulps = again.scale.view(np.int32) - once.scale.view(np.int32)
        assert np.abs(ulps).max() <= 1
        moved[scheme.name] = int((ulps != 0).sum())
    assert moved == MOVED


MOVED = {"int2": 0, "int3": 16777, "int4": 45941, "int5": 59490, "int6": 33368, "int7": 69087, "int8": 40652,
         "fp16_inverse": 0, "bf16_inverse": 0, "e8m0_inverse": 0}  # fmt: skip


# Symmetries


@given(words, st.sampled_from([*WIDTHS, *ROUNDED_SCALES, *OTHERS[4:10]]), st.sampled_from(MIRRORED))
def test_negation(patterns: list[int], scheme: QScheme, mode: Any) -> None:
    x, scheme = floats(patterns), replace(scheme, rounding=mode)
    plain, negative = along(x, scheme), along(-x, scheme)
    assert_same_bits(negative.codes, -plain.codes)
    assert_same_bits(negative.scale, plain.scale)


@given(words, st.sampled_from(WIDTHS))
def test_negation_exchanges_up_and_down(patterns: list[int], scheme: QScheme) -> None:
    x = floats(patterns)
    up, down = along(x, replace(scheme, rounding="up")), along(-x, replace(scheme, rounding="down"))
    assert_same_bits(down.codes, -up.codes)


ORDERLESS = [
    *WIDTHS,
    *ROUNDED_SCALES,
    *(s for s in OTHERS if s.clipping.method != "mse" and s.granularity == "vector"),
]


@given(words, st.sampled_from(ORDERLESS), st.randoms(use_true_random=False))
def test_order_of_elements(patterns: list[int], scheme: QScheme, random: Any) -> None:
    x, order = floats(patterns), list(range(len(patterns)))
    random.shuffle(order)
    plain, moved = along(x, scheme), along(x[order], scheme)
    assert_same_bits(moved.codes, plain.codes[order])
    assert_same_bits(moved.scale, plain.scale)


@pytest.mark.parametrize("scheme", [*WIDTHS[::3], *ROUNDED_SCALES[::2], *OTHERS], ids=str)
def test_order_of_vectors(scheme: QScheme) -> None:
    """Each is quantized as if it were alone."""
    x = drawn(generator(112), (6, 11), (100, 150)).view(np.float32)
    order = [4, 2, 0, 5, 1, 3]
    plain, moved = along(x, scheme), along(x[order], scheme)
    assert_same_bits(moved.codes, plain.codes[order])
    assert_same_bits(moved.scale, plain.scale[order])
    assert_same_bits(along(x[2], scheme).codes, plain.codes[2])


# Powers of two


@given(words, st.integers(-250, 250), st.sampled_from([*WIDTHS, *ROUNDED_SCALES[4:], *OTHERS[4:6]]))
@example([0x07800000, 0x00000001], 239, WIDTHS[-1])
@example([0x7F7FFFFF, 0x00800000], -239, WIDTHS[-1])
def test_power_of_two(patterns: list[int], exponent: int, scheme: QScheme) -> None:
    """Codes stay and scales move wherever both absmax lie from 2^-112 to bound x 2^126, which from 4 bits on is the
    largest float32, whatever else becomes subnormal."""
    x = floats(patterns)
    largest = min(Fraction(scheme.span) * 2**126, Fraction(float(np.finfo(np.float32).max)))
    absmax = Fraction(float(np.abs(x).max()))
    assume(all(SMALLEST <= a <= largest for a in (absmax, absmax * Fraction(2) ** exponent)))
    plain, scaled = along(x, scheme), along(np.ldexp(x, exponent), scheme)
    assert_same_bits(scaled.codes, plain.codes, x)
    assert_same_bits(scaled.scale, np.ldexp(plain.scale, exponent))


@given(words, st.integers(-250, 250))
@example([0x01000000, 0x08000000], 200)
def test_power_of_two_of_affine_codes(patterns: list[int], exponent: int) -> None:
    """Where both ranges lie in [2^-111, 2^128) and no end but 0 is below 2^-125, half of which is subnormal."""
    x = floats(patterns)
    ends = [Fraction(min(0.0, *x.tolist(), 0.0)), Fraction(max(0.0, *x.tolist(), 0.0))]
    for factor in (Fraction(1), Fraction(2) ** exponent):
        low, high = (end * factor for end in ends)
        assume(high - low >= 2 * SMALLEST and max(high, -low) < 2**128)
        assume(all(end == 0 or abs(end) >= Fraction(2) ** -125 for end in (low, high)))
    plain, scaled = along(x, AFFINE), along(np.ldexp(x, exponent), AFFINE)
    assert_same_bits(scaled.codes, plain.codes, x)
    assert_same_bits(scaled.zero_point, plain.zero_point)
    with np.errstate(over="ignore"):
        assert_same_bits(scaled.scale, np.ldexp(plain.scale, exponent))


# Granularities


@given(st.integers(0, 1 << 30), st.sampled_from([*WIDTHS, *ROUNDED_SCALES, AFFINE]))
def test_parts_have_no_larger_scales(seed: int, scheme: QScheme) -> None:
    x = drawn(generator(seed), (4, 6), (0, 254)).view(np.float32)
    whole = along(x, with_granularity(scheme, "tensor")).scale
    for granularity, group in (("row", None), ("column", None), ("block", 4), ("group", 4)):
        assert (along(x, with_granularity(scheme, granularity, group)).scale <= whole).all()
    assert (along(x, with_granularity(scheme, "group", 4)).scale <= along(x, scheme).scale).all()


@pytest.mark.parametrize("scheme", [*WIDTHS[::3], *ROUNDED_SCALES[::2], AFFINE, *OTHERS[6:9:2]], ids=str)
def test_names_of_the_same_tiles(scheme: QScheme) -> None:
    x = drawn(generator(113), (5, 7), (100, 150)).view(np.float32)
    for first, second, axis in (
        (("group", 7), ("vector", None), -1),
        (("group", 9), ("row", None), -1),
        (("group", 5), ("column", None), -2),
        (("block", 7), ("tensor", None), -1),
        (("column", None), ("vector", None), -2),
    ):
        one, other = (pr.quantize(x, with_granularity(scheme, *tiles), axis=axis) for tiles in (first, second))
        assert_same_bits(one.codes, other.codes)
        assert_same_bits(one.scale, other.scale)
