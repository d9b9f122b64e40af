"""Rounding to nearest even in a dozen operations, where a format's exponents allow it; written once for executors.

The bits are those of ``bits.round_nearest_even``, which any format, mode and executor takes.  Of the two short ways

* ``narrow`` lets the float unit round, for formats whose exponents lie well inside float32's: FP16, most of 8 bits;
* ``same_range`` adds integers, for formats with float32's own exponents: BF16, TF32.

Both know from the magnitude alone whether it overflows: rounding is monotone, so there is a first pattern that does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from precision.format import CANONICAL_NAN, Format
from precision.rounding_modes import INFINITY, Rounding, pattern_of

_MAGNITUDE, _SIGN = np.uint32(0x7FFFFFFF), np.uint32(0x80000000)
_EXPONENT = np.uint32(0x7F800000)
_ONE = np.uint32(1)
_LAST_COUNT = np.uint32(31)  # a shift count masked so stays in 32-bit lanes


class Thresholds(NamedTuple):
    """What both ways take after the pattern, each an ``np.uint32``."""

    first: Any  # narrow: pattern of the smallest normal value; same_range: dropped bits
    second: Any  # narrow: dropped bits, as an exponent
    overflow_from: Any  # first pattern that overflows
    overflow: Any  # what it becomes
    nan_from: Any  # first pattern that becomes a NaN
    nan: Any  # what a NaN becomes


class Plan(NamedTuple):
    """A short way for one format."""

    by_addition: bool  # narrow, else same_range
    thresholds: Thresholds
    above_zero: np.uint32  # first pattern that does not become zero
    above_subnormal: np.uint32  # first pattern that does not become subnormal
    saturates: np.uint32  # 1 where overflow is finite


@lru_cache(maxsize=1024)
def plan(rounding: Rounding, fmt: Format) -> Plan | None:
    """The short way to round to a format, or None: to nearest even, subnormals and both zeros kept.

    A magnitude overflows from half a quantum above the largest value, itself included where that value's last bit
    is odd; half the smallest value still becomes zero; half a quantum below the smallest normal value goes to it.
    """
    plain = rounding.mode == "nearest_even" and rounding.subnormals == "keep" and fmt.subnormals and fmt.signed_zero
    if not plain or fmt.significand_bits in (0, 23):
        return None
    f = {name: int(word) for name, word in rounding.words(fmt)._asdict().items()}
    drop, largest, lowest = f["drop"], f["largest"], f["smallest_normal_exponent"]
    by_addition = lowest != 1
    # the moved sum must not overflow, and nothing may depend on float32's subnormals, which some processes flush
    if by_addition and (fmt.max_exponent + drop > 127 or fmt.min_subnormal_exponent < -124):
        return None
    overflow, overflow_from = f["overflow_positive"], largest + (1 << (drop - 1)) + (1 - (largest >> drop & 1))
    nan_from = overflow_from if overflow == CANONICAL_NAN else INFINITY + 1
    first, second = (lowest << 23, drop << 23) if by_addition else (drop, 0)
    above = f["half_smallest"] + 1, pattern_of(fmt.min_normal - fmt.min_subnormal / 2), overflow < INFINITY
    thresholds = (first, second, overflow_from, overflow, nan_from, f["nan"])
    return Plan(by_addition, Thresholds(*map(np.uint32, thresholds)), *map(np.uint32, above))


def make_narrow(to_bits: Callable, from_bits: Callable, select: Callable, word: Callable) -> Callable:
    """The rounding of a pattern by the float unit, from an executor's primitives (as in ``elementary``).

    Adding C = 2^(e + drop), e the exponent of x or of the smallest normal value, moves the format's last bit to
    the last bit of a float32, where the addition rounds it; taking C away again is exact.
    """

    def narrow(u: Any, base: Any, shift: Any, overflow_from: Any, overflow: Any, nan_from: Any, nan: Any) -> Any:
        magnitude = word(u & _MAGNITUDE)
        exponent = word(magnitude & _EXPONENT)
        moved = from_bits(word(select(exponent > base, exponent, base) + shift))
        # bounded by integers, no compiler sees the product that x may be, to contract it into this addition
        bounded = from_bits(select(magnitude < overflow_from, magnitude, overflow_from))
        rounded = to_bits((bounded + moved) - moved)
        rounded = select(magnitude < overflow_from, rounded, overflow)
        return select(magnitude < nan_from, word(rounded | word(u & _SIGN)), nan)

    return narrow


def make_same_range(select: Callable, word: Callable) -> Callable:
    """The rounding of a pattern that loses the same bits whatever its exponent is, subnormals too."""

    def same_range(u: Any, drop: Any, _: Any, overflow_from: Any, overflow: Any, nan_from: Any, nan: Any) -> Any:
        magnitude = word(u & _MAGNITUDE)
        count = word(drop & _LAST_COUNT)
        mask = word(word(_ONE << count) - _ONE)
        half = word(word(mask >> _ONE) + word(word(magnitude >> count) & _ONE))
        rounded = word(word(magnitude + half) & word(~mask))
        rounded = select(magnitude < overflow_from, rounded, overflow)
        return select(magnitude < nan_from, word(rounded | word(u & _SIGN)), nan)

    return same_range
