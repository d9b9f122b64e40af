"""Loops that round and count in one pass: block by block, so that what was rounded is still in the first-level cache.

Every chunk counts for itself, and the chunks are the same whatever the number of threads.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numba
import numpy as np
from numba import prange

from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import kernel
from precision.statistics import BLOCK, LANES

_tell = scalars.words["round_and_tell"]
_nearest_events = scalars.words["nearest_even_events"]
_exponent_index = scalars.words["exponent_index"]
_threefry = scalars.words["threefry2x32"]
_to_bits, _from_bits = scalars.to_bits, scalars.from_bits
_ALL = np.uint32(0xFFFFFFFF)
_NONE = np.uint32(0)
_ONE = np.uint32(1)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_SIGN = np.uint32(0x80000000)
_EXPONENT = np.uint32(0x7F800000)
_INFINITY = np.uint32(0x7F800000)
_NORMAL = np.uint32(0x00800000)
_TOP = np.uint32(255)
_jit = numba.njit(nogil=True, error_model="numpy")


@_jit
def _count_events(events, counts):
    for bit in range(counts.size):
        seen = np.uint32(0)
        for i in range(events.size):
            seen += (events[i] >> np.uint32(bit)) & _ONE
        counts[bit] += np.int64(seen)


@_jit
def _count_exponents(u, fields, exponents):
    """Histogram of exponents, four tables in turn, so that equal neighbours do not wait for each other.

    ``fields``: (4, 256) uint32 of scratch, left empty.
    """
    fields[:] = 0
    whole = u.size - u.size % 4
    for i in range(0, whole, 4):
        fields[0, (u[i] >> np.uint32(23)) & _TOP] += _ONE
        fields[1, (u[i + 1] >> np.uint32(23)) & _TOP] += _ONE
        fields[2, (u[i + 2] >> np.uint32(23)) & _TOP] += _ONE
        fields[3, (u[i + 3] >> np.uint32(23)) & _TOP] += _ONE
    for i in range(whole, u.size):
        fields[0, (u[i] >> np.uint32(23)) & _TOP] += _ONE
    subnormal = np.uint32(0)
    for table in range(4):
        subnormal += fields[table, 0]
        for field in range(1, 255):
            exponents[field + 22] += np.int64(fields[table, field])
    if subnormal > _NONE:
        for i in range(u.size):
            if u[i] & _EXPONENT == _NONE and u[i] & _MAGNITUDE != _NONE:
                exponents[_exponent_index(u[i])] += 1


@_jit
def _find_extremes(u, extremes):
    largest, smallest = extremes[0], extremes[1]
    for i in range(u.size):
        magnitude = u[i] & _MAGNITUDE
        largest = max(largest, magnitude if magnitude < _INFINITY else _NONE)
        smallest = min(smallest, magnitude if magnitude > _NONE else _INFINITY)
    extremes[0], extremes[1] = largest, smallest


@_jit
def _sum_powers(u, out, lanes, powers):
    """Number of values finite before and after, their squares and squared errors, in a fixed order.

    Lane j sums the elements i = j modulo LANES; the lanes of a block are added in turn.
    """
    compared = np.uint32(0)
    lanes[:] = 0.0
    whole = u.size - u.size % LANES
    for start in range(0, whole, LANES):
        for j in range(LANES):
            i = start + j
            kept = (u[i] & _EXPONENT < _INFINITY) & (out[i] & _EXPONENT < _INFINITY)
            x = _from_bits(u[i] if kept else _NONE)
            error = np.float32(_from_bits(out[i] if kept else _NONE) - x)
            lanes[0, j] += np.float64(x) * np.float64(x)
            lanes[1, j] += np.float64(error) * np.float64(error)
            compared += np.uint32(kept)
    for i in range(whole, u.size):
        if (u[i] & _EXPONENT < _INFINITY) and (out[i] & _EXPONENT < _INFINITY):
            x = _from_bits(u[i])
            error = np.float32(_from_bits(out[i]) - x)
            lanes[0, 0] += np.float64(x) * np.float64(x)
            lanes[1, 0] += np.float64(error) * np.float64(error)
            compared += _ONE
    powers[0] += np.float64(compared)
    for j in range(LANES):
        powers[1] += lanes[0, j]
        powers[2] += lanes[1, j]


@kernel
def tally(u, out, random, key0, key1, high, low, words, f, chunk, counts, exponents, extremes, powers):
    """out = u rounded; for chunk c of ``chunk`` elements, row c of every array of counts.

    ``random``: 0 for modes without, 1 for the words of (high, low) + i, 2 for the given ``words``.
    """
    for c in prange(counts.shape[0]):
        events = np.empty(BLOCK, np.uint32)
        fields, lanes = np.empty((4, 256), np.uint32), np.empty((2, LANES))
        for start in range(c * chunk, min((c + 1) * chunk, u.size), BLOCK):
            stop = min(start + BLOCK, u.size)
            for i in range(start, stop):
                word = _NONE
                if random == 1:
                    index = np.uint32(low + np.uint32(i))
                    carried = np.uint32(high + np.uint32(index < low))
                    word = np.uint32(_threefry(key0, key1, carried, index, _ALL)[0])
                if random == 2:
                    word = words[i]
                out[i], events[i - start] = _tell(u[i], word, f)
            _count_events(events[: stop - start], counts[c])
            _count_exponents(u[start:stop], fields, exponents[c])
            _find_extremes(u[start:stop], extremes[c])
            _sum_powers(u[start:stop], out[start:stop], lanes, powers[c])


@kernel
def count_nearest(u, rounded, f, chunk, counts, exponents):
    """Events and exponents of an array that was rounded to nearest even."""
    for c in prange(counts.shape[0]):
        events, fields = np.empty(BLOCK, np.uint32), np.empty((4, 256), np.uint32)
        for start in range(c * chunk, min((c + 1) * chunk, u.size), BLOCK):
            stop = min(start + BLOCK, u.size)
            for i in range(start, stop):
                events[i - start] = _nearest_events(u[i], rounded[i], f)
            _count_events(events[: stop - start], counts[c])
            _count_exponents(u[start:stop], fields, exponents[c])
