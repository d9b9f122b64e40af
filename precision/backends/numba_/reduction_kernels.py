"""Sums over the rows of matrices by the tree of neighbours, rounded, and scattered rows."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision.backends.numba_ import layer_steps, scalars
from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.inner_functions import inner

_add, _multiply, _flush = scalars.add, scalars.multiply, scalars.flush
_rounded, _ROUNDING = layer_steps.rounded, layer_steps.ROUNDING
_from_the_end = layer_steps.from_the_end
_PADDING = layer_steps.PADDING
_WIDTH = 128  # columns that a thread takes at once


@inner
def _carry(stack, i):
    """The i-th leaf, in ``stack[0, 0]``, joined with the branches that it completes; the result lies at its level.

    Level l holds a finished branch of 2^l leaves where bit l of i is set.
    """
    level = 0
    while i >> level & 1:
        for j in range(stack.shape[2]):
            stack[level + 1, 0, j] = _flush(stack[level, 1, j] + stack[level, 0, j])
        level += 1
    for j in range(stack.shape[2]):
        stack[level, 1, j] = stack[level, 0, j]


@inner
def _finish(stack, leaves, out, words):
    """The branches that are left, the last ones first, and -0 for all leaves that are not there; rounded."""
    total = np.full(stack.shape[2], _PADDING, np.float32)
    level = 0
    while leaves >> level:
        if leaves >> level & 1:
            for j in range(total.size):
                total[j] = _flush(stack[level, 1, j] + total[j])
        level += 1
    _rounded(total, out, words)


@inner
def _stack(leaves, width):
    """For the branches of so many leaves: one arriving and one waiting at each level."""
    levels = 1
    while 1 << levels <= leaves:
        levels += 1
    return np.empty((levels, 2, width), np.float32)


@inner
def _parts(n):
    """How many threads' parts n columns are."""
    return (n + _WIDTH - 1) // _WIDTH


@inner
def _place(part, n):
    """Matrix, first column and the one behind the last of a part."""
    first = part % _parts(n) * _WIDTH
    return part // _parts(n), first, min(first + _WIDTH, n)


@kernel
def column_sums(x, out, words):
    """(C, R, n) -> (C, n).  words: roundings of the terms, of the sums."""
    rows, n = x.shape[1], x.shape[2]
    for part in prange(x.shape[0] * _parts(n)):
        c, first, last = _place(part, n)
        stack, terms = _stack(rows, last - first), np.empty(last - first, np.float32)
        for i in range(rows):
            _rounded(x[c, i, first:last], terms, words)
            for j in range(last - first):
                stack[0, 0, j] = _flush(terms[j])
            _carry(stack, i)
        _finish(stack, rows, out[c, first:last], words[_ROUNDING:])


@kernel
def column_products(x, y, out, words):
    """The same of the products of two arrays.  words: rounding of the sums."""
    rows, n = x.shape[1], x.shape[2]
    for part in prange(x.shape[0] * _parts(n)):
        c, first, last = _place(part, n)
        stack = _stack(rows, last - first)
        for i in range(rows):
            for j in range(last - first):
                stack[0, 0, j] = _multiply(x[c, i, first + j], y[c, i, first + j])
            _carry(stack, i)
        _finish(stack, rows, out[c, first:last], words)


@kernel
def scattered_rows(indices, rows, out, words):  # noqa: ARG001  every layer is given words
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
