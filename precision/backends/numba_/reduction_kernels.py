"""Sums over the rows of matrices by the tree of neighbours, rounded, and scattered rows."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision.backends.numba_ import layer_steps, scalars
from precision.backends.numba_.compilation import kernel

_add, _multiply, _flush = scalars.add, scalars.multiply, scalars.flush
_rounded, _ROUNDING = layer_steps.rounded, layer_steps.ROUNDING
_from_the_end = layer_steps.from_the_end
_WIDTH = 128  # columns that a thread takes at once


@layer_steps.step
def _carry(stack, i, row):
    """The i-th leaf, in ``stack[0]``, joined with the branches that it completes; the result lies at its level.

    Level l holds a finished branch of 2^l leaves where bit l of i is set.
    """
    level = 0
    while i >> level & 1:
        for j in range(row):
            stack[level + 1, 0, j] = _flush(stack[level, 1, j] + stack[level, 0, j])
        level += 1
    for j in range(row):
        stack[level, 1, j] = stack[level, 0, j]


@layer_steps.step
def _finish(stack, leaves, row, out):
    """What branches are left, the last ones first; -0 in place of leaves that are not there changes no sum."""
    level = 0
    while not leaves >> level & 1:
        level += 1
    for j in range(row):
        out[j] = stack[level, 1, j]
    level += 1
    while leaves >> level:
        if leaves >> level & 1:
            for j in range(row):
                out[j] = _flush(stack[level, 1, j] + out[j])
        level += 1


@layer_steps.step
def _levels(leaves):
    levels = 1
    while 1 << levels <= leaves:
        levels += 1
    return levels + 1


@kernel
def column_sums(x, out, words):
    """(C, R, n) -> (C, n).  words: roundings of the terms, of the sums."""
    rows, n = x.shape[1], x.shape[2]
    across = (n + _WIDTH - 1) // _WIDTH
    for part in prange(x.shape[0] * across):
        c, start = part // across, part % across * _WIDTH
        width = min(_WIDTH, n - start)
        stack, result = np.empty((_levels(rows), 2, _WIDTH), np.float32), np.empty(_WIDTH, np.float32)
        for i in range(rows):
            _rounded(x[c, i, start : start + width], result[:width], words)
            for j in range(width):
                stack[0, 0, j] = _flush(result[j])
            _carry(stack, i, width)
        _finish(stack, rows, width, result)
        _rounded(result[:width], out[c, start : start + width], words[_ROUNDING:])


@kernel
def column_products(x, y, out, words):
    """The same of the products of two arrays.  words: rounding of the sums."""
    rows, n = x.shape[1], x.shape[2]
    across = (n + _WIDTH - 1) // _WIDTH
    for part in prange(x.shape[0] * across):
        c, start = part // across, part % across * _WIDTH
        width = min(_WIDTH, n - start)
        stack, result = np.empty((_levels(rows), 2, _WIDTH), np.float32), np.empty(_WIDTH, np.float32)
        for i in range(rows):
            for j in range(width):
                stack[0, 0, j] = _multiply(x[c, i, start + j], y[c, i, start + j])
            _carry(stack, i, width)
        _finish(stack, rows, width, result)
        _rounded(result[:width], out[c, start : start + width], words)


@kernel
def scattered_rows(indices, rows, out, words):  # noqa: ARG001
    """out[c, i] = sum of rows[c, r] (C, R, n) over r with indices[c, r] = i, r ascending from +0.

    Indices from -V on count from the end of the V rows of out; rows of others are left out.
    """
    for c in prange(rows.shape[0]):
        out[c] = np.float32(0)
        for r in range(rows.shape[1]):
            target = _from_the_end(indices[c, r], out.shape[1])
            if target >= 0:
                for j in range(rows.shape[2]):
                    out[c, target, j] = _add(out[c, target, j], rows[c, r, j])
