"""Float32 values by binade: what a scale by a power of two and a rounding would make of them, without either.

Exact: from significands and exponents, as integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from precision.format import Format
from precision.statistics import EXPONENT_BINS, LOWEST_EXPONENT

_HIDDEN = 23  # bits of a float32 significand below the leading one


@dataclass(frozen=True, kw_only=True)
class Binades:
    """Nonzero finite float32 values by floor(log2 |x|) = index - 149: (277,) int64 each.

    total: all of them.  powers: those that are powers of two.  heavy: by name of a format, those whose significand,
    1 <= s < 2, is at or above that at which the format overflows (above it where the tie still fits).

    A power of two times x has the significand of x, so the three tell for any scale how many values overflow, and how
    many become zero: all below half of the smallest subnormal, and half itself, a tie whose even neighbour is zero.
    Exponents alone would not: 65519 and 65520 share theirs, and so do 2^-25 and 1.5 2^-25.
    """

    total: np.ndarray
    powers: np.ndarray
    heavy: dict[str, np.ndarray]

    @classmethod
    def of(cls, x: np.ndarray, formats: tuple[Format, ...]) -> Binades:
        """Of float32 values of any shape; zeros, infinities and NaN are left out.

        formats: floating-point, of at most 22 significand bits.
        """
        index, fraction = _split(x)
        heavy = {fmt.name: _histogram(index[fraction >= _threshold(fmt)[0]]) for fmt in formats}
        return cls(total=_histogram(index), powers=_histogram(index[fraction == 0]), heavy=heavy)

    def underflowed(self, fmt: Format, scale: int) -> int:
        """How many x 2^scale, rounded to nearest even, are zero."""
        edge = fmt.min_subnormal_exponent - 1 - scale - LOWEST_EXPONENT
        return int(self.total[: max(edge, 0)].sum() + self.powers[edge : edge + 1].sum() * (edge >= 0))

    def overflowed(self, fmt: Format, scale: int) -> int:
        """How many x 2^scale, rounded to nearest even as if exponents had no end, exceed the largest finite value."""
        edge = _threshold(fmt)[1] - scale - LOWEST_EXPONENT
        at_edge = self.heavy[fmt.name][edge : edge + 1].sum() * (edge >= 0)
        return int(self.total[max(edge + 1, 0) :].sum() + at_edge)


def _histogram(index: np.ndarray) -> np.ndarray:
    return np.bincount(index, minlength=EXPONENT_BINS)


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(floor(log2 |x|) + 149, the 23 bits below the leading one) of the nonzero finite values."""
    words = np.ascontiguousarray(x, np.float32).reshape(-1).view(np.uint32) & np.uint32(0x7FFFFFFF)
    words = words[(words > 0) & (words < 0x7F800000)]
    subnormal = words < 0x00800000  # an integer count of 2^-149: its float32 is exact and has the same significand
    words = np.where(subnormal, words.astype(np.float32).view(np.uint32), words)
    exponent = (words >> np.uint32(_HIDDEN)).astype(np.int64) - 127
    index = exponent - np.where(subnormal, 0, LOWEST_EXPONENT)
    return index, words & np.uint32(0x7FFFFF)


def _threshold(fmt: Format) -> tuple[int, int]:
    """(f, e): what overflows lies at or above (1 + f 2^-23) 2^e."""
    significand, exponent, tie_stays = overflow_threshold(fmt)
    fraction = int(math.ldexp(significand, _HIDDEN + 1)) - (1 << _HIDDEN) + tie_stays
    return fraction, exponent - 1


# Single values


def largest_exponent(x: float, fmt: Format) -> int:
    """Largest k for which x 2^k, rounded to nearest even as if exponents had no end, is at most the maximum."""
    limit, exponent, tie_stays = overflow_threshold(fmt)
    significand, own = math.frexp(x)
    fits = significand <= limit if tie_stays else significand < limit
    return exponent - own - (not fits)


def overflow_threshold(fmt: Format) -> tuple[float, int, bool]:
    """(s, e, whether s 2^e itself still fits): the tie above the largest finite value, 1/2 <= s < 1."""
    _, top = math.frexp(fmt.maximum)
    half_unit = math.ldexp(1.0, top - 1 - fmt.significand_bits - 1)
    limit, exponent = math.frexp(fmt.maximum + half_unit)
    tie_stays = int(math.ldexp(fmt.maximum, fmt.significand_bits + 1 - top)) % 2 == 0  # an even significand
    return limit, exponent, tie_stays


def smallest_exponent(x: float, fmt: Format) -> int:
    """Smallest k for which x 2^k lies above half of the smallest positive value; half itself rounds to zero."""
    significand, own = math.frexp(x)
    _, half = math.frexp(fmt.min_subnormal / 2)  # 2^(half - 1)
    return half - own + (significand == 0.5)
