"""The ``superaccumulator`` of every output in array operations, for NumPy and JAX.

``structure`` is the executor's; limbs are a uint32 array whose first axis is that of the limbs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from precision import superaccumulator as words
from precision.bits import equal, nonzero
from precision.soft_float import wide_product

Array = Any


def started(u: Array) -> Array:
    """The sums that begin as finite float32 patterns."""
    m, e = words.integer_of(u)
    return _spread(0 * m, m, e + words.START, u >> 31)


def of_products(a: Array, b: Array) -> Array:
    """The sums of a b over the first axis, at most 126 finite products."""
    ma, ea = words.integer_of(a)
    mb, eb = words.integer_of(b)
    top, bottom = wide_product(ma, mb)
    return _spread(top, bottom, ea + eb - 2, (a ^ b) >> 31).sum(axis=1, dtype=np.uint32)


def with_integer(structure: Any, limbs: Array, total: Array, position: Array) -> Array:
    """limbs + total 2^(position - 298), int32 and of one shape, carried: any number of them may follow."""
    word = total.astype(np.uint32)
    sign = word >> 31
    magnitude = (word ^ -sign) + sign
    spread = _spread(magnitude >> 24, magnitude & 0xFFFFFF, position.astype(np.uint32), sign)
    carry, digits = _carried(structure, limbs + spread)
    # the last limb keeps what is carried out of it: the sign
    last = (np.arange(words.LIMBS) == words.LIMBS - 1).reshape(-1, *[1] * carry.ndim)
    return digits + structure.array_module.where(last, carry << 24, np.uint32(0))


def is_zero(structure: Any, limbs: Array) -> Array:
    """1 where the sum is zero."""
    carry, digits = _carried(structure, limbs)
    return 1 - nonzero(digits.max(axis=0) | carry)


def withdrawn(structure: Any, limbs: Array) -> tuple[Array, Array, Array]:
    """(u, extra, zero): the sums as in ``soft_float``; 1 where one is zero."""
    carry, digits = _carried(structure, limbs)
    sign = carry >> 31

    def negate(borrow: Array, digit: Array) -> tuple[Array, Array]:
        digit, borrow = words.negated(digit, sign, borrow)
        return borrow, digit

    _, digits = structure.scan(negate, sign, digits)
    places = np.arange(words.LIMBS, dtype=np.uint32)

    def walk(state: Any, limb: dict[str, Array]) -> tuple[Any, None]:
        return words.leading(limb["digit"], limb["place"], *state), None

    limbs_and_places = {"digit": digits, "place": structure.array_module.asarray(places)}
    state, _ = structure.scan(walk, (0 * sign,) * 5, limbs_and_places, reverse=True)
    first, second, third, rest, place = state
    u, extra = words.rounded_off(first, second, third, rest, place, sign)
    return u, extra, 1 - nonzero(first)


def _carried(structure: Any, limbs: Array) -> tuple[Array, Array]:
    """(what is carried out, digits)."""

    def carry_on(carry: Array, limb: Array) -> tuple[Array, Array]:
        digit, carry = words.carried(limb, carry)
        return carry, digit

    return structure.scan(carry_on, 0 * limbs[0], limbs)


def _spread(top: Array, bottom: Array, position: Array, sign: Array) -> Array:
    """(-1)^sign (top 2^24 + bottom) 2^(position - 298) over the limbs, a new first axis."""
    i, r = words.limb_of(position + 0 * bottom)
    places = np.arange(words.LIMBS, dtype=np.uint32).reshape(-1, *[1] * i.ndim)
    parts = [words.signed(digit, sign) for digit in words.digits(top, bottom, r)]
    spread = [part & -equal(i + offset, places) for offset, part in enumerate(parts)]
    return spread[0] + spread[1] + spread[2]
