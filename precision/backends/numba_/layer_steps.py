"""What the kernels of whole layers are made of: constants and roundings out of their words, sums of a row.

A layer's words are its constants, float32 patterns, then the seven words of each rounding in turn: those of
``precision.rounding_words``.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np

from precision import rounding_words
from precision.backends.numba_ import scalars
from precision.backends.numba_.inner_functions import inner
from precision.format import CANONICAL_NAN
from precision.formats import FP32

_from_bits, _to_bits = scalars.from_bits, scalars.to_bits
_narrow, _same_range = scalars.narrow, scalars.same_range
_flush = scalars.flush
_flush_pattern = scalars.words["flush_subnormal"]
_order_key, _from_order_key = scalars.words["order_key"], scalars.words["from_order_key"]
_FP32 = FP32.constants
_NAN = np.uint32(CANONICAL_NAN)
_MAGNITUDE, _INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
_AS_IT_IS, _FLOAT32, _BY_ADDITION = rounding_words.AS_IT_IS, rounding_words.FLOAT32, rounding_words.BY_ADDITION
PADDING = np.float32(-0.0)
ROUNDING = rounding_words.WORDS  # words of a rounding
ROWS = 16  # rows that a thread takes at once, with one set of buffers
PIECE = 4096  # elements of a long row that it takes


@inner
def constant(word):
    return _from_bits(np.uint32(word))


@inner
def from_the_end(index, size):
    """An index of -size ... size - 1 as that of 0 ... size - 1, as arrays are read; -1 for any other."""
    if index < 0:
        index += size
    return index if 0 <= index < size else -1


@inner
def padded(n):
    """The power of two that holds the leaves of a tree."""
    size = 1
    while size < n:
        size <<= 1
    return size


@inner
def rounded(x, out, words):
    """out = x rounded as the first words say; out is another array than x.

    (The place of the words as an argument would be a literal, for each of which Numba compiles the function anew.)
    """
    way = words[0]
    first, second = np.uint32(words[1]), np.uint32(words[2])
    overflow_from, overflow = np.uint32(words[3]), np.uint32(words[4])
    nan_from, nan = np.uint32(words[5]), np.uint32(words[6])
    if way == _AS_IT_IS:
        for j in range(x.size):
            out[j] = x[j]
    elif way == _FLOAT32:
        for j in range(x.size):
            u = _to_bits(x[j])
            out[j] = _from_bits(_NAN if np.uint32(u & _MAGNITUDE) > _INFINITY else u)
    elif way == _BY_ADDITION:
        for j in range(x.size):
            out[j] = _from_bits(_narrow(_to_bits(x[j]), first, second, overflow_from, overflow, nan_from, nan))
    else:
        for j in range(x.size):
            out[j] = _from_bits(_same_range(_to_bits(x[j]), first, second, overflow_from, overflow, nan_from, nan))


@inner
def pad(level, n):
    """-0, which changes no sum, from the n-th leaf on."""
    for j in range(n, level.size):
        level[j] = PADDING


@inner
def tree_sum(level, spare):
    """Neighbours (2i, 2i + 1) added until one is left.  level: leaves, flushed; both are overwritten."""
    half = level.size >> 1
    while half > 0:
        for j in range(half):
            spare[j] = _flush(level[2 * j] + level[2 * j + 1])
        level, spare = spare, level
        half >>= 1
    return level[0]


@inner
def sum_of(x, level, spare):
    """The same of any row."""
    for j in range(x.size):
        level[j] = _flush(x[j])
    pad(level, x.size)
    return tree_sum(level, spare)


@inner
def order_key(x):
    """Larger for larger values, subnormals as zeros; largest for NaN."""
    u = _to_bits(x)
    return _order_key(_NAN if np.uint32(u & _MAGNITUDE) > _INFINITY else _flush_pattern(u, _FP32))


@inner
def of_order_key(key):
    return _from_bits(_from_order_key(key))


@inner
def largest(x):
    """The largest value; NaN if there is one."""
    best = np.uint32(0)
    for j in range(x.size):
        best = max(best, order_key(x[j]))
    return of_order_key(best)
