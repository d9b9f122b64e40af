"""Exact dot products on INT8 units: an error-free splitting into 7-bit digits (Ozaki et al. 2012, 2024).

Every row of a, and every column of b, is a fixed-point number of as many 7-bit digits as its exponents spread over:

    a_ik = 2^-150 sum over d of A_d[i, k] 2^(p_i - 7 d),   |A_d| <= 127, with the sign of a

    p_i  ddddddd ddddddd ddddddd ...      p_i = 1 modulo 7, so that all digits lie on one grid that ends at 2^-149

The product is the sum over d and e of the INT8 products A_d B_e, exact in INT32 for k up to ``LARGEST_K``, each
added at its place to a ``superaccumulator``.  Nothing is truncated: the digits cover all bits of the row, and what it
costs is the number of digits of a times that of b: for fp16 of one binade 2 x 2 products, of ordinary data 4 x 4 to
5 x 5, over its whole range 6 x 6; for bf16 and float32 of any exponent up to 39 x 39.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from precision import accumulation as step
from precision import superaccumulator
from precision.bits import equal, less, nonzero, select

Array = Any
LARGEST_K = 133_144  # 127^2 k < 2^31
DIGIT = 7
_FAR = 4096  # a position above all


def exact_product(module: Any, a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """(u, extra), as in ``soft_float``, of the exact c + a b.  Patterns uint32 (B, m, k), (B, k, n), (B, m, n).

    k = 0 to LARGEST_K.  An exact zero is -0 where c and all products are.  NaN is 0x7FC00000.
    """
    xp = module.array_module
    finite_a, finite_b = (xp.where(step.is_finite(x) != 0, x, np.uint32(0)) for x in (a, b))
    state = module.exact_start(xp.where(step.is_finite(c) != 0, c, np.uint32(0)))
    if a.shape[2]:
        state = _add_digits(module, state, finite_a, finite_b)
    u, extra, zero = module.exact_result(state)
    u = module.branch(
        (c == np.uint32(1 << 31)).any(), lambda u: u | _minus_zeros(module, a, b, c, zero), lambda u: u, u
    )
    ordinary = (step.is_finite(a) != 0).all() & (step.is_finite(b) != 0).all() & (step.is_finite(c) != 0).all()
    return module.branch(ordinary, lambda *r: r, lambda *r: _with_specials(module, a, b, c, *r), u, extra)


def digits_needed(module: Any, a: Array, axis: int) -> Array:
    """How many 7-bit digits hold every value of each vector along an axis; patterns uint32, finite."""
    top, bottom = _span(module, a, axis)
    return (top - bottom + (DIGIT - 1)) // DIGIT


def _span(module: Any, u: Array, axis: int) -> tuple[Array, Array]:
    """(top, bottom) of each vector: int32, 1 modulo 7, bottom <= place of every bit < top; equal where all is 0."""
    m, e = superaccumulator.integer_of(u)
    there = nonzero(m)
    low = m & -m
    first, last = e + _floor_log2(m), e + _floor_log2(low)
    xp = module.array_module
    top = xp.where(there != 0, first, np.uint32(0)).astype(np.int32).max(axis=axis, keepdims=True) + 1
    bottom = xp.where(there != 0, last, np.uint32(_FAR)).astype(np.int32).min(axis=axis, keepdims=True)
    top = (top + (DIGIT - 2)) // DIGIT * DIGIT + 1
    bottom = (bottom - 1) // DIGIT * DIGIT + 1
    return top, xp.minimum(bottom, top)


def _floor_log2(m: Array) -> Array:
    """Position of the leading bit of a word below 2^24; 0 for 0."""
    place = 0 * m
    for width in (16, 8, 4, 2, 1):
        large = less((1 << width) - 1 + 0 * m, m)
        m = m >> (large * width)
        place = place + large * width
    return place


def _digit(module: Any, u: Array, position: Array) -> Array:
    """Bits position ... position + 6 of each value, with its sign, as int8."""
    m, e = superaccumulator.integer_of(u)
    xp = module.array_module
    shift = position - e.astype(np.int32)
    down = xp.clip(shift, 0, 24).astype(np.uint32)
    up = xp.clip(-shift, 0, DIGIT).astype(np.uint32)
    magnitude = ((m >> down) << up) & 0x7F
    return step.select(u >> 31, -magnitude, magnitude).astype(np.int32).astype(np.int8)


def _add_digits(module: Any, state: Any, a: Array, b: Array) -> Any:
    (top_a, bottom_a), (top_b, bottom_b) = _span(module, a, 2), _span(module, b, 1)
    count_a, count_b = (((top - bottom) // DIGIT).max() for top, bottom in ((top_a, bottom_a), (top_b, bottom_b)))

    right = _each_once(lambda e: _digit(module, b, top_b - DIGIT * (e + 1)))
    # digits below the grid, whose lowest place is 1, are all zero, wherever they are put
    at_least_one = module.array_module.maximum

    def row(d: Any, state: Any) -> Any:
        place = top_a - DIGIT * (d + 1)
        left = _digit(module, a, place)

        def add(e: Any, state: Any) -> Any:
            total = module.integer_matmul(left, right(e))
            return module.exact_add(state, total, at_least_one(place, 1), at_least_one(top_b - DIGIT * (e + 1), 1))

        return module.repeat(count_b, add, state)

    return module.repeat(count_a, row, state)


def _each_once(function: Callable[[Any], Array]) -> Callable[[Any], Array]:
    """The function, what it returned for an integer kept; a tracer that counts a loop is none."""
    kept: dict[int, Array] = {}

    def of(i: Any) -> Array:
        if not isinstance(i, int):
            return function(i)
        if i not in kept:
            kept[i] = function(i)
        return kept[i]

    return of


def _minus_zeros(module: Any, a: Array, b: Array, c: Array, zero: Array) -> Array:
    """The sign bit where the sum is zero and c and every product are -0."""
    there = module.integer_matmul(_ones(step.nonzero(a << 1)), _ones(step.nonzero(b << 1)))
    signs = module.integer_matmul(_ones(1 - 2 * (a >> 31)), _ones(1 - 2 * (b >> 31)))
    all_minus = (there == 0) & (signs == -a.shape[2])
    return (zero & all_minus.astype(np.uint32) & equal(c, np.uint32(1 << 31))) << 31


def _ones(word: Array) -> Array:
    return word.astype(np.int32).astype(np.int8)


def _with_specials(module: Any, a: Array, b: Array, c: Array, u: Array, extra: Array) -> tuple[Array, Array]:
    """Infinities and NaN, from products of indicators."""
    (nan_a, inf_a, zero_a, sign_a), (nan_b, inf_b, zero_b, sign_b) = _classes(a), _classes(b)
    times = module.integer_matmul
    some_b = _ones((1 - nan_b) & (1 - zero_b))
    bare_a = _ones((1 - nan_a) & (1 - zero_a) & (1 - inf_a))  # finite, not zero
    infinite = times(_ones(inf_a), some_b) + times(bare_a, _ones(inf_b))
    balance = times(_ones(inf_a) * sign_a, some_b * sign_b) + times(bare_a * sign_a, _ones(inf_b) * sign_b)
    invalid = times(_ones(inf_a), _ones(zero_b)) + times(_ones(zero_a), _ones(inf_b))
    nan = (nan_a.max(axis=2, keepdims=True, initial=0) | nan_b.max(axis=1, keepdims=True, initial=0)) | (invalid != 0)
    kinds = nan.astype(np.uint32) | step.start_kind(c)
    kinds = (
        kinds | ((infinite + balance != 0).astype(np.uint32) << 1) | ((infinite != balance).astype(np.uint32) << 2)
    )
    plain = step.equal(kinds, 0 * kinds)
    negative = (kinds >> 2) & 1
    special = select((kinds & 1) | ((kinds >> 1) & negative), 0x7FC00000 + 0 * u, 0x7F800000 | (negative << 31))
    return select(plain, u, special), extra & -plain


def _classes(u: Array) -> tuple[Array, Array, Array, Array]:
    """NaN, infinite, zero as words 0 or 1; the sign as int8 1 or -1."""
    return step.is_nan(u), step.is_infinite(u), 1 - nonzero(u << 1), _ones(1 - 2 * (u >> 31))
