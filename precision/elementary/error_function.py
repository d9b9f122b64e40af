"""Error function."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.elementary.primitives import (
    INFINITY_BITS,
    MAGNITUDE,
    NAN_BITS,
    ONE_BITS,
    SIGN,
    SMALLEST_NORMAL,
    ZERO,
    ZERO_BITS,
    Primitives,
    Unary,
    float32s,
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
        magnitude = word(u & MAGNITUDE)
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
        t = select(a > _ERF_CENTRE_3, ZERO, t)
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
        bits = select(magnitude < SMALLEST_NORMAL, ZERO_BITS, bits)
        bits = select(magnitude >= _ERF_ONE_FROM, ONE_BITS, bits)
        bits = word(bits | word(u & SIGN))
        return from_bits(select(magnitude > INFINITY_BITS, NAN_BITS, bits))

    return erf
