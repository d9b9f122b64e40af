"""How large values are, and what every format would lose of them: exact counts, from one pass over float32 values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import precision as pr
from precision.binades import Binades
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
    """Counts of float32 values; two of them add."""
    return pr.statistics(x, "fp32", backend=backend)


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
    """In every registered format of which counts per binade tell all (``precision.binades``)."""
    binades = Binades(significands=found.significands)
    for name, fmt in offered().items():
        yield LossRow(
            kind=kind,
            layer=layer,
            place=place,
            format=name,
            finite=int(binades.total.sum()),
            underflowed=int(binades.underflowed(fmt, 0)),
            flushed=int(binades.underflowed(fmt, 0, "flush")),
            overflowed=int(binades.overflowed(fmt, 0)),
        )
