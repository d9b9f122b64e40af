"""How large values are, and what every format would lose of them: exact counts, from one pass over float32 values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from precision.backends import get_backend
from precision.binades import Binades
from precision.formats import FP32
from precision.statistics import LOWEST_EXPONENT, Statistics
from qsim.ranges import offered


@dataclass(frozen=True, kw_only=True)
class RangeRow:
    """Values of one place: weights (a parameter's name) or activations (what enters a linear layer, leaves a block).

    layer: None outside the blocks.  lowest, highest: floor(log2 |x|) of the smallest and largest nonzero finite
    magnitude, None where there is none.  exponents: how many values have each, empty ones left out.
    """

    kind: str
    layer: int | None
    place: str
    count: int
    zero: int
    nan: int
    infinite: int
    lowest: int | None
    highest: int | None
    exponents: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """What rounding these values to a format, to nearest even, would lose.

    finite: nonzero finite values.  underflowed: of them, those that become zero;  flushed: those where, besides,
    subnormal results are flushed to zero.  overflowed: beyond the largest finite value.
    """

    kind: str
    layer: int | None
    place: str
    format: str
    finite: int
    underflowed: int
    flushed: int
    overflowed: int


def observed(x: Any, backend: str) -> Statistics:
    """Counts of float32 values, without extremes and squares; two of them add."""
    counts, significands = get_backend(backend).statistics(x, x, FP32)
    return Statistics.from_counts(FP32, x.size, counts, significands)


def range_row(kind: str, layer: int | None, place: str, found: Statistics) -> RangeRow:
    rows = np.flatnonzero(found.exponents)
    exponents = tuple((int(row) + LOWEST_EXPONENT, int(found.exponents[row])) for row in rows)
    return RangeRow(
        kind=kind,
        layer=layer,
        place=place,
        count=found.count,
        zero=found.zero,
        nan=found.nan,
        infinite=found.infinite,
        lowest=exponents[0][0] if exponents else None,
        highest=exponents[-1][0] if exponents else None,
        exponents=exponents,
    )


def loss_rows(kind: str, layer: int | None, place: str, found: Statistics) -> Iterator[LossRow]:
    """In FP32, which loses nothing but flushed subnormal values, and in every registered format of which counts per
    binade tell all (``precision.binades``).

    Integer formats hold no value without a scale: what one would lose is in RMSE and SQNR under a scheme.
    """
    binades = Binades(significands=found.significands)
    finite = int(binades.total.sum())

    def row(name: str, underflowed: int, flushed: int, overflowed: int) -> LossRow:
        return LossRow(
            kind=kind,
            layer=layer,
            place=place,
            format=name,
            finite=finite,
            underflowed=int(underflowed),
            flushed=int(flushed),
            overflowed=int(overflowed),
        )

    yield row(FP32.name, 0, found.subnormal, 0)
    for name, fmt in offered().items():
        kept, flushing = (binades.underflowed(fmt, 0, way) for way in ("keep", "flush"))
        yield row(name, kept, flushing, binades.overflowed(fmt, 0))
