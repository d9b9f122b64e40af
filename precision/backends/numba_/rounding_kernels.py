"""Loops of rounding.  Arrays arrive flat and contiguous; uint32 arrays hold float32 patterns, uint64 float64 ones."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numba
import numpy as np
from numba import prange

from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import kernel

_nearest = scalars.words["round_nearest_even"]
_round = scalars.words["round_pattern"]
_encode = scalars.words["encode"]
_decode = scalars.words["decode"]
_threefry = scalars.words["threefry2x32"]
_split = scalars.split
_to_bits, _from_bits = scalars.to_bits, scalars.from_bits
_ALL = np.uint32(0xFFFFFFFF)
_NONE = np.uint32(0)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_SIGN = np.uint32(0x80000000)
_EXPONENT = np.uint32(0x7F800000)
_ONE = np.uint32(1)
_inline = numba.njit(nogil=True, error_model="numpy", forceinline=True)


@kernel
def round_nearest(u, out, f):
    for i in prange(u.size):
        out[i] = _nearest(u[i], f)


@_inline
def narrow(u, base, shift, overflow_from, overflow, nan_from, nan):
    """To nearest even by the float unit, for formats whose exponents lie well inside float32's.

    Adding C = 2^(e + drop), e the exponent of x or of the smallest normal value, moves the format's last bit to
    the last bit of a float32, where the addition rounds it; taking C away again is exact.
    """
    magnitude = u & _MAGNITUDE
    moved = _from_bits(np.uint32(max(magnitude & _EXPONENT, base) + shift))
    rounded = _to_bits(np.float32(np.float32(_from_bits(magnitude) + moved) - moved))
    rounded = overflow if magnitude >= overflow_from else rounded
    return nan if magnitude >= nan_from else np.uint32(rounded | (u & _SIGN))


@_inline
def same_range(u, drop, overflow_from, overflow, nan_from, nan):
    """To nearest even, for formats with float32's exponents: every value loses the same bits, subnormals too."""
    magnitude = u & _MAGNITUDE
    mask = np.uint32((_ONE << drop) - _ONE)
    half = np.uint32(mask >> _ONE)
    rounded = np.uint32(np.uint32(np.uint32(magnitude + half) + np.uint32((magnitude >> drop) & _ONE)) & ~mask)
    rounded = overflow if magnitude >= overflow_from else rounded
    return nan if magnitude >= nan_from else np.uint32(rounded | (u & _SIGN))


@kernel
def round_narrow(u, out, base, shift, overflow_from, overflow, nan_from, nan):
    for i in prange(u.size):
        out[i] = narrow(u[i], base, shift, overflow_from, overflow, nan_from, nan)


@kernel
def round_same_range(u, out, drop, _, overflow_from, overflow, nan_from, nan):
    for i in prange(u.size):
        out[i] = same_range(u[i], drop, overflow_from, overflow, nan_from, nan)


@kernel
def round_directed(u, out, f):
    for i in prange(u.size):
        out[i] = _round(u[i], _NONE, _NONE, f)


@kernel
def round_stochastic(u, out, f, key0, key1, high, low):
    """Element i takes the random word of index (high, low) + i."""
    for i in prange(u.size):
        index = np.uint32(low + np.uint32(i))
        carried = np.uint32(high + np.uint32(index < low))
        out[i] = _round(u[i], _NONE, np.uint32(_threefry(key0, key1, carried, index, _ALL)[0]), f)


@kernel
def round_with_words(u, words, out, f):
    for i in prange(u.size):
        out[i] = _round(u[i], _NONE, words[i], f)


@kernel
def round_double(w, words, out, f):
    """From float64; ``words``: one random word an element, or a single one for modes that take none."""
    many = words.size > 1
    for i in prange(w.size):
        u, extra = _split(w[i])
        out[i] = _round(np.uint32(u), np.uint32(extra), words[i if many else 0], f)


@kernel
def encode_nearest(u, out, f):
    for i in prange(u.size):
        out[i] = _encode(_nearest(u[i], f), f)


@kernel
def encode_rounded(u, out, f):
    for i in prange(u.size):
        out[i] = _encode(u[i], f)


@kernel
def decode(codes, out, f):
    for i in prange(codes.size):
        out[i] = _decode(np.uint32(codes[i]), f)


@kernel
def random_words(key0, key1, high, low, out):
    for i in prange(out.size):
        index = np.uint32(low + np.uint32(i))
        carried = np.uint32(high + np.uint32(index < low))
        out[i] = _threefry(key0, key1, carried, index, _ALL)[0]


@kernel
def random_words_at(key0, key1, index, out):
    """The word of each uint64 index."""
    for i in prange(out.size):
        high, low = np.uint32(index[i] >> np.uint64(32)), np.uint32(index[i] & np.uint64(0xFFFFFFFF))
        out[i] = _threefry(key0, key1, high, low, _ALL)[0]
