"""Columns of significands: which of the few intervals a format's thresholds cut [1, 2) into, from the bits alone.

With f the 23 bits of a float32 below the leading one, L how many ones f begins with and r the bits behind the zero
that follows them,

    column = 0                                       where f = 0: a power of two
             1 + 2 L + (r above half of its range)   where L < 11
             23                                      where L >= 11

A floating-point format of m = 1 ... 10 significand bits overflows, to nearest even, from 2 - 2^-(m + 1), or, where
its last code of all ones is no value, above 2 - 3 2^-(m + 1), a tie that stays; its results are subnormal below
2 - 2^-m.  Each of these is where a column begins, whatever power of two scales the values: f stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

MOST_ONES = 11  # as the significand of FP16's threshold of overflow begins
COLUMNS = 2 * MOST_ONES + 2
HIDDEN = 23  # bits of a float32 significand below the leading one

_FRACTION, _HALF, _BEHIND = np.uint32(0x7FFFFF), np.uint32(0x200000), np.uint32(0x3FFFFF)
_ZERO, _ONE, _LAST_COUNT = np.uint32(0), np.uint32(1), np.uint32(31)
_TOP, _MOST, _LAST = np.uint32(127 + HIDDEN - 1), np.uint32(MOST_ONES), np.uint32(COLUMNS - 1)


def make_column(to_bits: Callable, to_float: Callable, select: Callable, least: Callable, word: Callable) -> Callable:
    """column(f) of 23-bit words, from an executor's primitives: patterns of float32, integers below 2^23 as float32,
    selection, the lesser of two words, the cast to a word."""

    def column(fraction: Any) -> Any:
        # the exponent of the other bits as a number, exact in float32, says where the first zero stands
        exponent = word(to_bits(to_float(word(fraction ^ _FRACTION))) >> np.uint32(HIDDEN))
        ones = least(word(_TOP - exponent), _MOST)
        behind = word(word(fraction << word(ones & _LAST_COUNT)) & _BEHIND)
        index = word(word(word(ones << _ONE) + _ONE) + word(behind > _HALF))
        return select(fraction > _ZERO, least(index, _LAST), _ZERO)

    return column


def _starts() -> tuple[int, ...]:
    """The first f of each column: above a half is from the next f on."""
    starts = [0]
    for ones in range(MOST_ONES):
        base = (1 << HIDDEN) - (1 << HIDDEN - ones)
        starts += [max(base, 1), base + (1 << HIDDEN - 2 - ones) + 1]
    return (*starts, (1 << HIDDEN) - (1 << HIDDEN - MOST_ONES))


STARTS = _starts()
