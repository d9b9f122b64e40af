"""Exact event counters and exponent histograms of rounding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from precision.formats import Format, parse_format

COUNTERS = ("zero", "nan", "infinite", "subnormal", "underflowed", "overflowed", "inexact")
EXPONENT_BINS = 277  # 2^-149 ... 2^127
LOWEST_EXPONENT = -149


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counts of what happened to the values of a float32 array on their way into a format.

    Fields (exact integers)
        count: values seen.  zero, nan, infinite: such inputs.
        subnormal: results below the smallest normal value, not zero.
        underflowed: nonzero inputs that became zero.
        overflowed: finite inputs that rounded beyond the largest finite value.
        inexact: inputs that changed.
        exponents: (277,) int64, how many nonzero finite inputs have floor(log2 |x|) = index - 149.
    """

    format: str
    count: int
    zero: int
    nan: int
    infinite: int
    subnormal: int
    underflowed: int
    overflowed: int
    inexact: int
    exponents: np.ndarray = field(repr=False, compare=False)

    @classmethod
    def from_counts(cls, fmt: Format, count: int, counts: Any, exponents: Any) -> Statistics:
        """From a back end's arrays: ``counts`` in the order of ``COUNTERS``."""
        named = dict(zip(COUNTERS, map(int, np.asarray(counts)), strict=True))
        return cls(format=fmt.name, count=count, exponents=np.asarray(exponents, np.int64), **named)

    def __add__(self, other: Statistics) -> Statistics:
        if self.format != other.format:
            raise ValueError(f"statistics of {self.format} and of {other.format} do not add; keep them apart")
        counts = {name: getattr(self, name) + getattr(other, name) for name in ("count", *COUNTERS)}
        return Statistics(format=self.format, exponents=self.exponents + other.exponents, **counts)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; ``exponents`` as {exponent: count} without the empty bins."""
        counts = {name: getattr(self, name) for name in ("format", "count", *COUNTERS)}
        bins = np.flatnonzero(self.exponents)
        return counts | {"exponents": {str(i + LOWEST_EXPONENT): int(self.exponents[i]) for i in bins}}


def statistics(x: Any, fmt: str | Format, *, backend: str | None = None) -> Statistics:
    """Statistics of rounding x (float32, any shape) to a format, nearest even.

    Errors: ValueError for an unknown format or a dtype that float32 cannot hold exactly.
    """
    from precision.backends import choose_backend
    from precision.rounding import as_float32

    fmt = parse_format(fmt)
    module = choose_backend(x, backend=backend)
    x = as_float32(module, x)
    return Statistics.from_counts(fmt, x.size, *module.statistics(x, module.round_to(x, fmt), fmt))
