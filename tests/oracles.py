"""Rounding and arithmetic from their definitions, in exact rational numbers.

Nothing here is shared with ``precision``: formats are written down again from their standards, rounding is Python's
own ``round`` of a ``Fraction`` (to nearest, ties to even), and the sign rules are those of IEEE 754-2019, 6.3.
Values are ``Real``s; arrays are uint32 float32 patterns on the way in and out.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

NAN_BITS = 0x7FC00000


# Numbers


@dataclass(frozen=True, slots=True)
class Real:
    """A sign and a magnitude: a ``Fraction`` (0 is a signed zero), ``math.inf`` or ``math.nan``."""

    negative: bool
    magnitude: Fraction | float

    @property
    def is_nan(self) -> bool:
        return self.magnitude != self.magnitude

    @property
    def is_infinite(self) -> bool:
        return self.magnitude == math.inf

    @property
    def value(self) -> Fraction:
        """Of a finite number; both zeros are 0."""
        return -self.magnitude if self.negative else self.magnitude


NAN = Real(False, math.nan)
ZERO = Real(False, Fraction(0))
ONE = Real(False, Fraction(1))


def real(value: Fraction | int | float) -> Real:
    """A finite number; zero is +0."""
    return Real(value < 0, abs(Fraction(value)))


def read(pattern: int) -> Real:
    """The number a float32 pattern stands for."""
    value = struct.unpack("<f", struct.pack("<I", int(pattern)))[0]
    if math.isnan(value):
        return NAN
    magnitude = abs(value)
    return Real(bool(int(pattern) >> 31), magnitude if math.isinf(magnitude) else Fraction(magnitude))


def write(x: Real) -> int:
    """The float32 pattern of a number that is one; NaN is 0x7FC00000."""
    if x.is_nan:
        return NAN_BITS
    value = float(x.magnitude)
    pattern = struct.unpack("<I", struct.pack("<f", value))[0]
    if not x.is_infinite and Fraction(struct.unpack("<f", struct.pack("<I", pattern))[0]) != x.magnitude:
        raise ValueError(f"{x} is not a float32")
    return pattern | x.negative << 31


def read_all(patterns: Iterable[int]) -> list[Real]:
    return [read(u) for u in np.asarray(patterns, np.uint32).ravel().tolist()]


def write_all(numbers: Iterable[Real]) -> np.ndarray:
    return np.array([write(x) for x in numbers], np.uint32)


# Formats


class Layout(NamedTuple):
    """A floating-point format as IEEE 754 names it: p digits, exponents emin to emax, one code for infinity."""

    p: int
    emin: int
    emax: int

    @property
    def fraction_bits(self) -> int:
        return self.p - 1

    @property
    def exponent_field(self) -> int:
        """All ones: infinity and NaN."""
        return self.emax - self.emin + 2


FLOATS = {
    "fp32": Layout(24, -126, 127),
    "tf32": Layout(11, -126, 127),
    "fp16": Layout(11, -14, 15),
    "bf16": Layout(8, -126, 127),
    "e5m2": Layout(3, -14, 15),
}
INTEGERS = {"int8": (-128, 127), "int4": (-8, 7)}


def power(exponent: int) -> Fraction:
    """2^exponent."""
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def exponent_of(magnitude: Fraction) -> int:
    """floor(log2 magnitude) of a positive rational."""
    n, d = magnitude.numerator, magnitude.denominator
    e = n.bit_length() - d.bit_length()
    return e if (n >= d << e if e >= 0 else n << -e >= d) else e - 1


def rounded(x: Real, name: str) -> Real:
    """x rounded once to a format, to nearest, ties to even; an integer format saturates and has one zero."""
    if x.is_nan:
        return x
    if name in INTEGERS:
        low, high = INTEGERS[name]
        limit = low if x.negative else high
        return real(limit if x.is_infinite else max(low, min(high, round(x.value))))
    layout = FLOATS[name]
    if x.is_infinite or x.magnitude == 0:
        return x
    quantum = power(max(exponent_of(x.magnitude), layout.emin) - layout.fraction_bits)
    magnitude = round(x.magnitude / quantum) * quantum
    return Real(x.negative, magnitude if magnitude < power(layout.emax + 1) else math.inf)


def flushed(x: Real, name: str) -> Real:
    """x, or the zero of its sign where it lies below the smallest normal value."""
    if x.is_nan or name in INTEGERS or x.magnitude >= power(FLOATS[name].emin):
        return x
    return Real(x.negative, Fraction(0))


def value_of_code(code: int, name: str) -> Real:
    """sign | exponent field | fraction, or two's complement."""
    if name in INTEGERS:
        low, _ = INTEGERS[name]
        return real(code if code < -low else code + 2 * low)
    layout = FLOATS[name]
    fraction = code & (1 << layout.fraction_bits) - 1
    field = code >> layout.fraction_bits & (1 << (layout.exponent_field).bit_length()) - 1
    negative = bool(code >> layout.fraction_bits + layout.exponent_field.bit_length())
    if field == layout.exponent_field:
        return NAN if fraction else Real(negative, math.inf)
    significand = fraction if field == 0 else fraction + (1 << layout.fraction_bits)
    return Real(negative, significand * power(max(field, 1) - 1 + layout.emin - layout.fraction_bits))


def code_of(x: Real, name: str) -> int:
    """Code of a number that the format has; the NaN is positive and quiet.  Integers: two's complement."""
    if name in INTEGERS:
        return int(x.value) % len(codes(name))
    layout = FLOATS[name]
    sign = x.negative << layout.fraction_bits + layout.exponent_field.bit_length()
    top = layout.exponent_field << layout.fraction_bits
    if x.is_nan:
        return top | 1 << layout.fraction_bits - 1
    if x.is_infinite:
        return sign | top
    exponent = max(exponent_of(x.magnitude), layout.emin) if x.magnitude else layout.emin
    significand = x.magnitude / power(exponent - layout.fraction_bits)
    if significand.denominator != 1:
        raise ValueError(f"{x} is not a value of {name}")
    hidden = significand >= 1 << layout.fraction_bits
    field = exponent - layout.emin + 1 if hidden else 0
    return sign | field << layout.fraction_bits | int(significand) - (hidden << layout.fraction_bits)


def codes(name: str) -> range:
    """Every code of a format of at most 16 bits."""
    if name in INTEGERS:
        return range(2 * (INTEGERS[name][1] + 1))
    layout = FLOATS[name]
    return range(1 << layout.p + layout.exponent_field.bit_length())


@cache
def positive_values(name: str) -> np.ndarray:
    """Values of codes 0, 1, 2 ... of a floating-point format of at most 16 bits and, in place of infinity, the
    value that would follow; float64, exact."""
    layout = FLOATS[name]
    last = layout.exponent_field << layout.fraction_bits
    finite = [float(value_of_code(code, name).magnitude) for code in range(last)]
    return np.array([*finite, 2.0 ** (layout.emax + 1)])


@cache
def every_value(name: str) -> np.ndarray:
    """Float32 pattern of each code of a format of at most 16 bits, the codes ascending as unsigned numbers."""
    if name in INTEGERS:
        return write_all(value_of_code(code, name) for code in codes(name))
    finite = positive_values(name)[:-1].astype(np.float32).view(np.uint32)
    nans = np.full((1 << FLOATS[name].fraction_bits) - 1, NAN_BITS, np.uint32)
    sign = np.uint32(1 << 31)
    infinity = np.array([0x7F800000], np.uint32)
    return np.concatenate([finite, infinity, nans, finite | sign, infinity | sign, nans])


def nearest(x: np.ndarray, name: str) -> np.ndarray:
    """Float32 values rounded by search: of the two values beside x the closer, of two equally close the even code.

    The differences are exact in float64: x and its neighbours are multiples of one quantum, at most 2^53 apart.
    """
    x = np.asarray(x, np.float32)
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
    if name in INTEGERS:
        values, wanted = np.arange(INTEGERS[name][0], INTEGERS[name][1] + 1.0), wide
    else:
        values, wanted = positive_values(name), np.abs(wide)
    clipped = np.clip(np.where(np.isnan(wide), 0, wanted), values[0], values[-1])
    above = np.clip(np.searchsorted(values, clipped), 1, len(values) - 1)
    below = above - 1
    down, up = clipped - values[below], values[above] - clipped
    code = np.where((down < up) | ((down == up) & (below % 2 == 0)), below, above)
    result = values[code]
    if name not in INTEGERS:
        result = np.copysign(np.where(code == len(values) - 1, np.inf, result), wide)
    result = np.where(np.isnan(wide), np.uint32(NAN_BITS).view(np.float32), result.astype(np.float32))
    return result.astype(np.float32)


# Arithmetic, exact: what IEEE 754 calls the infinitely precise result, with its sign


def product(x: Real, y: Real) -> Real:
    if x.is_nan or y.is_nan:
        return NAN
    if x.is_infinite or y.is_infinite:
        return NAN if 0 in (x.magnitude, y.magnitude) else Real(x.negative ^ y.negative, math.inf)
    return Real(x.negative ^ y.negative, x.magnitude * y.magnitude)


def total(x: Real, y: Real) -> Real:
    """x + y; a sum of zeros of unlike sign, or of opposite numbers, is +0."""
    if x.is_nan or y.is_nan or (x.is_infinite and y.is_infinite and x.negative != y.negative):
        return NAN
    if x.is_infinite or y.is_infinite:
        return x if x.is_infinite else y
    if x.magnitude == 0 and y.magnitude == 0:
        return Real(x.negative and y.negative, Fraction(0))
    return real(x.value + y.value)


def negated(x: Real) -> Real:
    return NAN if x.is_nan else Real(not x.negative, x.magnitude)


def quotient(x: Real, y: Real) -> Real:
    sign = x.negative ^ y.negative
    if x.is_nan or y.is_nan or (x.is_infinite and y.is_infinite) or (x.magnitude == 0 and y.magnitude == 0):
        return NAN
    if x.is_infinite or y.magnitude == 0:
        return Real(sign, math.inf)
    return Real(sign, Fraction(0) if y.is_infinite else x.magnitude / y.magnitude)


def fused_multiply_add(x: Real, y: Real, z: Real) -> Real:
    return rounded(total(product(x, y), z), "fp32")


# Float32 arithmetic that flushes


def _unbounded(x: Real) -> Real:
    """x rounded to 24 bits, whatever its exponent."""
    if x.is_nan or x.is_infinite or x.magnitude == 0:
        return x
    quantum = power(exponent_of(x.magnitude) - 23)
    return Real(x.negative, round(x.magnitude / quantum) * quantum)


def _flush_result(x: Real) -> Real:
    x = _unbounded(x)
    if not x.is_nan and x.magnitude >= power(128):
        return Real(x.negative, math.inf)
    return flushed(x, "fp32")


def _ftz(operation: Callable[[Real, Real], Real]) -> Callable[[Real, Real], Real]:
    return lambda x, y: _flush_result(operation(flushed(x, "fp32"), flushed(y, "fp32")))


ftz_add = _ftz(total)
ftz_subtract = _ftz(lambda x, y: total(x, negated(y)))
ftz_multiply = _ftz(product)
ftz_divide = _ftz(quotient)


def ftz_square_root(x: Real) -> Real:
    """Root of a number to 24 bits: n with n^2 <= x / q^2 < (n + 1)^2 in integers, then the halfway point."""
    x = flushed(x, "fp32")
    if x.is_nan or (x.negative and x.magnitude != 0):
        return NAN
    if x.is_infinite or x.magnitude == 0:
        return x
    quantum = power(exponent_of(x.magnitude) // 2 - 23)
    scaled = x.magnitude / quantum**2
    n = math.isqrt(math.floor(scaled))
    return Real(False, (n + (scaled > Fraction(2 * n + 1, 2) ** 2)) * quantum)


# Dot products


ACCUMULATORS = {
    # name: (format each product is rounded to, format of the running sum)
    "fp32_sequential": (None, "fp32"),
    "fp32_mul_add": ("fp32", "fp32"),
    "fp16_mul_add": ("fp16", "fp16"),
}


def dot(x: Sequence[Real], y: Sequence[Real], start: Real, accumulator: str) -> Real:
    """start + sum of x_k y_k, k ascending, one step at a time."""
    products, sums = ACCUMULATORS[accumulator]
    for a, b in zip(x, y, strict=True):
        term = product(a, b)
        start = rounded(total(start, rounded(term, products) if products else term), sums)
    return start


def matmul(
    a: np.ndarray, b: np.ndarray, accumulator: str, c: np.ndarray | None = None, output: str | None = None
) -> np.ndarray:
    """(m, k) x (k, n) of float32 patterns -> patterns, rounded once to ``output``."""
    rows = [read_all(row) for row in a]
    columns = [read_all(column) for column in b.T]
    output = output or ACCUMULATORS[accumulator][1]
    result = np.empty((len(rows), len(columns)), np.uint32)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            start = ZERO if c is None else read(c[i, j])
            result[i, j] = write(rounded(dot(row, column, start, accumulator), output))
    return result


# INT8, one scale a vector


def quantize_vector(x: Sequence[Real]) -> tuple[list[int], Real]:
    """Codes and scale.  A vector that is all below 2^-112 is zero; one that is not finite has scale NaN."""
    if any(v.is_nan or v.is_infinite for v in x):
        return [0] * len(x), NAN
    largest = max((v.magnitude for v in x), default=Fraction(0))
    if largest < power(-112):
        return [0] * len(x), ZERO
    absmax = Real(False, largest)
    inverse = ftz_divide(real(127), absmax)
    scale = ftz_multiply(absmax, rounded(real(Fraction(1, 127)), "fp32"))
    return [int(rounded(ftz_multiply(v, inverse), "int8").value) for v in x], scale


def quantize_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m, k) of patterns -> int8 (m, k), scale patterns (m, 1)."""
    rows = [quantize_vector(read_all(row)) for row in x]
    codes = np.array([codes for codes, _ in rows], np.int8).reshape(x.shape)
    return codes, write_all(scale for _, scale in rows).reshape(-1, 1)


def quantized_matmul(
    x: np.ndarray, w: np.ndarray, output: str = "fp16", bias: np.ndarray | None = None
) -> np.ndarray:
    """(m, k) x (k, n) of patterns: INT32 total, to float32, times both scales, plus bias, to the output format."""
    rows = [quantize_vector(read_all(row)) for row in x]
    columns = [quantize_vector(read_all(column)) for column in w.T]
    result = np.empty((len(rows), len(columns)), np.uint32)
    for i, (p, row_scale) in enumerate(rows):
        for j, (q, column_scale) in enumerate(columns):
            y = rounded(real(sum(a * b for a, b in zip(p, q, strict=True))), "fp32")
            y = ftz_multiply(ftz_multiply(y, row_scale), column_scale)
            if bias is not None:
                y = ftz_add(y, read(bias[j]))
            result[i, j] = write(rounded(y, output))
    return result
