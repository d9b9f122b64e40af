"""Reciprocal square root."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.elementary.primitives import (
    INFINITY_BITS,
    MAGNITUDE,
    NAN_BITS,
    ONE,
    SIGN,
    SMALLEST_NORMAL,
    WIDTH,
    ZERO_BITS,
    Primitives,
    Unary,
    float32s,
)

_EXPONENT_PARITY = np.uint32(0x00FFFFFF)  # last bit of the exponent, and the significand
_HALF_BITS = np.uint32(0x3F000000)
_UPPER_BYTES = np.uint32(0xFFFF0000)  # sign, exponent and the upper 8 of 24 significand bits
_ONE_PLACE = np.uint32(1)
_PARITY_WIDTH = np.uint32(24)
_CENTRE = np.uint32(63 << 23)
_GUESS = np.uint32(0x5F37A800)
_RSQRT = float32s("0x1.000000p-1 0x1.7fff46p-2 0x1.3fff30p-2 0x1.19b8a8p-2 0x1.fb70c2p-3")


def make_rsqrt(primitives: Primitives) -> Unary:
    """Reciprocal square root, x^(-1/2).

    Equation: x = 4^k m with m in [1/2, 2); with a guess g of 8 bits and r = 1 - m g^2, |r| <= 0.0731,
    m^(-1/2) = g (1 - r)^(-1/2) = g + g r P(r), P of degree 4 (minimax, 2^-29.4 of the result).
    Domain: every float32.
    Exactness: at most 0.635 ulp; monotone; exact for powers of 4.
    Special values (IEEE 754-2019, 9.2.1): zeros and subnormals -> infinity of their sign; +inf -> +0; NaN and
    everything else that is negative -> 0x7FC00000.
    Derivation: the guess halves and negates the exponent by a shift and a difference of patterns (Lomont 2003).
    m = upper + lower with 8 bits in upper: upper g g has 24 bits and is exact, so is its difference from 1, and what
    ``lower g g`` loses is below 2^-31.  No division, no square root, no Newton step whose rounding errors add up.
    """
    multiply, select, to_bits, from_bits, word = primitives

    def rsqrt(x: Any) -> Any:
        u = to_bits(x)
        #    0 eeeeeeep mmmmmmmmmmmmmmmmmmmmmmm
        # -> 0 0111111p mmmmmmmmmmmmmmmmmmmmmmm   m in [1/2, 2), and k = eeeeeee - 63
        pattern = word(word(u & _EXPONENT_PARITY) | _HALF_BITS)
        m = from_bits(pattern)
        upper = from_bits(word(pattern & _UPPER_BYTES))
        guess = from_bits(word(word(_GUESS - word(pattern >> _ONE_PLACE)) & _UPPER_BYTES))
        r = (ONE - multiply(multiply(upper, guess), guess)) - multiply(multiply(m - upper, guess), guess)
        p = multiply(r, _RSQRT[4]) + _RSQRT[3]
        p = multiply(r, p) + _RSQRT[2]
        p = multiply(r, p) + _RSQRT[1]
        p = multiply(r, p) + _RSQRT[0]
        y = guess + multiply(guess, multiply(r, p))
        # 2^-k: the exponent field of y, 126 or 127, less k
        bits = word(word(to_bits(y) + _CENTRE) - word(word(u >> _PARITY_WIDTH) << WIDTH))
        bits = select(u == INFINITY_BITS, ZERO_BITS, bits)
        bits = select(u > INFINITY_BITS, NAN_BITS, bits)  # NaN of either sign, everything with a sign bit
        magnitude = word(u & MAGNITUDE)
        infinity = word(word(u & SIGN) | INFINITY_BITS)
        return from_bits(select(magnitude < SMALLEST_NORMAL, infinity, bits))

    return rsqrt
