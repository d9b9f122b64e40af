"""Float32 arithmetic that flushes subnormals, ``ftz32``: written once, for every executor.

Operands below 2^-126 in magnitude read as the zero of their sign; a result that is below 2^-126 after rounding
to 24 bits *with unbounded exponent* becomes the zero of its sign.  That is what SSE and AVX do with FTZ and DAZ
set, and what XLA does on a CPU; processors without those bits set need it spelled out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

SMALLEST_NORMAL = np.float32(2.0**-126)
_UP = np.float32(2.0**64)
_SCALED_SMALLEST = np.float32(2.0**-62)  # 2^-126 scaled by 2^64


class Ftz32(NamedTuple):
    """The float32 operations of one executor."""

    add: Callable[[Any, Any], Any]
    subtract: Callable[[Any, Any], Any]
    multiply: Callable[[Any, Any], Any]
    divide: Callable[[Any, Any], Any]


def make_ftz32(product: Callable, quotient: Callable, flush: Callable, zero_of: Callable, select: Callable) -> Ftz32:
    """The four operations, from an executor's primitives.

    product: float32 product rounded once, never contracted into a later addition.  quotient: rounded once.
    flush: subnormals to the zero of their sign.  zero_of: the zero of a number's sign.
    select: ``select(condition, x, y)``.
    """

    def add(x: Any, y: Any) -> Any:
        # a sum of float32 normals that lies below 2^-126 is exact: nothing to ask but its size
        return flush(flush(x) + flush(y))

    def subtract(x: Any, y: Any) -> Any:
        return flush(flush(x) - flush(y))

    def multiply(x: Any, y: Any) -> Any:
        x = flush(x)
        y = flush(y)
        rounded = product(x, y)
        # (1 - 2^-24) 2^-126 has 24 bits and lies below 2^-126, but the subnormal grid rounds it up to 2^-126:
        # so a result of that size is judged by the same product scaled out of the subnormal range
        unbounded = product(product(x, _UP), y)
        lost = (abs(rounded) <= SMALLEST_NORMAL) & (abs(unbounded) < _SCALED_SMALLEST)
        return select(lost, zero_of(rounded), rounded)

    def divide(x: Any, y: Any) -> Any:
        x = flush(x)
        y = flush(y)
        rounded = quotient(x, y)
        unbounded = quotient(product(x, _UP), y)
        lost = (abs(rounded) <= SMALLEST_NORMAL) & (abs(unbounded) < _SCALED_SMALLEST)
        return select(lost, zero_of(rounded), rounded)

    return Ftz32(add, subtract, multiply, divide)
