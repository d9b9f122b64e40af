"""Loops that round and count in one pass: block by block, so that what was rounded is still in the first-level cache.

Every part of the array, one a thread, counts for itself.  Floats are summed by chunk, and the chunks are the same
whatever the number of threads.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.inner_functions import inner
from precision.significands import COLUMNS
from precision.statistics import BLOCK, LANES

_tell = scalars.words["round_and_tell"]
_from_bits, _fma = scalars.from_bits, scalars.fused_multiply_add_double
_narrow, _same_range, _column = scalars.narrow, scalars.same_range, scalars.column
_ALL = np.uint32(0xFFFFFFFF)
_NONE = np.uint32(0)
_ONE = np.uint32(1)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_EXPONENT = np.uint32(0x7F800000)
_INFINITY = np.uint32(0x7F800000)
_NORMAL = np.uint32(0x00800000)
_FRACTION = np.uint32(0x007FFFFF)
_WIDTH = np.uint32(5)  # bits of a column in a key
TABLES = 2  # in turn, so that equal neighbours do not wait for each other
KEYS = 256 << _WIDTH
_SUBNORMAL_ROWS = 23


@inner
def _count_events(events, counts):
    for bit in range(counts.size):
        seen = np.uint32(0)
        for i in range(events.size):
            seen = np.uint32(seen + (np.uint32(events[i] >> np.uint32(bit)) & _ONE))
        counts[bit] += np.int64(seen)


@inner
def find_keys(u, keys):
    """Exponent field and column of significand as one number each."""
    for i in range(u.size):
        magnitude = np.uint32(u[i] & _MAGNITUDE)
        field = np.uint32(np.uint32(magnitude >> np.uint32(23)) << _WIDTH)
        keys[i] = np.uint16(field | _column(np.uint32(magnitude & _FRACTION)))


@inner
def count_keys(keys, tables):
    """Histogram of keys.  ``tables``: (TABLES, KEYS) uint32."""
    whole = keys.size - keys.size % TABLES
    for i in range(0, whole, TABLES):
        for j in range(TABLES):
            tables[j, keys[i + j]] += _ONE
    for i in range(whole, keys.size):
        tables[0, keys[i]] += _ONE


@inner
def add_tables(tables, significands):
    """Those of float32's normal values, from the histogram of keys."""
    for field in range(1, 255):
        for column in range(COLUMNS):
            key = (field << _WIDTH) + column
            for table in range(TABLES):
                significands[field + _SUBNORMAL_ROWS - 1, column] += np.int64(tables[table, key])


@inner
def add_subnormals(u, significands):
    """Those of its subnormals, one by one: counts of 2^-149, whose float32 has the same significand."""
    for i in range(u.size):
        magnitude = np.uint32(u[i] & _MAGNITUDE)
        if _NONE < magnitude < _NORMAL:
            normal = scalars.to_bits(np.float32(np.int32(magnitude)))
            row = np.int64(normal >> np.uint32(23)) - 127
            significands[row, _column(np.uint32(normal & _FRACTION))] += 1


@inner
def _find_extremes(u, extremes):
    largest, smallest = extremes[0], extremes[1]
    for i in range(u.size):
        magnitude = u[i] & _MAGNITUDE
        largest = max(largest, magnitude if magnitude < _INFINITY else _NONE)
        smallest = min(smallest, magnitude if magnitude > _NONE else _INFINITY)
    extremes[0], extremes[1] = largest, smallest


@inner
def _sum_powers(u, out, signal, noise, powers):
    """Number of values finite before and after, to ``powers[0]``; their squares and squared errors to the lanes.

    Lane j sums the elements i = j modulo LANES in their order, so that a register full of lanes makes a step at once.
    """
    compared = _NONE
    for start in range(0, u.size, LANES):
        x, y = u[start : start + LANES], out[start : start + LANES]
        for j in range(x.size):
            both = (np.uint32(x[j] & _EXPONENT) < _EXPONENT) & (np.uint32(y[j] & _EXPONENT) < _EXPONENT)
            kept = _ALL if both else _NONE
            before = np.float64(_from_bits(np.uint32(x[j] & kept)))
            error = np.float64(_from_bits(np.uint32(y[j] & kept))) - before
            signal[j] = _fma(before, before, signal[j])
            noise[j] = _fma(error, error, noise[j])
            compared = np.uint32(compared + np.uint32(kept & _ONE))
    powers[0] += np.float64(compared)


@inner
def _add_lanes(signal, noise, powers):
    for j in range(LANES):
        powers[1] += signal[j]
        powers[2] += noise[j]


@inner
def _round_by_plan(u, out, by_addition, thresholds, above_zero, above_subnormal, extremes):
    """out = u rounded.  Below ``above_zero``, below ``above_subnormal``, from ``overflow_from`` on, changed; whether
    anything is rare.

    Rounding to nearest is monotone, so three comparisons of the input say what becomes zero, subnormal and infinite.
    Rare are zeros, subnormals, infinities and NaNs, of which the first and the last two are no extremes.
    """
    first, second, overflow_from, overflow, nan_from, nan = thresholds
    vanish, small, beyond, changed = _NONE, _NONE, _NONE, _NONE
    largest, smallest = _NONE, _ALL
    for i in range(u.size):
        if by_addition:
            rounded = _narrow(u[i], first, second, overflow_from, overflow, nan_from, nan)
        else:
            rounded = _same_range(u[i], first, second, overflow_from, overflow, nan_from, nan)
        out[i] = rounded
        magnitude = np.uint32(u[i] & _MAGNITUDE)
        vanish = np.uint32(vanish + np.uint32(magnitude < above_zero))
        small = np.uint32(small + np.uint32(magnitude < above_subnormal))
        beyond = np.uint32(beyond + np.uint32(magnitude >= overflow_from))
        changed = np.uint32(changed + np.uint32(magnitude != np.uint32(rounded & _MAGNITUDE)))
        largest, smallest = max(largest, magnitude), min(smallest, magnitude)
    rare = smallest < _NORMAL or largest >= _INFINITY
    if rare:
        _find_extremes(u, extremes)
    else:
        extremes[0], extremes[1] = max(extremes[0], largest), min(extremes[1], smallest)
    return vanish, small, beyond, changed, rare


@inner
def _count_rare(u, out, counts, significands):
    """Zeros, NaNs, infinities, how many NaNs were not canonical; float32's subnormals, with their significands."""
    zero, nan, infinite, subnormal, other = _NONE, _NONE, _NONE, _NONE, _NONE
    for i in range(u.size):
        magnitude = u[i] & _MAGNITUDE
        zero = np.uint32(zero + np.uint32(magnitude == _NONE))
        nan = np.uint32(nan + np.uint32(magnitude > _INFINITY))
        infinite = np.uint32(infinite + np.uint32(magnitude == _INFINITY))
        subnormal = np.uint32(subnormal + np.uint32(magnitude < _NORMAL))
        other = np.uint32(other + np.uint32((magnitude > _INFINITY) & (magnitude != out[i] & _MAGNITUDE)))
    counts[0] += np.int64(zero)
    counts[1] += np.int64(nan)
    counts[2] += np.int64(infinite)
    counts[3] += np.int64(subnormal) - np.int64(zero)
    if subnormal > zero:
        add_subnormals(u, significands)
    return np.int64(zero), np.int64(nan), np.int64(infinite), np.int64(other)


@kernel
def tally_nearest(u, out, plan, chunk, counts, significands, extremes, powers):
    """As ``tally``, for the formats that have a ``nearest.Plan``.  Order of ``counts``: statistics.COUNTERS."""
    by_addition, thresholds, above_zero, above_subnormal, saturates = plan
    first, second, overflow_from, overflow, nan_from, nan = thresholds  # a parallel loop takes no tuple of tuples
    parts, chunks = counts.shape[0], powers.shape[0]
    for p in prange(parts):
        tables, keys = np.zeros((TABLES, KEYS), np.uint32), np.empty(BLOCK, np.uint16)
        numbers = (first, second, overflow_from, overflow, nan_from, nan)
        for c in range(chunks * p // parts, chunks * (p + 1) // parts):
            signal, noise = np.zeros(LANES), np.zeros(LANES)
            for start in range(c * chunk, min((c + 1) * chunk, u.size), BLOCK):
                x, y = u[start : min(start + BLOCK, u.size)], out[start : min(start + BLOCK, u.size)]
                vanish, small, beyond, changed, rare = _round_by_plan(
                    x, y, by_addition, numbers, above_zero, above_subnormal, extremes[c]
                )
                find_keys(x, keys)
                count_keys(keys[: x.size], tables)
                zero, nans, infinite, other = _count_rare(x, y, counts[p], significands[p]) if rare else (0, 0, 0, 0)
                counts[p, 4] += np.int64(small) - np.int64(vanish)
                counts[p, 5] += np.int64(vanish) - zero
                counts[p, 6] += np.int64(beyond) - infinite - nans
                counts[p, 7] += (np.int64(beyond) - nans) * saturates
                counts[p, 8] += np.int64(changed) - other
                _sum_powers(x, y, signal, noise, powers[c])
            _add_lanes(signal, noise, powers[c])
        add_tables(tables, significands[p])


@kernel
def tally(u, out, random, words, f, chunk, counts, significands, extremes, powers):
    """out = u rounded; for part p of the chunks of ``chunk`` elements, row p of ``counts`` and ``significands``, and
    for chunk c row c of ``extremes`` and ``powers``.

    ``random``: 1 for modes that take ``words``, one each, 0 for the others.
    """
    parts, chunks = counts.shape[0], powers.shape[0]
    for p in prange(parts):
        tables, keys = np.zeros((TABLES, KEYS), np.uint32), np.empty(BLOCK, np.uint16)
        events = np.empty(BLOCK, np.uint32)
        for c in range(chunks * p // parts, chunks * (p + 1) // parts):
            signal, noise = np.zeros(LANES), np.zeros(LANES)
            for start in range(c * chunk, min((c + 1) * chunk, u.size), BLOCK):
                x, y = u[start : min(start + BLOCK, u.size)], out[start : min(start + BLOCK, u.size)]
                if random == 1:
                    drawn = words[start : start + x.size]
                    for i in range(x.size):
                        y[i], events[i] = _tell(x[i], drawn[i], f)
                else:
                    for i in range(x.size):
                        y[i], events[i] = _tell(x[i], _NONE, f)
                before = counts[p, 3]
                _count_events(events[: x.size], counts[p])
                find_keys(x, keys)
                count_keys(keys[: x.size], tables)
                if counts[p, 3] > before:
                    add_subnormals(x, significands[p])
                _find_extremes(x, extremes[c])
                _sum_powers(x, y, signal, noise, powers[c])
            _add_lanes(signal, noise, powers[c])
        add_tables(tables, significands[p])
