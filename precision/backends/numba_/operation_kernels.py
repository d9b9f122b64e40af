"""Loops of scalar operations, order and sums.  Flat uint32 arrays hold float32 patterns; ``words`` random bits."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision import operations, ordering, soft_division, soft_float
from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import compile_words, kernel

_words = scalars.words
for _module in (soft_float, soft_division, operations, ordering):
    _words = _words | compile_words(_module, known=_words)
_add, _sub, _mul, _div = _words["add"], _words["sub"], _words["mul"], _words["div"]
_sqrt, _fma = _words["sqrt"], _words["fma"]
_equal_to, _less_than, _less_or_equal = _words["equal_to"], _words["less_than"], _words["less_or_equal"]
_minimum, _maximum = _words["minimum"], _words["maximum"]
_minimum_number, _maximum_number = _words["minimum_number"], _words["maximum_number"]
_NONE = np.uint32(0)


@kernel
def add(u, v, words, out, f):
    for i in prange(u.size):
        out[i] = _add(u[i], v[i], words[i], f)


@kernel
def sub(u, v, words, out, f):
    for i in prange(u.size):
        out[i] = _sub(u[i], v[i], words[i], f)


@kernel
def mul(u, v, words, out, f):
    for i in prange(u.size):
        out[i] = _mul(u[i], v[i], words[i], f)


@kernel
def div(u, v, words, out, f):
    for i in prange(u.size):
        out[i] = _div(u[i], v[i], words[i], f)


@kernel
def sqrt(u, words, out, f):
    for i in prange(u.size):
        out[i] = _sqrt(u[i], words[i], f)


@kernel
def fma(u, v, w, words, out, f):
    for i in prange(u.size):
        out[i] = _fma(u[i], v[i], w[i], words[i], f)


@kernel
def equal_to(u, v, out):
    for i in prange(u.size):
        out[i] = _equal_to(u[i], v[i])


@kernel
def less_than(u, v, out):
    for i in prange(u.size):
        out[i] = _less_than(u[i], v[i])


@kernel
def less_or_equal(u, v, out):
    for i in prange(u.size):
        out[i] = _less_or_equal(u[i], v[i])


@kernel
def minimum(u, v, out):
    for i in prange(u.size):
        out[i] = _minimum(u[i], v[i])


@kernel
def maximum(u, v, out):
    for i in prange(u.size):
        out[i] = _maximum(u[i], v[i])


@kernel
def minimum_number(u, v, out):
    for i in prange(u.size):
        out[i] = _minimum_number(u[i], v[i])


@kernel
def maximum_number(u, v, out):
    for i in prange(u.size):
        out[i] = _maximum_number(u[i], v[i])


@kernel
def sequential(terms, out, f):
    """Sums down the columns of (n, columns), a block of columns at a time; out: the first row."""
    block = 256
    for b in prange((out.size + block - 1) // block):
        stop = min((b + 1) * block, out.size)
        for i in range(1, terms.shape[0]):
            for j in range(b * block, stop):
                out[j] = _add(out[j], terms[i, j], _NONE, f)


@kernel
def kahan(terms, out, f):
    """As ``sequential``, each term less what the addition before it lost."""
    block = 256
    for b in prange((out.size + block - 1) // block):
        stop = min((b + 1) * block, out.size)
        lost = np.zeros(block, np.uint32)
        for i in range(1, terms.shape[0]):
            for j in range(b * block, stop):
                k = j - b * block
                corrected = _sub(terms[i, j], lost[k], _NONE, f)
                total = _add(out[j], corrected, _NONE, f)
                lost[k] = _sub(_sub(total, out[j], _NONE, f), corrected, _NONE, f)
                out[j] = total
