"""Hyperbolic tangent."""

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
    ZERO_BITS,
    Primitives,
    Unary,
    float32s,
)

_TANH_ODD_BELOW = np.float32(89 / 128)  # above, e^(-2a) < 1/4
_TANH_ONE_FROM = np.float32(10.0)
_TANH_ODD = float32s(
    "-0x1.555556p-2 0x1.111138p-3 -0x1.ba205ep-5 0x1.665126p-6 -0x1.203d3ap-7 0x1.ac9034p-9 -0x1.a84cd0p-11"
)
_TANH_RECIPROCAL = float32s("0x1.ffffaep-1 -0x1.ffedf8p-1 0x1.fe81c6p-1 -0x1.f02e7cp-1 0x1.a4477ap-1 -0x1.b20426p-2")


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
        magnitude = word(u & MAGNITUDE)
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
        total = multiply(ONE - twice, ONE)
        lost = (ONE - total) - twice
        y = total + (multiply(multiply(twice, v), h) + lost)
        bits = to_bits(select(odd, near, y))
        bits = select(magnitude < SMALLEST_NORMAL, ZERO_BITS, bits)
        bits = word(bits | word(u & SIGN))
        return from_bits(select(magnitude > INFINITY_BITS, NAN_BITS, bits))

    return tanh
