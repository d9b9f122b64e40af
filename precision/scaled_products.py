"""Matrix products of operands scaled by powers of two, one scale an operand, as FP8 is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from precision.format import Format
from precision.rounding_modes import BIAS, WIDTH, pattern_of

Array = Any
_POWER = 256  # ``times_power`` multiplies by 2^(power - 256)


def _itself(x: Array) -> Array:
    return x


def scaled_product(
    backend: Any,
    a: Array,
    b: Array,
    product: Callable[[Array, Array], Array],
    formats: tuple[Format, Format],
    of_all: Callable[[Array], Array] = _itself,
) -> Array:
    """product(round(a s_a), round(b s_b)) / (s_a s_b).

    Shapes: as ``product`` takes them.  of_all: the largest absmax of the parts of a tensor, where these are parts.
    Exactness: scaling and unscaling by powers of two are exact, so that the only roundings are those of the operands,
    to nearest even, and of the product.  A result that is no multiple of 2^-149 is rounded to odd: rounded again to
    a format of 16 bits it is what the exact one rounds to.
    """
    (qa, code_a), (qb, code_b) = (scaled(backend, x, fmt, of_all) for x, fmt in zip((a, b), formats, strict=True))
    y = product(qa, qb)
    xp = backend.array_module
    total = code_a.astype(xp.int32) + code_b.astype(xp.int32) - 2 * BIAS
    first = total >> 1  # in two steps of equal sign, neither of which leaves the range on its own
    for exponent in (first, total - first):
        y = _times(backend, y, exponent)
    return y


def scaled(backend: Any, x: Array, fmt: Format, of_all: Callable[[Array], Array] = _itself) -> tuple[Array, Array]:
    """(x s rounded to the format, code of 1 / s),  s = 2^floor(log2(max / absmax)) <= 2^127,  code uint8 (1, 1).

    With absmax = 1.f 2^e and max = 1.m 2^E, floor(log2(max / absmax)) = E - e - (1 where f > m): integers throughout.
    1 / s = 2^(code - 127).  A tensor of zeros stays so; one that holds NaN or an infinity has code 255, and its
    finite values times 2^-128 leave NaN and infinities, which no product hides.
    """
    largest = pattern_of(fmt.maximum)
    threshold, exponent = largest & ((1 << WIDTH) - 1), (largest >> WIDTH) - BIAS
    code = backend.shared_scales(of_all(backend.absmax(x.reshape(1, -1), 1)), threshold, exponent)
    up = BIAS - code.astype(backend.array_module.int32)
    return backend.round_to(_times(backend, x, up), fmt), code


def _times(backend: Any, x: Array, exponent: Array) -> Array:
    """x 2^exponent; exponent int32 (1, 1)."""
    power = (exponent + _POWER).astype(np.uint32)
    return backend.times_power(x.reshape(1, -1), power).reshape(x.shape)
