"""Arithmetic from its definition, in exact rational numbers; formats, numbers and searches pass through here.

Nothing here is shared with ``precision``: the sign rules are those of IEEE 754-2019, 6.3, and a result is rounded by
``format_oracle``.  Values are ``Real``s; arrays are uint32 float32 patterns on the way in and out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from format_oracle import FLOATS, INTEGERS, STANDARDS, code_of, codes, flushed, rounded, value_of_code
from format_search import every_value, nearest, positive_values
from reals import NAN, NAN_BITS, ONE, ZERO, Real, exponent_of, power, read, read_all, real, write, write_all

__all__ = [
    "ACCUMULATORS",
    "FLOATS",
    "INTEGERS",
    "NAN",
    "NAN_BITS",
    "ONE",
    "STANDARDS",
    "ZERO",
    "Real",
    "code_of",
    "codes",
    "dot",
    "every_value",
    "exponent_of",
    "flushed",
    "ftz_add",
    "ftz_divide",
    "ftz_multiply",
    "ftz_square_root",
    "ftz_subtract",
    "fused_multiply_add",
    "matmul",
    "nearest",
    "negated",
    "positive_values",
    "power",
    "product",
    "quantize_rows",
    "quantize_vector",
    "quantized_matmul",
    "quotient",
    "read",
    "read_all",
    "real",
    "rounded",
    "total",
    "value_of_code",
    "write",
    "write_all",
]

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
