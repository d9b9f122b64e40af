"""What an executor supplies to the functions, and the constants that they share."""

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
SIGN = np.uint32(0x80000000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
SIGNIFICAND = np.uint32(0x007FFFFF)
SMALLEST_NORMAL = np.uint32(0x00800000)
ONE_BITS = np.uint32(0x3F800000)
INFINITY_BITS = np.uint32(0x7F800000)
NEGATIVE_INFINITY_BITS = np.uint32(0xFF800000)
NAN_BITS = np.uint32(0x7FC00000)
ZERO_BITS = np.uint32(0)
WIDTH = np.uint32(23)  # stored significand bits

ZERO, HALF, ONE, TWO = float32s("0x0p+0 0x1p-1 0x1p+0 0x1p+1")
LN2_HIGH, LN2_LOW = float32s("0x1.62e4p-1 0x1.7f7d1cp-20")  # their sum is ln 2; the upper part has 15 bits
