"""Absmax, scale and codes of a tile in one go; tiles are runs of the last axis, or runs of columns.

Codes are clamp(rint(x inverse)) with one float32 multiplication that does not flush.  The composed steps flush, and
give the same code: the inverse is at most 128 / 2^-112 = 2^119, so an x below 2^-126 comes to less than 2^-7, and a
product below 2^-126 to less still; both round to 0, whose sign no code keeps.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.inner_functions import inlined

_multiply, _divide, _product = scalars.multiply, scalars.divide, scalars.product
_from_bits = scalars.from_bits
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)
_ALL, _NONE = np.uint32(0xFFFFFFFF), np.uint32(0)
_NAN = np.float32(np.nan)
_ZERO, _ONE, _LARGE = np.float32(0), np.float32(1), np.float32(2.0**120)


class Words(NamedTuple):
    """What the kernels need of a scheme; float32, or a word that is 0 or 1.

    Fields
        span: what the largest magnitude is scaled to.
        reciprocal: RN(1 / span).
        least, largest: codes.
        zero_below: absmax below which a tile is zero.
        absmax_below, absmax_floor: of an absmax below the first, the second takes its place.
        scale_below, scale_floor: the same of a scale.
        divides, keeps: whether s = a / span, or s = a, in place of a RN(1 / span).
        by_scale, by_unit: whether the inverse is 1 / s, or (1 / a) span, in place of span / a.
    """

    span: np.float32
    reciprocal: np.float32
    least: np.float32
    largest: np.float32
    zero_below: np.float32
    absmax_below: np.float32
    absmax_floor: np.float32
    scale_below: np.float32
    scale_floor: np.float32
    divides: np.uint32
    keeps: np.uint32
    by_scale: np.uint32
    by_unit: np.uint32


@inlined
def _quotient(x, y):
    """x / y for 1 <= x <= 128: below 2^120 = _LARGE no y makes it subnormal."""
    return np.float32(x / y) if y < _LARGE else _divide(x, y)


@inlined
def _factors(magnitude, w):
    """(scale, inverse) of a tile with that absmax, a pattern; inverse 0 where all codes are.

    A scale is subnormal only where ``scale_below`` replaces it, so that nothing is flushed on the way to it.
    """
    if magnitude >= _INFINITY:
        return _NAN, _ZERO
    a = _from_bits(magnitude)
    if a < w.zero_below:
        return _ZERO, _ZERO
    if a < w.absmax_below:
        a = w.absmax_floor
    scale = a
    if w.divides:
        scale = np.float32(a / w.span)
    elif not w.keeps:
        scale = _product(a, w.reciprocal)
    if scale < w.scale_below:
        scale = w.scale_floor
    if w.by_scale:
        return scale, _quotient(_ONE, scale)
    if w.by_unit:
        return scale, _multiply(_quotient(_ONE, a), w.span)
    return scale, _quotient(w.span, a)


@inlined
def _code(u, inverse, least, largest):
    """u: pattern of a finite number."""
    value = _from_bits(u) * inverse
    value = least if value < least else value
    value = largest if value > largest else value
    return np.int8(np.int32(np.rint(value)))


@inlined
def _absmax(patterns):
    found = _NONE
    for j in range(patterns.size):
        found = max(found, np.uint32(patterns[j] & _MAGNITUDE))
    return found


@inlined
def _codes_of_run(patterns, absmax, inverse, w, out):
    if absmax < _INFINITY:
        for j in range(out.size):
            out[j] = _code(patterns[j], inverse, w.least, w.largest)
    else:
        out[:] = 0


@inlined
def _absmax_of_columns(patterns, found):
    for j in range(found.size):
        found[j] = max(found[j], np.uint32(patterns[j] & _MAGNITUDE))


@inlined
def _codes_of_row(patterns, kept, inverses, w, out):
    for j in range(out.size):
        out[j] = _code(np.uint32(patterns[j] & kept[j]), inverses[j], w.least, w.largest)


@inlined
def _factors_of_columns(absmax, w, scale, inverses):
    """Scales and inverses; in place of each absmax a mask that leaves nothing of columns with NaN or infinity."""
    for j in range(absmax.size):
        scale[j], inverses[j] = _factors(absmax[j], w)
        absmax[j] = _ALL if absmax[j] < _INFINITY else _NONE


@kernel
def quantize_runs(u, codes, scale, edge, w):
    """u, codes (rows, n); scale (rows, ceil(n / edge)): a tile is ``edge`` elements of a row, the last one fewer."""
    tiles, n = scale.shape[1], u.shape[1]
    for i in prange(u.shape[0] * tiles):
        row, tile = i // tiles, i % tiles
        first, last = tile * edge, min((tile + 1) * edge, n)
        patterns = u[row, first:last]
        absmax = _absmax(patterns)
        scale[row, tile], inverse = _factors(absmax, w)
        _codes_of_run(patterns, absmax, inverse, w, codes[row, first:last])


@kernel
def quantize_long_runs(u, codes, scale, part, w):
    """u, codes (rows, n); scale (rows,): a tile is a row, of which threads share parts of so many elements."""
    rows, n = u.shape
    parts = -(-n // part)
    found, inverses = np.zeros((rows, parts), np.uint32), np.empty(rows, np.float32)
    for i in prange(rows * parts):
        row, first = i // parts, i % parts * part
        found[row, i % parts] = _absmax(u[row, first : min(first + part, n)])
    for row in range(rows):
        found[row, 0] = _absmax(found[row])
        scale[row], inverses[row] = _factors(found[row, 0], w)
    for i in prange(rows * parts):
        row, first = i // parts, i % parts * part
        last = min(first + part, n)
        _codes_of_run(u[row, first:last], found[row, 0], inverses[row], w, codes[row, first:last])


@kernel
def quantize_columns(u, codes, scale, edge, width, w):
    """u, codes (B, k, n); scale (B, ceil(k / edge), n): a tile is ``edge`` elements of a column, the last one fewer.

    ``width``: columns that are read twice before others are, so that they still lie in a cache.
    """
    tiles, depth, n = scale.shape[1], u.shape[1], u.shape[2]
    blocks = -(-n // width)
    for i in prange(u.shape[0] * tiles * blocks):
        batch, tile, first = i // (tiles * blocks), i // blocks % tiles, i % blocks * width
        last, top, bottom = min(first + width, n), tile * edge, min((tile + 1) * edge, depth)
        absmax, inverses = np.zeros(last - first, np.uint32), np.empty(last - first, np.float32)
        for r in range(top, bottom):
            _absmax_of_columns(u[batch, r, first:last], absmax)
        _factors_of_columns(absmax, w, scale[batch, tile, first:last], inverses)
        for r in range(top, bottom):
            _codes_of_row(u[batch, r, first:last], absmax, inverses, w, codes[batch, r, first:last])


@kernel
def quantize_long_columns(u, codes, scale, part, w):
    """u, codes (B, k, n); scale (B, n): a tile is a column, of which threads share parts of so many rows.

    Every row is read from end to end, twice.
    """
    batches, depth, n = u.shape
    parts = -(-depth // part)
    found, inverses = np.zeros((batches, parts, n), np.uint32), np.empty((batches, n), np.float32)
    for i in prange(batches * parts):
        batch, first = i // parts, i % parts * part
        for r in range(first, min(first + part, depth)):
            _absmax_of_columns(u[batch, r], found[batch, i % parts])
    for batch in range(batches):
        for at in range(1, parts):
            _absmax_of_columns(found[batch, at], found[batch, 0])
        _factors_of_columns(found[batch, 0], w, scale[batch], inverses[batch])
    for i in prange(batches * depth):
        batch, r = i // depth, i % depth
        _codes_of_row(u[batch, r], found[batch, 0], inverses[batch], w, codes[batch, r])
