"""Exact event counters, exponent histograms and errors of rounding."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from precision import bits
from precision.format import Format
from precision.significands import COLUMNS

COUNTERS = (
    "zero", "nan", "infinite", "subnormal", "became_subnormal", "underflowed", "overflowed", "saturated", "inexact",
)  # fmt: skip
EXPONENT_BINS = 277  # 2^-149 ... 2^127
LOWEST_EXPONENT = -149
INFINITY = 0x7F800000
BLOCK = 512  # elements that are still in the first-level cache when they are counted
LANES = 64  # partial sums of squares
DIGIT_BITS = 16  # of the digits in which JAX adds counts up


class Tally(NamedTuple):
    """What a back end counts in one pass.  Its fields add, but for the extremes."""

    counts: Any  # in the order of COUNTERS
    significands: Any  # (EXPONENT_BINS, COLUMNS)
    largest: Any  # float32 pattern of the largest finite magnitude; 0 where there is none
    smallest: Any  # of the smallest nonzero one; that of infinity where there is none
    powers: Any  # how many values are finite before and after, sum of their squares, sum of their squared errors


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counts of what happened to the values of a float32 array on their way into a format.

    Fields (exact integers; a value may count in several)
        count: values seen.  zero, nan, infinite, subnormal: such inputs (subnormal: of float32, below 2^-126).
        became_subnormal: results below the format's smallest normal value, not zero; of inputs that already lay
            there, too; none in an integer format.
        underflowed: nonzero inputs, infinite ones among them, that became zero.
        overflowed: finite inputs that, rounded as if exponents had no end, lie beyond the largest finite value of
            their sign; in an unsigned format that is zero below zero, and in E8M0 there is none.
        saturated: overflowed or infinite inputs that became finite.
        inexact: inputs, NaN apart, whose value changed; -0 that became +0 did not.
        compared: inputs that were finite and stayed so.
        significands: (277, 24) int64, how many nonzero finite inputs have floor(log2 |x|) = row - 149 and a
            significand in that column of ``precision.significands``; ``precision.binades`` tells from it what any
            format at any scale would lose.
    exponents: (277,) int64, the sums of its rows.
    Fields (floats)
        largest, smallest: magnitude of the largest and smallest nonzero finite input, exact; 0.0 where there is none.
        signal, noise: sums of x^2 and (round(x) - x)^2 over the compared inputs, in float64; their order differs
            between back ends, and with it their last bits: within ``count`` 2^-52 of the exact sums, relatively.
    Exactness: counters are 64 bits wide on NumPy and Numba (``compared``: 2^53), Python integers once added; JAX
    counts up to 2^31 - 1 values at once and refuses more.
    ``==`` compares format, counters and extremes.
    Errors: ValueError for a sum with the statistics of another format.
    """

    format: str
    count: int
    zero: int
    nan: int
    infinite: int
    subnormal: int
    became_subnormal: int
    underflowed: int
    overflowed: int
    saturated: int
    inexact: int
    compared: int = 0
    largest: float = 0.0
    smallest: float = 0.0
    signal: float = field(default=0.0, compare=False)
    noise: float = field(default=0.0, compare=False)
    significands: np.ndarray = field(repr=False, compare=False)

    @classmethod
    def from_counts(cls, fmt: Format, count: Any, counts: Any, significands: Any, **more: Any) -> Statistics:
        """From a back end's arrays: ``counts`` (9,) in the order of ``COUNTERS``, ``significands`` (277, 24); or all
        three with a first axis of two digits, as JAX adds them up (``precision.backends.jax_.counting``)."""
        named = dict(zip(COUNTERS, map(int, whole(counts, 1)), strict=True))
        return cls(
            format=fmt.name, count=int(whole(count, 0)), significands=whole(significands, 2), **named, **more
        )  # fmt: skip

    @classmethod
    def from_tally(cls, fmt: Format, count: int, tally: Tally) -> Statistics:
        compared, signal, noise = map(float, np.asarray(tally.powers))
        largest, smallest = (np.uint32(pattern) for pattern in (tally.largest, tally.smallest))
        extremes = (float(p.view(np.float32)) if p != INFINITY else 0.0 for p in (largest, smallest))
        largest_value, smallest_value = extremes
        return cls.from_counts(
            fmt, count, tally.counts, tally.significands, compared=int(compared), signal=signal, noise=noise,
            largest=largest_value, smallest=smallest_value,
        )  # fmt: skip

    @property
    def exponents(self) -> np.ndarray:
        return np.asarray(self.significands.sum(axis=1))

    @property
    def sqnr(self) -> float:
        """Signal-to-quantization-noise ratio in dB, 10 log10(signal / noise); NaN where both are zero."""
        if self.noise == 0:
            return math.inf if self.signal else math.nan
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def rmse(self) -> float:
        """Root mean square error, sqrt(noise / compared); NaN where nothing was compared."""
        return math.sqrt(self.noise / self.compared) if self.compared else math.nan

    def __add__(self, other: Statistics) -> Statistics:
        if self.format != other.format:
            raise ValueError(f"statistics of {self.format} and of {other.format} do not add; keep them apart")
        summed = ("count", *COUNTERS, "compared", "signal", "noise", "significands")
        fields = {name: getattr(self, name) + getattr(other, name) for name in summed}
        smallest = [value for value in (self.smallest, other.smallest) if value] or [0.0]
        return Statistics(
            format=self.format, largest=max(self.largest, other.largest), smallest=min(smallest), **fields
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; ``exponents`` as {exponent: count} without the empty bins, ``significands`` as {exponent:
        [count by column]} without them and without zeros at the end.

        Without ``compared`` and the floats where nothing was measured.
        """
        counts = {name: getattr(self, name) for name in ("format", "count", *COUNTERS)}
        if self.compared or self.largest:
            measured = ("compared", "largest", "smallest", "signal", "noise")
            counts |= {name: getattr(self, name) for name in measured}
        rows = [int(row) for row in np.flatnonzero(self.exponents)]
        exponents = {str(row + LOWEST_EXPONENT): int(self.exponents[row]) for row in rows}
        columns = {str(row + LOWEST_EXPONENT): np.trim_zeros(self.significands[row], "b").tolist() for row in rows}
        return counts | {"exponents": exponents, "significands": columns}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Statistics:
        """What ``as_json`` gave, read back; its record must hold ``significands``."""
        significands = np.zeros((EXPONENT_BINS, COLUMNS), np.int64)
        for exponent, columns in record["significands"].items():
            significands[int(exponent) - LOWEST_EXPONENT, : len(columns)] = columns
        plain = {name: value for name, value in record.items() if name not in ("exponents", "significands")}
        return cls(significands=significands, **plain)


def whole(counts: Any, axes: int) -> np.ndarray:
    """Counts of so many axes as int64; of one axis more, the first, they are digits of base 2^16 (``addable``)."""
    found = np.asarray(counts, np.int64)
    return found if found.ndim == axes else found[0] + (found[1] << DIGIT_BITS)


def power_sums(x: np.ndarray, rounded: np.ndarray) -> np.ndarray:
    """(count, sum of x^2, sum of (rounded - x)^2) over the values that are finite before and after.

    Shapes: (n,) and (n,) float32 -> (3,) float64.  Exactness: the count is exact; a square is rounded once, its error
    before it, and NumPy's pairwise sum adds to that.
    """
    kept = np.isfinite(x) & np.isfinite(rounded)
    before, after = x[kept].astype(np.float64), rounded[kept].astype(np.float64)
    return np.array([kept.sum(), np.square(before).sum(), np.square(after - before).sum()])


@lru_cache(maxsize=1024)
def event_thresholds(fmt: Format) -> tuple[np.uint32, np.uint32, np.uint32]:
    """First magnitude of positive and of negative values that, rounded to nearest even as if exponents had no end, is
    beyond the largest one, that of infinity where there is none; smallest normal value, 0 where results are integers.
    """
    f = fmt.constants

    def is_beyond(sign: int, magnitude: int) -> bool:
        word = np.full(1, magnitude, np.uint32)
        return bool(bits.goes_beyond(bits.nearest_even_magnitude(word, f), word, np.full(1, sign, np.uint32), f)[0])

    above, below = (bisect_left(range(INFINITY), True, key=partial(is_beyond, sign)) for sign in (0, 1))
    return np.uint32(above), np.uint32(below), np.uint32(0 if fmt.is_integer else f.smallest_normal)
