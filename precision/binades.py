"""Float32 values by binade: what a scale by a power of two and a rounding would make of them, without either.

Exact: from significands and exponents, as integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from precision.backends import choose_backend
from precision.format import Format
from precision.formats import FP32
from precision.rounding_modes import Subnormals
from precision.significands import COLUMNS, HIDDEN, MOST_ONES, STARTS
from precision.statistics import LOWEST_EXPONENT


@dataclass(frozen=True, kw_only=True, eq=False)
class Binades:
    """Nonzero finite float32 values by floor(log2 |x|) = row - 149 and column of ``precision.significands``.

    significands: (277, 24), as in ``Statistics``, whose table serves here as it is.

    A power of two times x has the significand of x, so the table tells for any scale how many values overflow, and
    how many become zero: all below half of the smallest subnormal, and half itself, a tie whose even neighbour is
    zero.  Exponents alone would not: 65519 and 65520 share theirs, and so do 2^-25 and 1.5 2^-25.
    Scales: one, or an array of them, of which the counts have the shape.
    Domain: signed floating-point formats with a zero and 1 ... 10 significand bits; FP32, but for flushing.
    Errors: ValueError for another format.
    """

    significands: np.ndarray

    @classmethod
    def of(cls, x: Any) -> Binades:
        """Of float32 values of any shape; zeros, infinities and NaN are left out."""
        backend = choose_backend(x)
        return cls(significands=np.asarray(backend.statistics(x, x, FP32)[1], np.int64))

    @property
    def total(self) -> np.ndarray:
        """(277,), all values of each binade."""
        return np.asarray(self.significands.sum(axis=1))

    @property
    def powers(self) -> np.ndarray:
        """(277,), the powers of two among them."""
        return self.significands[:, 0]

    def underflowed(self, fmt: Format, scale: Any, subnormals: Subnormals = "keep") -> Any:
        """How many x 2^scale, rounded to nearest even, are zero; ``flush``: where subnormal results are."""
        _require(fmt, subnormals)
        if subnormals == "flush":  # rounded first: from half a quantum below the smallest normal value on it is that
            fraction = (1 << HIDDEN) - (1 << HIDDEN - fmt.significand_bits)
            return self._below(fmt.min_normal_exponent - 1 - scale, fraction)
        smallest = fmt.min_subnormal_exponent if fmt.subnormals else fmt.min_normal_exponent
        return self._below(smallest - 1 - scale, 1)

    def overflowed(self, fmt: Format, scale: Any) -> Any:
        """How many x 2^scale, rounded to nearest even as if exponents had no end, exceed the largest finite value."""
        _require(fmt)
        fraction, exponent = _threshold(fmt)
        return self._cumulative[-1] - self._below(exponent - scale, fraction)

    @cached_property
    def _cumulative(self) -> np.ndarray:
        """How many values lie before each cell of the table, row by row, and at the end."""
        return np.concatenate([[0], np.cumsum(self.significands)])

    def _below(self, exponent: Any, fraction: int) -> Any:
        """How many magnitudes lie below (1 + fraction 2^-23) 2^exponent; the fraction is where a column begins."""
        column = STARTS.index(fraction) if fraction < 1 << HIDDEN else COLUMNS
        row = np.asarray(exponent) - LOWEST_EXPONENT
        cell = np.where(row < 0, 0, row * COLUMNS + column)
        return self._cumulative[np.minimum(cell, len(self._cumulative) - 1)]


def tells(fmt: Format) -> bool:
    """Whether counts per binade tell all that the format loses: signed floats of 1 to 10 significand bits."""
    return fmt.signed and fmt.zero and not fmt.is_integer and 1 <= fmt.significand_bits < MOST_ONES


def _require(fmt: Format, subnormals: Subnormals = "keep") -> None:
    if not (tells(fmt) or (fmt == FP32 and subnormals == "keep")):
        raise ValueError(
            f"losses in {fmt.name} cannot be told from counts per binade; "
            "choose a signed floating-point format of 1 to 10 significand bits"
        )


@lru_cache(maxsize=256)
def _threshold(fmt: Format) -> tuple[int, int]:
    """(f, e): what overflows lies at or above (1 + f 2^-23) 2^e."""
    significand, exponent, tie_stays = overflow_threshold(fmt)
    fraction = math.ceil(math.ldexp(significand, HIDDEN + 1)) - (1 << HIDDEN) + tie_stays
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
