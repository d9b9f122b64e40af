"""Float32 arithmetic, sums and row kernels.  Arrays arrive flat and contiguous; uint32: float32 patterns."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import kernel
from precision.formats import FP32

_FP32 = FP32.constants
_round = scalars.words["round_nearest_even"]
_flush = scalars.words["flush_subnormal"]
_encode = scalars.words["encode"]
_order_key = scalars.words["order_key"]
_from_order_key = scalars.words["from_order_key"]
_add, _apply = scalars.add, scalars.apply
_exp, _log, _erf, _flush_float = scalars.exp, scalars.log, scalars.erf, scalars.flush
_tanh, _rsqrt = scalars.tanh, scalars.rsqrt


@kernel
def flush_flat(u, out, f):
    for i in prange(u.size):
        out[i] = _flush(u[i], f)


@kernel
def binary(x, y, out, operation):
    """out = x op y; x and out are (rows, columns), y is too, or has 1 in place of either (broadcast).

    ``operation`` does not change within a call: the compiler makes one loop of each.
    """
    for i in prange(x.shape[0]):
        row = y[i] if y.shape[0] > 1 else y[0]
        if y.shape[1] > 1:
            for j in range(x.shape[1]):
                out[i, j] = _apply(operation, x[i, j], row[j])
        else:
            for j in range(x.shape[1]):
                out[i, j] = _apply(operation, x[i, j], row[0])


@kernel
def square_root(x, out):
    for i in prange(x.size):
        out[i] = np.sqrt(_flush_float(x[i]))


@kernel
def exp(x, out):
    for i in prange(x.size):
        out[i] = _exp(x[i])


@kernel
def log(x, out):
    for i in prange(x.size):
        out[i] = _log(x[i])


@kernel
def erf(x, out):
    for i in prange(x.size):
        out[i] = _erf(x[i])


@kernel
def tanh(x, out):
    for i in prange(x.size):
        out[i] = _tanh(x[i])


@kernel
def rsqrt(x, out):
    for i in prange(x.size):
        out[i] = _rsqrt(x[i])


@kernel
def tree_sum_rows(x, size, out):
    """Row sums of (rows, columns), neighbours first; size: the power of two that columns are padded to."""
    for i in prange(x.shape[0]):
        level = np.full(size, np.float32(-0.0), np.float32)
        for j in range(x.shape[1]):
            level[j] = _flush_float(x[i, j])
        half = size >> 1
        while half > 0:
            for j in range(half):
                level[j] = _add(level[2 * j], level[2 * j + 1])
            half >>= 1
        out[i] = level[0]


@kernel
def tree_sum_columns(x, size, out):
    """Sums over the middle axis of (blocks, rows, columns) by the same tree, vectorised over columns."""
    for i in prange(x.shape[0]):
        level = np.full((size, x.shape[2]), np.float32(-0.0), np.float32)
        for r in range(x.shape[1]):
            for j in range(x.shape[2]):
                level[r, j] = _flush_float(x[i, r, j])
        half = size >> 1
        while half > 0:
            for r in range(half):
                for j in range(x.shape[2]):
                    level[r, j] = _add(level[2 * r, j], level[2 * r + 1, j])
            half >>= 1
        for j in range(x.shape[2]):
            out[i, j] = level[0, j]


@kernel
def row_max(u, mask, out):
    """Largest number of each row of patterns where mask holds; mask: (rows of the mask, columns), repeated."""
    for i in prange(u.shape[0]):
        allowed = mask[i % mask.shape[0]]
        best = np.uint32(0)
        for j in range(u.shape[1]):
            key = _order_key(_flush(_round(u[i, j], _FP32), _FP32)) if allowed[j] else np.uint32(0)
            best = max(best, key)
        out[i] = _from_order_key(best)


@kernel
def absmax_rows(u, out):
    for i in prange(u.shape[0]):
        best = np.uint32(0)
        for j in range(u.shape[1]):
            best = max(best, np.uint32(_round(u[i, j], _FP32) & np.uint32(0x7FFFFFFF)))
        out[i] = best


@kernel
def lookup(table, u, out, f):
    for i in prange(u.size):
        out[i] = table[_encode(_round(u[i], f), f)]
