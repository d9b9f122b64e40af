"""Every field of every unit's record is held by a bit: a record that differs in one of them fails a case.

Each field is changed to its neighbours and the NumPy back end is run with that record; some result must differ from
the unit's definition.  Changes that cannot show, because they describe the same unit, stand below with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from accumulator_cases import LENGTHS, lengths, longest, solved

import precision as pr
from precision import Accumulator

SILICON = [name for name, record in pr.ACCUMULATORS.items() if record.silicon]
ALTERNATIVES: dict[str, tuple] = {
    "rounding": ("nearest_even", "nearest_away", "toward_zero", "to_odd", "up", "down"),
    "tile_rounding": (None, "nearest_even", "nearest_away", "toward_zero", "to_odd"),
    "overflow": ("ieee", "inf", "saturate"),
    "order": ("ascending", "odd_first", "interleaved_pairs"),
    "chain_order": ("interleaved", "contiguous"),
    "product": ("exact", "rounded"),
    "start": ("first", "last"),
    "zero": ("ieee", "positive"),
    "nan": ("canonical", "all_ones", "operand"),
    "sum": tuple(map(pr.parse_format, ("fp32", "fp16", "bf16", "e8m13"))),
    "compensated": (False, True),
    "flush_inputs": (False, True),
    "flush_start": (False, True),
    "flush_products": (False, True),
    "flush_sums": (False, True),
}


def changes(record: Accumulator) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is changed, and to what."""
    for field, values in ALTERNATIVES.items():
        for value in values:
            if value != getattr(record, field):
                yield f"{field} = {value}", {field: value}
    for by in (-1, 1):
        if record.block is not None:
            longer = tuple((fmt, length + by) for fmt, length in record.blocks)
            yield f"block {by:+}", {"block": record.block + by, "blocks": longer}
        yield f"chains {by:+}", {"chains": record.chains + by}
        yield f"granule {by:+}", {"granule": record.granule + by}
        if record.tile is not None:
            yield f"tile {by:+}", {"tile": record.tile + by}
        if record.alignment is not None:
            yield f"alignment {by:+}", {"alignment": record.alignment + by}
        if record.floor is not None:
            yield f"floor {by:+}", {"floor": record.floor + by}
        if record.second_alignment is not None:
            first, second = record.second_alignment
            yield f"second alignment {by:+}, 0", {"second_alignment": (first + by, second)}
            yield f"second alignment 0, {by:+}", {"second_alignment": (first, second + by)}
    yield "a floor" if record.floor is None else "no floor", {"floor": -20 if record.floor is None else None}
    yield "a tile" if record.tile is None else "one tile", {"tile": 8 if record.tile is None else None}


def mutants(record: Accumulator) -> Iterator[tuple[str, Accumulator]]:
    """Those that are records; an alignment starts in blocks that are fused only."""
    for what, change in changes(record):
        try:
            yield what, dataclasses.replace(record, **change)
        except ValueError:
            continue


def differs(name: str, mutant: Accumulator) -> bool:
    """Whether a case shows it."""
    for inputs in LENGTHS[name]:
        for k in (longest(name, inputs), *lengths(name, inputs)):
            _, batch, expected, _ = solved(name, inputs, k, k != longest(name, inputs))
            a, b, c = (x.view(np.float32) for x in batch)
            result = pr.matmul(a, b, c=c, inputs=inputs, accumulator=mutant, backend="numpy")
            if not np.array_equal(result.view(np.uint32), expected):
                return True
    return False


def of_small_range(record: Accumulator) -> bool:
    """No product, and so no sum of products, is below 2^-126 or near 2^128."""
    return set(record.inputs) <= {"fp16", "e4m3fn", "e5m2"}


def nearest(record: Accumulator) -> bool:
    return record.rounding == "nearest_even"


def fused(record: Accumulator) -> bool:
    return record.product == "exact" and record.block != 1


# What cannot show: the reason, whether it holds of a record, the beginnings of the changes
EQUIVALENT: list[tuple[str, Callable[[Accumulator], bool], tuple[str, ...]]] = [
    ("no tile is added to c where c enters first", lambda r: r.start == "first", ("tile_rounding",)),
    ("None says nearest_even", nearest, ("tile_rounding = nearest_even",)),
    ("one chain takes its products in one order", lambda r: r.chains == 1, ("chain_order",)),
    ("exact products are not rounded", lambda r: r.product == "exact", ("flush_products",)),
    ("nearest goes on to infinity", nearest, ("overflow = ieee", "overflow = inf")),
    ("nothing is aligned", lambda r: r.alignment is None, ("a floor",)),
    ("a zero product has no exponent, and s + 0 is +0", lambda r: r.zero == "positive", ("granule",)),
    ("a block's sum, or its tree, is symmetric in pairs", lambda r: r.granule > 1 and not r.chains > 1
     and (r.block or 1) > 1, ("order = odd_first",)),
    ("no fp8 product is that small", lambda r: set(r.inputs) <= {"e4m3fn", "e5m2"}, ("floor", "no floor")),
    ("such products cannot lift a sum over 2^128", of_small_range, ("overflow",)),
    ("such sums are not subnormal", of_small_range, ("flush_sums = False", "flush_start = False")),
    ("chains from +0 without flushed products never are -0", lambda r: r.start == "last" and of_small_range(r),
     ("granule -1", "granule +1", "zero")),
    # The reference does not read these fields there
    ("additions of two numbers follow IEEE in the sign of zero", lambda r: not fused(r), ("zero",)),
    ("a fused addition hands on no payload", fused, ("nan = operand",)),
    ("sums are flushed below 2^-126 alone", lambda r: r.sum.name == "fp16", ("flush_sums = True",)),
]  # fmt: skip


def equivalent(record: Accumulator, what: str) -> bool:
    return any(holds(record) and what.startswith(changes) for _, holds, changes in EQUIVALENT)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("name", SILICON)
def test_every_field_shows(name: str) -> None:
    record = pr.ACCUMULATORS[name]
    assert not differs(name, record)
    changed = {what: mutant for what, mutant in mutants(record) if not equivalent(record, what)}
    assert len(changed) > 12
    assert [what for what, mutant in changed.items() if not differs(name, mutant)] == []
