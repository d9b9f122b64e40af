"""Integers times their float32 scales, each product as ``ftz32`` rounds it.

A nonzero integer is at least 1 in magnitude, so its product with a scale that is not subnormal is not either: only
the second product of a sum may have to be flushed.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numba
import numpy as np
from numba import prange

from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import kernel

_multiply, _product, _flush, _to_bits = scalars.multiply, scalars.product, scalars.flush, scalars.to_bits
_inline = numba.njit(nogil=True, error_model="numpy", forceinline=True)


@kernel
def scale_sums(sums, rows, columns, plain):
    """In place of int32 sums (B, m, n) the patterns of (sum rows) columns: rows (B, m), columns (B, n).

    ``plain``: whether no product of a row's and a column's scale can be subnormal.
    """
    height = sums.shape[1]
    for i in prange(sums.shape[0] * height):
        batch, factor = i // height, _flush(rows[i // height, i % height])
        words, factors = sums[batch, i % height], columns[batch]
        if plain:
            for j in range(words.size):
                words[j] = np.int32(_to_bits(_product(_product(np.float32(words[j]), factor), factors[j])))
        else:
            for j in range(words.size):
                words[j] = np.int32(_to_bits(_multiply(_product(np.float32(words[j]), factor), factors[j])))


@_inline
def _by_element(codes, scales, out):
    for j in range(out.size):
        out[j] = _product(np.float32(codes[j]), _flush(scales[j]))


@_inline
def _by_one(codes, scale, out):
    for j in range(out.size):
        out[j] = _product(np.float32(codes[j]), scale)


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
                _by_one(codes[i // depth, row, first:last], _flush(scales[tile]), out[i // depth, row, first:last])
