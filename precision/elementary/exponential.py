"""Exponential and natural logarithm."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.elementary.primitives import (
    HALF,
    INFINITY_BITS,
    LN2_HIGH,
    LN2_LOW,
    MAGNITUDE,
    NAN_BITS,
    NEGATIVE_INFINITY_BITS,
    ONE,
    ONE_BITS,
    SIGNIFICAND,
    SMALLEST_NORMAL,
    WIDTH,
    ZERO_BITS,
    Primitives,
    Unary,
    float32s,
)

_LOG2_E = np.float32(float.fromhex("0x1.715476p+0"))
_ROUNDER = np.float32(3 << 22)  # floats near 1.5 * 2^23 are the integers
_EXP_LOWEST, _EXP_HIGHEST = float32s("-0x1.5d589ep+6 0x1.62e42ep+6")  # of the arguments with a finite, normal result
_EXP = float32s("0x1.000000p-1 0x1.555554p-3 0x1.5554e8p-5 0x1.111310p-7 0x1.6d4cd8p-10 0x1.9df7fap-13")
_HIGH_HALF = np.uint32(0xFFFFF000)  # sign, exponent and the upper 12 of 24 significand bits
_SQRT_HALF_BITS = np.uint32(0x3F3504F3)
_EXPONENT_OF_ONE = np.float32((1 << 23) + 127)
_INTEGER_BITS = np.uint32(0x4B000000)  # 2^23, whose significand is an integer: 2^23 + n for n < 2^23
_LOG = float32s(
    "0x1.555548p-2 -0x1.000006p-2 0x1.99a476p-3 -0x1.555c44p-3 0x1.233ba2p-3"
    " -0x1.fc28cap-4 0x1.e6c00ep-4 -0x1.de01ecp-4 0x1.14734cp-4"
)


def make_exp(primitives: Primitives) -> Unary:
    """e^x.

    Equation: with k the integer nearest x / ln 2 and r = x - k ln 2, |r| <= 0.347,
    e^x = 2^k (1 + r + r^2 P(r)), P of degree 5 (minimax, 2^-33.2 of the result).
    Domain: every float32.
    Exactness: at most 0.681 ulp; monotone.
    Special values: NaN -> 0x7FC00000; above 0x1.62e42ep+6 -> +inf; below -0x1.5d589ep+6, where e^x < 2^-126,
    -> +0; zeros and subnormals -> 1.
    Derivation: Cody and Waite's reduction; ln 2 is split so that k times its upper 15 bits is exact, and so
    is the difference from x.  What 1 + r loses is recovered exactly (fast two-sum) and joins the tail.
    """
    multiply, select, to_bits, from_bits, word = primitives

    def exp(x: Any) -> Any:
        # a NaN passes both selects
        inside = select(x > _EXP_HIGHEST, _EXP_HIGHEST, x)
        inside = select(inside < _EXP_LOWEST, _EXP_LOWEST, inside)
        shifted = multiply(multiply(inside, _LOG2_E) + _ROUNDER, ONE)
        k = shifted - _ROUNDER
        high = inside - multiply(k, LN2_HIGH)
        low = multiply(k, LN2_LOW)
        r = high - low
        p = multiply(r, _EXP[5]) + _EXP[4]
        p = multiply(r, p) + _EXP[3]
        p = multiply(r, p) + _EXP[2]
        p = multiply(r, p) + _EXP[1]
        p = multiply(r, p) + _EXP[0]
        tail = multiply(multiply(r, r), p)
        total = multiply(ONE + high, ONE)
        lost = high - (total - ONE)
        y = total + ((tail - low) + lost)
        # shifted is  0 10010110 1 kkk...k  with k in two's complement, so its low 9 bits are those of k:
        #    y        0 eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm
        #  + k << 23  k kkkkkkkk 00000000000000000000000   modulo 2^32: the exponent e + k, in 1 .. 254
        bits = word(to_bits(y) + word(to_bits(shifted) << WIDTH))
        bits = select(x > _EXP_HIGHEST, INFINITY_BITS, bits)
        bits = select(x < _EXP_LOWEST, ZERO_BITS, bits)
        magnitude = word(to_bits(x) & MAGNITUDE)
        return from_bits(select(magnitude > INFINITY_BITS, NAN_BITS, bits))

    return exp


def make_log(primitives: Primitives) -> Unary:
    """Natural logarithm.

    Equation: x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)),
    log x = e ln 2 + f - f^2 / 2 + f^3 P(f), P of degree 8 (minimax, 2^-30.3 of the result at e = 0).
    Domain: every float32.
    Exactness: at most 0.637 ulp; monotone.
    Special values: NaN and negative -> 0x7FC00000; zeros and subnormals of either sign -> -inf; +inf ->
    +inf; log 1 = +0.
    Derivation: e times the upper 15 bits of ln 2 is exact, and so is the square of the upper 12 bits of f;
    what their sums with f lose is recovered exactly (fast two-sum) and joins the tail.
    """
    multiply, select, to_bits, from_bits, word = primitives

    def log(x: Any) -> Any:
        u = to_bits(x)
        magnitude = word(u & MAGNITUDE)
        #     0 eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm
        #   + 0 00000000 10010101111101100001101   pattern of 1 less that of sqrt(1/2)
        # carries into the exponent just where the significand 1.mmm is at least sqrt(2)
        sum_bits = word(magnitude + word(ONE_BITS - _SQRT_HALF_BITS))
        exponent = word(sum_bits >> WIDTH)  # e + 127
        f = from_bits(word(word(sum_bits & SIGNIFICAND) + _SQRT_HALF_BITS)) - ONE
        e = from_bits(word(_INTEGER_BITS | exponent)) - _EXPONENT_OF_ONE
        p = multiply(f, _LOG[8]) + _LOG[7]
        p = multiply(f, p) + _LOG[6]
        p = multiply(f, p) + _LOG[5]
        p = multiply(f, p) + _LOG[4]
        p = multiply(f, p) + _LOG[3]
        p = multiply(f, p) + _LOG[2]
        p = multiply(f, p) + _LOG[1]
        p = multiply(f, p) + _LOG[0]
        tail = multiply(multiply(multiply(f, f), f), p)
        # f^2 / 2 = upper^2 / 2, exact, + (f - upper) (f + upper) / 2
        upper = from_bits(word(to_bits(f) & _HIGH_HALF))
        square = multiply(HALF, multiply(upper, upper))
        tail = tail - multiply(multiply(HALF, f - upper), f + upper)
        near = f - square
        tail = tail + ((f - near) - square)
        far = multiply(e, LN2_HIGH)
        total = far + near
        tail = tail + multiply(e, LN2_LOW)
        bits = to_bits(total + (((far - total) + near) + tail))
        bits = select(magnitude == INFINITY_BITS, INFINITY_BITS, bits)
        bits = select(u > INFINITY_BITS, NAN_BITS, bits)  # NaN of either sign, everything with a sign bit
        return from_bits(select(magnitude < SMALLEST_NORMAL, NEGATIVE_INFINITY_BITS, bits))

    return log
