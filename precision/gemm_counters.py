"""What happened inside a matrix product, in exact integers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

# how many events of the kinds counted by row one product can be at the most, and an int32 counter holds
LARGEST_COUNT = (1 << 31) - 1
EVENTS_OF_A_PRODUCT = 4


@dataclass(frozen=True, kw_only=True)
class GemmCounters:
    """Counts over all outputs of a product; integers, equal on every back end.  They add with ``+``.

    Fields
        products: m n k, times the blocks.
        underflowed: products of finite numbers other than 0 that were taken as zero before they were added: an input
            flushed, or the product flushed or rounded to zero.
        swamped: addends other than 0 that changed nothing.  Of an addition of two numbers (a step of a chain, a node
            of a tree, a tile), one where the result is the other; of a truncated fused addition, every term that
            truncation left nothing of; of an exact one of several products, one where s stays what it was.
        misaligned: terms of truncated fused additions that lost bits other than 0 by alignment, those that vanished
            among them; where there are two levels, at each.
        overflowed: additions, and roundings of products, of finite numbers that gave an infinity; under ``exact``
            the one rounding that did; under ``int32`` outputs that wrapped.
        inexact: final roundings, to ``output``, that changed the value; NaN apart.
    Under ``exact`` and ``int32`` nothing else happens than ``overflowed`` and ``inexact`` say; under ``native``
    nobody can tell, and ``matmul`` refuses to count.
    """

    products: Any
    underflowed: Any = 0
    swamped: Any = 0
    misaligned: Any = 0
    overflowed: Any = 0
    inexact: Any = 0

    def __add__(self, other: GemmCounters) -> GemmCounters:
        if not isinstance(other, GemmCounters):
            return NotImplemented
        names = [field.name for field in dataclasses.fields(self)]
        return GemmCounters(**{name: getattr(self, name) + getattr(other, name) for name in names})
