"""What gradients would lose in other formats under other loss scales, exactly, from counts per binade."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from precision.format import Format
from precision.formats import BF16, E4M3FN, E5M2, FP16
from precision.statistics import EXPONENT_BINS, LOWEST_EXPONENT
from qsim.hashing import unstack
from qsim.loss_scales import overflow_threshold

FORMATS = (FP16, BF16, E5M2, E4M3FN)
SCALES = range(-8, 25)  # exponents of two
_HIDDEN = 23  # bits of a float32 significand below the leading one


def what_if(gradients: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By tensor, blocks unstacked: ``count``, ``finite`` (nonzero) and ``formats``.

    ``formats`` holds for each of ``FORMATS`` ``underflowed`` and ``overflowed``: {k: how many values of g 2^k would
    be, rounded to nearest even}, k in ``SCALES``, where there is one.  gradients: host arrays, unscaled.
    """
    return {name: Binades.of(g).as_json() | {"count": int(g.size)} for name, g in sorted(unstack(gradients).items())}


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
    def of(cls, x: np.ndarray, formats: tuple[Format, ...] = FORMATS) -> Binades:
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

    def as_json(self) -> dict[str, Any]:
        formats = [fmt for fmt in FORMATS if fmt.name in self.heavy]
        counted = {
            fmt.name: {
                "underflowed": _occurring({k: self.underflowed(fmt, k) for k in SCALES}),
                "overflowed": _occurring({k: self.overflowed(fmt, k) for k in SCALES}),
            }
            for fmt in formats
        }
        return {"finite": int(self.total.sum()), "formats": counted}


def _occurring(counts: dict[int, int]) -> dict[str, int]:
    return {str(k): n for k, n in counts.items() if n}


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
