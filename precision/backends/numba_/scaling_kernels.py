"""Integers times their float32 scales, each product as ``ftz32`` rounds it; floats times powers of two.

A nonzero integer is at least 1 in magnitude, so its product with a scale that is not subnormal is not either: only
the second product of a sum may have to be flushed.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision import block_scaling
from precision.backends.numba_ import layer_steps, scalars
from precision.backends.numba_.compilation import compile_words, kernel
from precision.backends.numba_.inner_functions import inlined

_multiply, _product, _flush, _to_bits = scalars.multiply, scalars.product, scalars.flush, scalars.to_bits
_from_bits, _rounded = scalars.from_bits, layer_steps.rounded
_PIECE = layer_steps.PIECE
times_power = compile_words(block_scaling, known=scalars.words)["times_power"]


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


@inlined
def _by_element(codes, scales, out):
    for j in range(out.size):
        out[j] = _product(np.float32(codes[j]), _flush(scales[j]))


@inlined
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


@kernel
def scaled_sums(sums, rows, columns, out, words):  # noqa: ARG001  every layer is given words
    """(sum rows) columns of int32 sums (B, m, n): rows (B, m), columns (B, n)."""
    height = sums.shape[1]
    for i in prange(sums.shape[0] * height):
        batch, row = i // height, i % height
        factor = _flush(rows[batch, row])
        for j in range(sums.shape[2]):
            product = _product(np.float32(sums[batch, row, j]), factor)
            out[batch, row, j] = _multiply(product, columns[batch, j])


@kernel
def times_powers(x, powers, out, words):
    """x (R, n) times one power of two after the other, powers uint32 (R, s).  words: rounding of that."""
    n = x.shape[1]
    pieces = (n + _PIECE - 1) // _PIECE
    for part in prange(x.shape[0] * pieces):
        row, first = part // pieces, part % pieces * _PIECE
        last = min(first + _PIECE, n)
        raised = np.empty(last - first, np.float32)
        for j in range(first, last):
            raised[j - first] = x[row, j]
        for power in powers[row]:
            for j in range(raised.size):
                raised[j] = _from_bits(times_power(_to_bits(raised[j]), power))
        _rounded(raised, out[row, first:last], words)
