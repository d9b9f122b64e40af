"""Loops of rounding.  Arrays arrive flat and contiguous; uint32 arrays hold float32 patterns, uint64 float64 ones."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.inner_functions import inlined
from precision.format import CANONICAL_NAN

_nearest = scalars.words["round_nearest_even"]
_round = scalars.words["round_pattern"]
_encode = scalars.words["encode"]
_decode = scalars.words["decode"]
_threefry = scalars.words["threefry2x32"]
_split = scalars.split
_from_bits = scalars.from_bits
_narrow, _same_range = scalars.narrow, scalars.same_range
_ALL = np.uint32(0xFFFFFFFF)
_NONE = np.uint32(0)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_SIGN = np.uint32(0x80000000)
_EXPONENT, _NAN = np.uint32(0x7F800000), np.uint32(CANONICAL_NAN)
_ONE = np.uint32(1)
_TWO_24 = np.uint32(1 << 24)
_LAST_COUNT = np.uint32(31)  # a shift count masked so stays in 32-bit lanes


@kernel
def round_nearest(u, out, f):
    for i in prange(u.size):
        out[i] = _nearest(u[i], f)


@kernel
def round_float32(u, out):
    """To float32 itself: only a NaN changes, to the canonical one."""
    for i in prange(u.size):
        out[i] = _NAN if np.uint32(u[i] & _MAGNITUDE) > _EXPONENT else u[i]


@kernel
def round_narrow(u, out, base, shift, overflow_from, overflow, nan_from, nan):
    for i in prange(u.size):
        out[i] = _narrow(u[i], base, shift, overflow_from, overflow, nan_from, nan)


@kernel
def round_same_range(u, out, drop, _, overflow_from, overflow, nan_from, nan):
    for i in prange(u.size):
        out[i] = _same_range(u[i], drop, _NONE, overflow_from, overflow, nan_from, nan)


@inlined
def first_word(key0, key1, high, low):
    return _threefry(key0, key1, high, low, _ALL)[0]


@inlined
def finish_stochastic(u, rounded, largest, overflow, overflow_sign, nan):
    """Infinities and NaNs lie beyond the largest value too, whatever was added; a NaN overflow has no sign."""
    sign = np.uint32(u & _SIGN)
    beyond = np.uint32(overflow | np.uint32(sign & overflow_sign))
    rounded = beyond if rounded > largest else np.uint32(rounded | sign)
    return nan if np.uint32(u & _MAGNITUDE) > _EXPONENT else rounded


@inlined
def add_random(magnitude, word, dropped):
    """The dropped bits and the top d bits of the word added, carry into what is kept: with 24 random bits and d <= 24
    dropped ones that is t + r >= 2^24.
    """
    mask = np.uint32(np.uint32(_ONE << dropped) - _ONE)
    addend = np.uint32(np.uint32(word >> _ONE) >> np.uint32(_LAST_COUNT - dropped))
    return np.uint32(np.uint32(magnitude + addend) & np.uint32(~mask))


@kernel
def stochastic_same_range(u, out, key0, key1, high, low, drop, _, _smallest, _scale, largest, overflow, sign, nan):
    """Stochastic rounding with 24 bits, for formats with float32's exponents.  (high, low) + i does not carry."""
    dropped = np.uint32(drop & _LAST_COUNT)
    for i in prange(u.size):
        word = first_word(key0, key1, high, np.uint32(low + np.uint32(i)))
        rounded = add_random(np.uint32(u[i] & _MAGNITUDE), word, dropped)
        out[i] = finish_stochastic(u[i], rounded, largest, overflow, sign, nan)


@kernel
def stochastic_narrow(u, out, key0, key1, high, low, drop, lowest, smallest, scale, largest, overflow, sign, nan):
    """Stochastic rounding with 24 bits, for formats whose smallest value lies in 2^-90 ... 2^-1.

    ``lowest``: biased exponent of the smallest normal value.  ``scale``: pattern of 2^24 / smallest.  Below the
    smallest value, t is the magnitude in units of smallest / 2^24, an exact product, to the nearest even integer.
    """
    for i in prange(u.size):
        magnitude = np.uint32(u[i] & _MAGNITUDE)
        word = first_word(key0, key1, high, np.uint32(low + np.uint32(i)))
        exponent = np.uint32(magnitude >> np.uint32(23))
        exponent = exponent if exponent < lowest else lowest
        dropped = np.uint32(np.uint32(drop + lowest) - exponent)
        near = dropped if dropped < np.uint32(24) else np.uint32(24)
        rounded = add_random(magnitude, word, np.uint32(near & _LAST_COUNT))
        bounded = _from_bits(magnitude if magnitude < smallest else smallest)
        t = np.uint32(np.int32(np.rint(np.float32(bounded * _from_bits(scale)))))
        tiny = smallest if np.uint32(t + np.uint32(word >> np.uint32(8))) >= _TWO_24 else _NONE
        rounded = tiny if magnitude < smallest else rounded
        out[i] = finish_stochastic(u[i], rounded, largest, overflow, sign, nan)


@kernel
def round_directed(u, out, f):
    for i in prange(u.size):
        out[i] = _round(u[i], _NONE, _NONE, f)


@kernel
def round_stochastic(u, out, key0, key1, high, low, f):
    """Element i takes the random word of index (high, low) + i, which does not carry."""
    for i in prange(u.size):
        word = first_word(key0, key1, high, np.uint32(low + np.uint32(i)))
        out[i] = _round(u[i], _NONE, word, f)


@kernel
def round_with_words(u, words, out, f):
    for i in prange(u.size):
        out[i] = _round(u[i], _NONE, words[i], f)


@kernel
def round_double(w, words, out, f):
    """From float64; ``words``: one random word an element, or a single one for modes that take none."""
    many = np.int64(words.size > 1)
    for i in prange(w.size):
        u, extra = _split(w[i])
        # i is unsigned where threads share the loop: signed, or the index would be a float64
        out[i] = _round(np.uint32(u), np.uint32(extra), words[np.int64(i) * many], f)


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
        out[i] = first_word(key0, key1, high, np.uint32(low + np.uint32(i)))


@kernel
def random_words_at(key0, key1, index, out):
    """The word of each uint64 index."""
    for i in prange(out.size):
        out[i] = first_word(
            key0, key1, np.uint32(index[i] >> np.uint64(32)), np.uint32(index[i] & np.uint64(0xFFFFFFFF))
        )
