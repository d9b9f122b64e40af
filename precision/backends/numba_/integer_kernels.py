"""INT8 products summed in INT32: packed panels of b, tiles of sums in registers, threads share tiles of rows."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.inner_functions import inner
from precision.backends.numba_.integer_tiles import UNIT, join_columns, make_tile, word_at

_LANES, _ROWS, _VECTORS = UNIT.lanes, UNIT.rows, UNIT.vectors
_GROUPS = 256  # groups of four k packed at a time: a panel of b stays in a first-level cache or just outside it
_TILES = 16  # tiles of rows that meet a panel of b in one go
_PIECE = 512  # columns of b that a thread takes where there is one row, which meets b as it lies
_FLIP = np.int32(-0x7F7F7F80)  # 0x80808080: a XOR 0x80 = a + 128 as an unsigned byte
_ONES = np.int32(0x01010101)
_multiply, _multiply_row = make_tile(_ROWS), make_tile(1)


@kernel
def multiply_add(a, b, total, words):  # noqa: ARG001
    """total (B, m, n) += a (B, m, k) b (B, k, n), modulo 2^32: int8 of any strides into contiguous int32.

    ``words`` is there for the signature that all products share.
    """
    rows, depth, columns = a.shape[1], a.shape[2], b.shape[2]
    out = total.reshape(-1)
    if rows == 1 and b.strides[2] == 1:
        pieces = -(-columns // _PIECE)
        for i in prange(a.shape[0] * pieces):
            block, piece = i // pieces, slice(i % pieces * _PIECE, min((i % pieces + 1) * _PIECE, columns))
            _add_row(a[block, 0], b[block, :, piece], total[block, 0, piece])
        return
    tiles = -(-rows // _ROWS)
    vectors = -(-columns // _LANES)
    panels = -(-vectors // _VECTORS)
    vectors = -(-vectors // max(panels, 1))  # as even as can be
    wide = vectors * _LANES
    stretches = -(-tiles // _TILES)
    for first in range(0, depth, 4 * _GROUPS):
        last = min(first + 4 * _GROUPS, depth)
        groups = -(-(last - first) // 4)
        left = np.empty(a.shape[0] * tiles * groups * _ROWS, np.int32)
        right = np.empty(a.shape[0] * panels * (groups + 1) * wide, np.int32)
        for i in prange(a.shape[0] * tiles):
            _pack(a[i // tiles, :, first:last], i % tiles * _ROWS, _FLIP, left, i * groups * _ROWS, _ROWS)
        for i in prange(a.shape[0] * panels):
            at = i * (groups + 1) * wide
            _pack(b[i // panels, first:last].T, i % panels * wide, np.int32(0), right, at + wide, wide)
            _sum_columns(vectors, right, at, groups)
        for i in prange(a.shape[0] * stretches * panels):
            block, stretch, panel = i // (stretches * panels), i // panels % stretches, i % panels
            right_at = (block * panels + panel) * (groups + 1) * wide
            for tile in range(stretch * _TILES, min((stretch + 1) * _TILES, tiles)):
                left_at = (block * tiles + tile) * groups * _ROWS
                row, column = tile * _ROWS, panel * wide
                out_at = (block * rows + row) * columns + column
                high, across = min(rows - row, _ROWS), min(columns - column, wide)
                if high == _ROWS and across == wide:
                    _multiply(vectors, left, left_at, right, right_at, groups, out, out_at, columns)
                else:
                    _multiply_edge(
                        vectors, left, left_at, right, right_at, groups, out, out_at, columns, high, across
                    )


@inner
def _add_row(a, b, sums):
    """sums (n,) += a (k,) b (k, n)"""
    for k in range(a.size):
        value, row = np.int32(a[k]), b[k]
        for j in range(sums.size):
            sums[j] = np.int32(sums[j] + np.int32(value * np.int32(row[j])))


@inner
def _multiply_edge(vectors, left, left_at, right, right_at, groups, out, out_at, stride, high, across):
    """A tile of which only the first rows and columns exist, by way of a whole one."""
    wide = vectors * _LANES
    whole = np.zeros(_ROWS * wide, np.int32)
    _multiply(vectors, left, left_at, right, right_at, groups, whole, 0, wide)
    for i in range(high):
        for j in range(across):
            out[out_at + i * stride + j] += whole[i * wide + j]


@inner
def _sum_columns(vectors, right, at, groups):
    """Sums of the columns of a panel, into the words before it."""
    right[at : at + vectors * _LANES] = 0
    _multiply_row(vectors, np.full(groups, _ONES), 0, right, at, groups, right, at, 0)


@inner
def _pack(x, first, flip, out, at, lanes):
    """Words of x (lanes, k) from lane ``first`` on, XOR flip, as (groups of four k, lanes); +0 outside of x."""
    count, depth = min(lanes, x.shape[0] - first), x.shape[1]
    whole = depth // 4
    sixteens = count // 16 * 16 if x.strides[0] == 1 else 0
    for g in range(whole):
        row = at + g * lanes
        if x.strides[1] == 1:
            for j in range(count):
                out[row + j] = word_at(x, first + j, 4 * g) ^ flip
        else:
            for j in range(0, sixteens, 16):
                join_columns(x, first + j, 4 * g, flip, out, row + j)
            for j in range(sixteens, count):
                i, k = first + j, 4 * g
                out[row + j] = _join(x[i, k], x[i, k + 1], x[i, k + 2], x[i, k + 3]) ^ flip
        out[row + count : row + lanes] = flip
    if whole * 4 < depth:
        row = at + whole * lanes
        out[row : row + lanes] = flip
        for j in range(count):
            for k in range(4 * whole, depth):
                out[row + j] ^= _join(x[first + j, k], np.int8(0), np.int8(0), np.int8(0)) << np.int32(8 * (k % 4))


@inner
def _join(x0, x1, x2, x3):
    """Four bytes as a word, the first one lowest."""
    return (
        np.int32(np.uint8(x0))
        | np.int32(np.uint8(x1)) << np.int32(8)
        | np.int32(np.uint8(x2)) << np.int32(16)
        | np.int32(np.uint8(x3)) << np.int32(24)
    )
