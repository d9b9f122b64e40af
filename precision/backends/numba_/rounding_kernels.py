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
_FRACTION, _HIDDEN, _TWO_24 = np.uint32(0x7FFFFF), np.uint32(1 << 23), np.uint32(1 << 24)
_LAST_COUNT = np.uint32(31)  # a shift count masked so stays in 32-bit lanes
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
    magnitude = np.uint32(u & _MAGNITUDE)
    exponent = np.uint32(magnitude & _EXPONENT)
    exponent = exponent if exponent > base else base
    moved = _from_bits(np.uint32(exponent + shift))
    rounded = _to_bits(np.float32(np.float32(_from_bits(magnitude) + moved) - moved))
    rounded = overflow if magnitude >= overflow_from else rounded
    return nan if magnitude >= nan_from else np.uint32(rounded | (u & _SIGN))


@_inline
def same_range(u, drop, overflow_from, overflow, nan_from, nan):
    """To nearest even, for formats with float32's exponents: every value loses the same bits, subnormals too."""
    magnitude = np.uint32(u & _MAGNITUDE)
    count = np.uint32(drop & _LAST_COUNT)
    mask = np.uint32(np.uint32(_ONE << count) - _ONE)
    half = np.uint32(np.uint32(mask >> _ONE) + np.uint32(np.uint32(magnitude >> count) & _ONE))
    rounded = np.uint32(np.uint32(magnitude + half) & np.uint32(~mask))
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


@_inline
def word_at(key0, key1, high, low, i):
    """The random word of index (high, low) + i."""
    index = np.uint32(low + np.uint32(i))
    carried = np.uint32(high + np.uint32(index < low))
    return np.uint32(_threefry(key0, key1, carried, index, _ALL)[0])


@_inline
def finish_stochastic(u, rounded, largest, overflow, nan_from, nan):
    magnitude = np.uint32(u & _MAGNITUDE)
    beyond = (rounded > largest) | (magnitude >= _EXPONENT)
    rounded = overflow if beyond else rounded
    lost = (magnitude > _EXPONENT) | (beyond & (nan_from <= _EXPONENT))
    return nan if lost else np.uint32(rounded | (u & _SIGN))


@_inline
def add_random(magnitude, word, dropped):
    """The dropped bits and the top d bits of the word added, carry into what is kept: with 24 random bits and d <= 24
    dropped ones that is t + r >= 2^24.
    """
    mask = np.uint32(np.uint32(_ONE << dropped) - _ONE)
    addend = np.uint32(np.uint32(word >> _ONE) >> np.uint32(_LAST_COUNT - dropped))
    return np.uint32(np.uint32(magnitude + addend) & np.uint32(~mask))


@kernel
def stochastic_same_range(u, out, key0, key1, high, low, drop, _, _smallest, largest, overflow, nan_from, nan):
    """Stochastic rounding with 24 bits, for formats with float32's exponents."""
    dropped = np.uint32(drop & _LAST_COUNT)
    for i in prange(u.size):
        rounded = add_random(np.uint32(u[i] & _MAGNITUDE), word_at(key0, key1, high, low, i), dropped)
        out[i] = finish_stochastic(u[i], rounded, largest, overflow, nan_from, nan)


@kernel
def stochastic_narrow(u, out, key0, key1, high, low, drop, lowest, smallest, largest, overflow, nan_from, nan):
    """Stochastic rounding with 24 bits, for formats whose smallest value is at least 2^-90.

    ``lowest``: biased exponent of the smallest normal value.  Below the smallest value, t is the significand shifted
    down to 24 bits below the quantum, to nearest even.
    """
    for i in prange(u.size):
        magnitude = np.uint32(u[i] & _MAGNITUDE)
        word = word_at(key0, key1, high, low, i)
        exponent = np.uint32(magnitude >> np.uint32(23))
        dropped = np.uint32(drop + (np.uint32(lowest - exponent) if exponent < lowest else _NONE))
        near = dropped if dropped < np.uint32(24) else np.uint32(24)
        rounded = add_random(magnitude, word, np.uint32(near & _LAST_COUNT))
        shift = np.uint32(dropped - near)
        shift = np.uint32((shift if shift < np.uint32(25) else np.uint32(25)) & _LAST_COUNT)
        mask = np.uint32(np.uint32(_ONE << shift) - _ONE)
        significand = np.uint32(np.uint32(magnitude & _FRACTION) | _HIDDEN)
        odd = np.uint32(np.uint32(significand >> shift) & np.uint32(mask & _ONE))
        t = np.uint32(np.uint32(significand + np.uint32(np.uint32(mask >> _ONE) + odd)) >> shift)
        up = np.uint32(t + np.uint32(word >> np.uint32(8))) >= _TWO_24
        tiny = smallest if up & (magnitude > _NONE) else _NONE
        rounded = tiny if dropped > np.uint32(23) else rounded
        out[i] = finish_stochastic(u[i], rounded, largest, overflow, nan_from, nan)


@kernel
def round_directed(u, out, f):
    for i in prange(u.size):
        out[i] = _round(u[i], _NONE, _NONE, f)


@kernel
def round_stochastic(u, out, key0, key1, high, low, f):
    """Element i takes the random word of index (high, low) + i."""
    for i in prange(u.size):
        out[i] = _round(u[i], _NONE, word_at(key0, key1, high, low, i), f)


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
        out[i] = word_at(key0, key1, high, low, i)


@kernel
def random_words_at(key0, key1, index, out):
    """The word of each uint64 index."""
    for i in prange(out.size):
        high, low = np.uint32(index[i] >> np.uint64(32)), np.uint32(index[i] & np.uint64(0xFFFFFFFF))
        out[i] = _threefry(key0, key1, high, low, _ALL)[0]
