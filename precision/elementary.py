"""Float32 exp, log, erf and tanh with the same bits on every executor, written once.

A factory takes the ``Primitives`` of an executor and returns a plain function of one float32 argument, a
scalar, array or tracer.  Besides the primitives it uses ``+``, ``-`` and comparisons of floats, and operators
on uint32 words: no libm, no division, no fused multiply-add, no conversion between floats and integers.

Four rules make the bits equal where a compiler contracts a b + c and flushes subnormals:

* every product goes through ``multiply``, which rounds it before anything is added;
* a sum with a constant that meets a second constant goes through ``multiply(..., 1)``:
  XLA reads (x + c) - c as x;
* no float below 2^-126 matters: it would be added to something at least 2^24 times as large;
* zeros, infinities, NaNs and the edges of the range are decided on integer patterns or by comparing floats
  of ordinary size.

Semantics are ``ftz32``: an argument below 2^-126 in magnitude reads as the zero of its sign, a result that is
below 2^-126 after rounding with unbounded exponent becomes zero.  Every NaN gives 0x7FC00000.

Largest error over all 2^32 arguments, in units in the last place of the correctly rounded result:

    exp 0.681    log 0.637    erf 0.872    tanh 0.823

and all four are monotone.  ``tests/scripts/fit_elementary.py`` derives the coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Unary = Callable[[Any], Any]


class Primitives(NamedTuple):
    """What an executor supplies.  Constants reach these functions as ``np.float32`` and ``np.uint32``."""

    # float32 product, rounded once; no compiler may see through it: neither to contract it into an addition,
    # nor, where a factor is 1, to join the additions before and behind it
    multiply: Callable[[Any, Any], Any]
    select: Callable[[Any, Any, Any], Any]  # select(condition, x, y): x where true, else y; float32 or uint32
    to_bits: Callable[[Any], Any]  # float32 -> its uint32 pattern, not flushed
    from_bits: Callable[[Any], Any]  # uint32 pattern -> float32
    word: Callable[[Any], Any]  # result of integer operators -> uint32, modulo 2^32


def float32s(text: str) -> tuple[np.float32, ...]:
    """Float32 constants from C99 hexadecimal, each of which must be exact."""
    exact = [float.fromhex(item) for item in text.split()]
    rounded = tuple(np.float32(value) for value in exact)
    for item, value, float32 in zip(text.split(), exact, rounded, strict=True):
        if value != float(float32):
            raise ValueError(f"{item} is not a float32; the nearest is {float(float32).hex()}")
    return rounded


# s eeeeeeee mmm...
_SIGN = np.uint32(0x80000000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_SIGNIFICAND = np.uint32(0x007FFFFF)
_HIGH_HALF = np.uint32(0xFFFFF000)  # sign, exponent and the upper 12 of 24 significand bits
_SMALLEST_NORMAL = np.uint32(0x00800000)
_ONE_BITS = np.uint32(0x3F800000)
_INFINITY_BITS = np.uint32(0x7F800000)
_NEGATIVE_INFINITY_BITS = np.uint32(0xFF800000)
_NAN_BITS = np.uint32(0x7FC00000)
_ZERO_BITS = np.uint32(0)
_WIDTH = np.uint32(23)  # stored significand bits

_ZERO, _HALF, _ONE, _TWO = float32s("0x0p+0 0x1p-1 0x1p+0 0x1p+1")

_LOG2_E, _LN2_HIGH, _LN2_LOW = float32s("0x1.715476p+0 0x1.62e4p-1 0x1.7f7d1cp-20")
_ROUNDER = np.float32(3 << 22)  # floats near 1.5 * 2^23 are the integers
_EXP_LOWEST, _EXP_HIGHEST = float32s("-0x1.5d589ep+6 0x1.62e42ep+6")  # of the arguments with a finite, normal result
_EXP = float32s("0x1.000000p-1 0x1.555554p-3 0x1.5554e8p-5 0x1.111310p-7 0x1.6d4cd8p-10 0x1.9df7fap-13")

_SQRT_HALF_BITS = np.uint32(0x3F3504F3)
_EXPONENT_OF_ONE = np.float32((1 << 23) + 127)
_INTEGER_BITS = np.uint32(0x4B000000)  # 2^23, whose significand is an integer: 2^23 + n for n < 2^23
_LOG = float32s(
    "0x1.555548p-2 -0x1.000006p-2 0x1.99a476p-3 -0x1.555c44p-3 0x1.233ba2p-3"
    " -0x1.fc28cap-4 0x1.e6c00ep-4 -0x1.de01ecp-4 0x1.14734cp-4"
)

_ERF_SMALL, _ERF_UP, _ERF_DOWN = float32s("0x1p-60 0x1p+64 0x1p-64")
_ERF_ODD = float32s(
    "0x1.06eba8p-3 -0x1.81273ep-2 0x1.ce2bdap-4 -0x1.b7b5d4p-6 0x1.4e527ep-8"
    " -0x1.318292p-11 -0x1.78d120p-13 0x1.e955fap-14 0x0p+0"
)
# where the odd polynomial and two of three intervals end; the centre c of each; erf(c); the slopes around it
_ERF_END_0, _ERF_END_1, _ERF_END_2 = float32s("0x1.ap-1 0x1.cp+0 0x1.6p+1")
_ERF_CENTRE_1, _ERF_CENTRE_2, _ERF_CENTRE_3 = float32s("0x1.4d57d4p+0 0x1.6003dap+1 0x1.ea8f96p+1")
_ERF_AT_1, _ERF_AT_2, _ERF_AT_3 = float32s("0x1.de7006p-1 0x1.fff2d2p-1 0x1.fffffep-1")
_ERF_1 = float32s(
    "0x1.a81006p-3 0x1.141730p-2 0x1.51fc08p-3 0x1.1fd682p-6 -0x1.4ab19ep-5"
    " -0x1.6ae122p-6 0x1.7aad52p-10 0x1.4096bap-8 0x1.df8710p-11"
)
_ERF_2 = float32s(
    "0x1.332ec6p-11 0x1.a6584cp-10 0x1.69cafcp-9 0x1.aa73dap-9 0x1.66ee98p-9"
    " 0x1.cf3f70p-10 0x1.7d7f7cp-12 0x1.e61280p-12 -0x1.51e6bap-12"
)
_ERF_3 = float32s(
    "0x1.05d6f0p-21 0x1.a238e0p-20 0x1.6e6086p-18 0x1.0baa24p-17 0x1.64049cp-19"
    " 0x1.eb4af2p-16 0x0p+0 0x0p+0 0x1.e11bf8p-17"
)
_ERF_ONE_FROM = np.uint32(0x407AD445)  # 0x1.f5a88ap+1, the first float32 whose erf rounds to 1

_TANH_ODD_BELOW = np.float32(89 / 128)  # above, e^(-2a) < 1/4
_TANH_ONE_FROM = np.float32(10.0)
_TANH_ODD = float32s(
    "-0x1.555556p-2 0x1.111138p-3 -0x1.ba205ep-5 0x1.665126p-6 -0x1.203d3ap-7 0x1.ac9034p-9 -0x1.a84cd0p-11"
)
_TANH_RECIPROCAL = float32s("0x1.ffffaep-1 -0x1.ffedf8p-1 0x1.fe81c6p-1 -0x1.f02e7cp-1 0x1.a4477ap-1 -0x1.b20426p-2")


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
        shifted = multiply(multiply(inside, _LOG2_E) + _ROUNDER, _ONE)
        k = shifted - _ROUNDER
        high = inside - multiply(k, _LN2_HIGH)
        low = multiply(k, _LN2_LOW)
        r = high - low
        p = multiply(r, _EXP[5]) + _EXP[4]
        p = multiply(r, p) + _EXP[3]
        p = multiply(r, p) + _EXP[2]
        p = multiply(r, p) + _EXP[1]
        p = multiply(r, p) + _EXP[0]
        tail = multiply(multiply(r, r), p)
        total = multiply(_ONE + high, _ONE)
        lost = high - (total - _ONE)
        y = total + ((tail - low) + lost)
        # shifted is  0 10010110 1 kkk...k  with k in two's complement, so its low 9 bits are those of k:
        #    y        0 eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm
        #  + k << 23  k kkkkkkkk 00000000000000000000000   modulo 2^32: the exponent e + k, in 1 .. 254
        bits = word(to_bits(y) + word(to_bits(shifted) << _WIDTH))
        bits = select(x > _EXP_HIGHEST, _INFINITY_BITS, bits)
        bits = select(x < _EXP_LOWEST, _ZERO_BITS, bits)
        magnitude = word(to_bits(x) & _MAGNITUDE)
        return from_bits(select(magnitude > _INFINITY_BITS, _NAN_BITS, bits))

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
        magnitude = word(u & _MAGNITUDE)
        #     0 eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm
        #   + 0 00000000 10010101111101100001101   pattern of 1 less that of sqrt(1/2)
        # carries into the exponent just where the significand 1.mmm is at least sqrt(2)
        sum_bits = word(magnitude + word(_ONE_BITS - _SQRT_HALF_BITS))
        exponent = word(sum_bits >> _WIDTH)  # e + 127
        f = from_bits(word(word(sum_bits & _SIGNIFICAND) + _SQRT_HALF_BITS)) - _ONE
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
        square = multiply(_HALF, multiply(upper, upper))
        tail = tail - multiply(multiply(_HALF, f - upper), f + upper)
        near = f - square
        tail = tail + ((f - near) - square)
        far = multiply(e, _LN2_HIGH)
        total = far + near
        tail = tail + multiply(e, _LN2_LOW)
        bits = to_bits(total + (((far - total) + near) + tail))
        bits = select(magnitude == _INFINITY_BITS, _INFINITY_BITS, bits)
        bits = select(u > _INFINITY_BITS, _NAN_BITS, bits)  # NaN of either sign, everything with a sign bit
        return from_bits(select(magnitude < _SMALLEST_NORMAL, _NEGATIVE_INFINITY_BITS, bits))

    return log


def make_erf(primitives: Primitives) -> Unary:
    """Error function, 2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x.

    Equation: with a = |x|, erf a = a + a Q(a^2) below 13/16, Q of degree 7; on the intervals from there to
    7/4, 11/4 and beyond, erf a = erf c - t P(t) with t = c - a, P of degree 8 (minimax, 2^-30.1 or less).
    Domain: every float32.
    Exactness: at most 0.872 ulp; odd; monotone.
    Special values: NaN -> 0x7FC00000; from 0x1.f5a88ap+1 -> 1; zeros and subnormals -> zero of their sign.
    Derivation: each c is a float32 whose erf lies within 2^-38 of a float32 (the last: erf c = 1 - 2^-24), so
    that erf c needs no low part.  In the last interval, where thousands of arguments share a result, c is the
    right end and no coefficient is negative: Horner's scheme in t >= 0 is then monotone, roundings included.
    """
    multiply, select, to_bits, from_bits, word = primitives

    def erf(x: Any) -> Any:
        u = to_bits(x)
        magnitude = word(u & _MAGNITUDE)
        a = from_bits(magnitude)
        odd = a < _ERF_END_0
        first = a < _ERF_END_1
        second = a < _ERF_END_2

        def pick(below_one: Any, one: Any, two: Any, three: Any) -> Any:
            return select(odd, below_one, select(first, one, select(second, two, three)))

        # a Q(a^2) falls below 2^-126 for the smallest a: those are scaled by 2^64, exactly
        small = a < _ERF_SMALL
        factor = select(small, multiply(a, _ERF_UP), a)
        t = select(first, _ERF_CENTRE_1, select(second, _ERF_CENTRE_2, _ERF_CENTRE_3)) - a
        t = select(a > _ERF_CENTRE_3, _ZERO, t)
        z = select(odd, multiply(a, a), t)
        p = pick(_ERF_ODD[8], _ERF_1[8], _ERF_2[8], _ERF_3[8])
        p = multiply(z, p) + pick(_ERF_ODD[7], _ERF_1[7], _ERF_2[7], _ERF_3[7])
        p = multiply(z, p) + pick(_ERF_ODD[6], _ERF_1[6], _ERF_2[6], _ERF_3[6])
        p = multiply(z, p) + pick(_ERF_ODD[5], _ERF_1[5], _ERF_2[5], _ERF_3[5])
        p = multiply(z, p) + pick(_ERF_ODD[4], _ERF_1[4], _ERF_2[4], _ERF_3[4])
        p = multiply(z, p) + pick(_ERF_ODD[3], _ERF_1[3], _ERF_2[3], _ERF_3[3])
        p = multiply(z, p) + pick(_ERF_ODD[2], _ERF_1[2], _ERF_2[2], _ERF_3[2])
        p = multiply(z, p) + pick(_ERF_ODD[1], _ERF_1[1], _ERF_2[1], _ERF_3[1])
        p = multiply(z, p) + pick(_ERF_ODD[0], _ERF_1[0], _ERF_2[0], _ERF_3[0])
        start = pick(factor, _ERF_AT_1, _ERF_AT_2, _ERF_AT_3)
        y = start + multiply(select(odd, factor, -t), p)
        bits = to_bits(select(small, multiply(y, _ERF_DOWN), y))
        bits = select(magnitude < _SMALLEST_NORMAL, _ZERO_BITS, bits)
        bits = select(magnitude >= _ERF_ONE_FROM, _ONE_BITS, bits)
        bits = word(bits | word(u & _SIGN))
        return from_bits(select(magnitude > _INFINITY_BITS, _NAN_BITS, bits))

    return erf


def make_tanh(primitives: Primitives, exp: Unary) -> Unary:
    """Hyperbolic tangent; ``exp`` is the executor's own, as ``make_exp`` built it.

    Equation: with a = |x|, tanh a = a + a a^2 Q(a^2) below 89/128, Q of degree 6 (minimax, 2^-33.2);
    above, with v = e^(-2a), tanh a = (1 - v) / (1 + v) = 1 - 2 v + 2 v^2 H(v), where H(v), of degree 5, is
    1 / (1 + v) (minimax, 2^-30.7).
    Domain: every float32.
    Exactness: at most 0.823 ulp; odd; monotone.
    Special values: NaN -> 0x7FC00000; infinities -> 1, zeros and subnormals -> 0, of their sign.
    Derivation: what 1 - 2 v loses is recovered exactly (fast two-sum) and joins the tail.
    """
    multiply, select, to_bits, from_bits, word = primitives

    def tanh(x: Any) -> Any:
        u = to_bits(x)
        magnitude = word(u & _MAGNITUDE)
        a = from_bits(magnitude)
        odd = a < _TANH_ODD_BELOW
        z = multiply(a, a)
        q = multiply(z, _TANH_ODD[6]) + _TANH_ODD[5]
        q = multiply(z, q) + _TANH_ODD[4]
        q = multiply(z, q) + _TANH_ODD[3]
        q = multiply(z, q) + _TANH_ODD[2]
        q = multiply(z, q) + _TANH_ODD[1]
        q = multiply(z, q) + _TANH_ODD[0]
        near = a + multiply(a, multiply(z, q))
        far = select(a > _TANH_ONE_FROM, _TANH_ONE_FROM, a)
        v = exp(-(far + far))
        h = multiply(v, _TANH_RECIPROCAL[5]) + _TANH_RECIPROCAL[4]
        h = multiply(v, h) + _TANH_RECIPROCAL[3]
        h = multiply(v, h) + _TANH_RECIPROCAL[2]
        h = multiply(v, h) + _TANH_RECIPROCAL[1]
        h = multiply(v, h) + _TANH_RECIPROCAL[0]
        twice = v + v
        total = multiply(_ONE - twice, _ONE)
        lost = (_ONE - total) - twice
        y = total + (multiply(multiply(twice, v), h) + lost)
        bits = to_bits(select(odd, near, y))
        bits = select(magnitude < _SMALLEST_NORMAL, _ZERO_BITS, bits)
        bits = word(bits | word(u & _SIGN))
        return from_bits(select(magnitude > _INFINITY_BITS, _NAN_BITS, bits))

    return tanh
