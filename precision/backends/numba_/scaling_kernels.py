"""Integers times their float32 scales, each product as ``ftz32`` rounds it."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numba
import numpy as np
from numba import prange

from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import kernel

_multiply, _to_bits = scalars.multiply, scalars.to_bits
_inline = numba.njit(nogil=True, error_model="numpy", forceinline=True)


@kernel
def scale_sums(sums, rows, columns):
    """In place of int32 sums (B, m, n) the patterns of (sum rows) columns: rows (B, m), columns (B, n)."""
    height = sums.shape[1]
    for i in prange(sums.shape[0] * height):
        batch, factor = i // height, rows[i // height, i % height]
        words, factors = sums[batch, i % height], columns[batch]
        for j in range(words.size):
            value = _multiply(_multiply(np.float32(words[j]), factor), factors[j])
            words[j] = np.int32(_to_bits(value))


@_inline
def _by_element(codes, scales, out):
    for j in range(out.size):
        out[j] = _multiply(np.float32(codes[j]), scales[j])


@_inline
def _by_one(codes, scale, out):
    for j in range(out.size):
        out[j] = _multiply(np.float32(codes[j]), scale)


@kernel
def scale_codes(codes, scale, out, high, wide):
    """out = codes scale: codes, out (B, k, n), scale (B, ceil(k / high), ceil(n / wide)), one for each tile."""
    depth, n, across = codes.shape[1], codes.shape[2], scale.shape[2]
    for i in prange(codes.shape[0] * depth):
        row, scales = i % depth, scale[i // depth, i % depth // high]
        if wide == 1:
            _by_element(codes[i // depth, row], scales, out[i // depth, row])
        else:
            for tile in range(across):
                first, last = tile * wide, min((tile + 1) * wide, n)
                _by_one(codes[i // depth, row, first:last], scales[tile], out[i // depth, row, first:last])
