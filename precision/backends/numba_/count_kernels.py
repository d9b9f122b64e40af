"""The loop that counts what rounding to nearest even did, of values that are rounded already.

Each event is a comparison of patterns, and rounding is monotone: what came to lie beyond the largest value is known
from the input alone.  Every part of the array, one a thread, counts for itself.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.foreign import Foreign, array
from precision.backends.numba_.inner_functions import inner
from precision.backends.numba_.tally_kernels import (
    KEYS,
    TABLES,
    add_subnormals,
    add_tables,
    count_keys,
    find_keys,
)
from precision.format import Format
from precision.significands import COLUMNS
from precision.statistics import BLOCK, COUNTERS, EXPONENT_BINS, event_thresholds

_NONE = np.uint32(0)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)
_NORMAL = np.uint32(0x00800000)


@inner
def _count_block(u, rounded, beyond, beyond_below_zero, smallest_normal, counts):
    """Order of ``counts``: statistics.COUNTERS.  -> whether there are subnormals of float32"""
    zero, nan, infinite, tiny, small = _NONE, _NONE, _NONE, _NONE, _NONE
    vanished, outside, saturated, inexact = _NONE, _NONE, _NONE, _NONE
    for i in range(u.size):
        x, y = np.uint32(u[i] & _MAGNITUDE), np.uint32(rounded[i] & _MAGNITUDE)
        far = x >= (beyond_below_zero if u[i] > _MAGNITUDE else beyond)
        number = x <= _INFINITY
        zero = np.uint32(zero + np.uint32(x == _NONE))
        nan = np.uint32(nan + np.uint32(x > _INFINITY))
        infinite = np.uint32(infinite + np.uint32(x == _INFINITY))
        tiny = np.uint32(tiny + np.uint32(x < _NORMAL))
        small = np.uint32(small + np.uint32((y > _NONE) & (y < smallest_normal)))
        vanished = np.uint32(vanished + np.uint32((y == _NONE) & (x > _NONE) & number))
        outside = np.uint32(outside + np.uint32(far & (x < _INFINITY)))
        saturated = np.uint32(saturated + np.uint32(far & number & (y < _INFINITY)))
        inexact = np.uint32(inexact + np.uint32((x != y) & number))
    counts[0] += zero
    counts[1] += nan
    counts[2] += infinite
    counts[3] += np.int64(tiny) - np.int64(zero)
    counts[4] += small
    counts[5] += vanished
    counts[6] += outside
    counts[7] += saturated
    counts[8] += inexact
    return tiny > zero


@kernel
def count_nearest(x, rounded, counts, significands, words):
    """Part p of x (n,) and of what it was rounded to, float32, into row p of ``counts`` and ``significands``.

    ``words``: first magnitude beyond the largest value, that of negative values, smallest normal value (0 where no
    result is subnormal).
    """
    parts = counts.shape[0]
    u, results = x.view(np.uint32), rounded.view(np.uint32)
    beyond, beyond_below_zero, smallest_normal = np.uint32(words[0]), np.uint32(words[1]), np.uint32(words[2])
    for p in prange(parts):
        tables, keys = np.zeros((TABLES, KEYS), np.uint32), np.empty(BLOCK, np.uint16)
        counts[p] = 0
        significands[p] = 0
        end = u.size * (p + 1) // parts
        for start in range(u.size * p // parts, end, BLOCK):
            block = u[start : min(start + BLOCK, end)]
            become = results[start : min(start + BLOCK, end)]
            if _count_block(block, become, beyond, beyond_below_zero, smallest_normal, counts[p]):
                add_subnormals(block, significands[p])
            find_keys(block, keys)
            count_keys(keys[: block.size], tables)
        add_tables(tables, significands[p])


@kernel
def pass_on(x, words):
    """x as it is, in its place: XLA, which cannot look inside, computes it once for all who use it."""


def words_of(fmt: Format) -> np.ndarray:
    """The last argument of ``count_nearest``."""
    return np.array(event_thresholds(fmt), np.int64)


# as XLA calls it: p parts, e COUNTERS, b EXPONENT_BINS, c COLUMNS
COUNT_NEAREST = Foreign(
    kernel=count_nearest,
    operands=(array(np.float32, "n"), array(np.float32, "n")),
    results=(array(np.int32, "pe"), array(np.int32, "pbc")),
    parts="p",
)
SIZES = {"e": len(COUNTERS), "b": EXPONENT_BINS, "c": COLUMNS}
PASS_ON = Foreign(kernel=pass_on, operands=(array(np.float32, "n"),), results=(array(np.float32, "n"),), starts=1)
