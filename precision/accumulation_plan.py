"""An accumulator and the formats of its operands as the words that ``accumulation`` works with."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from precision.accumulator import Accumulator
from precision.format import CANONICAL_NAN, Format
from precision.formats import FP16
from precision.rounding_modes import BIAS, WIDTH, Constants, pattern_of

_ALL_ONES = {FP16: 0x7FFFE000}  # 0x7FFF in a float32 carrier


class Plan(NamedTuple):
    """Each word an ``np.uint32``, ``sum`` and ``tile`` a ``Constants``."""

    flush_a: Any  # magnitudes below it are read as zero; 0 for none
    flush_b: Any
    flush_start: Any
    flush_products: Any  # 1 where rounded products below the normal range become zero
    flush_sums: Any
    dropped_a: Any  # bits of float32's significand that the format does not have
    dropped_b: Any
    lowest_a: Any  # biased exponent of the smallest normal value
    lowest_b: Any
    lowest_sum: Any
    left: Any  # how a product's and the start's significand are shifted to the alignment: left, then right
    right: Any
    start_left: Any
    start_right: Any
    alignment: Any  # fraction bits kept below the largest exponent
    floor: Any  # smallest alignment exponent, biased by 254; 0 for none
    second: Any  # 1 where the start enters by a second alignment, to this many bits
    second_sum: Any
    second_start: Any
    largest_one: Any  # largest product significand below 2
    positive_zero: Any
    operand_nan: Any
    nan: Any
    sum: Constants
    tile: Constants


@lru_cache(maxsize=256)
def plan_of(accumulator: Accumulator, inputs: tuple[Format, Format]) -> Plan:
    """The words of an ordered accumulator for operands of these formats."""
    a, b = inputs
    words = _operand_words(accumulator, a, b) | _alignment_words(accumulator, a, b) | _result_words(accumulator)
    named: dict[str, Any] = {name: np.uint32(word & 0xFFFFFFFF) for name, word in words.items()}
    how = {"sum": accumulator.how, "tile": accumulator.tile_how}
    return Plan(**named, **{name: rounding.words(accumulator.sum) for name, rounding in how.items()})


def _operand_words(record: Accumulator, a: Format, b: Format) -> dict[str, int]:
    def bound(fmt: Format, flushed: bool) -> int:
        return pattern_of(fmt.min_normal) if flushed else 0

    return {
        "flush_a": bound(a, record.flush_inputs),
        "flush_b": bound(b, record.flush_inputs),
        "flush_start": bound(record.sum, record.flush_start),
        "flush_products": int(record.flush_products),
        "flush_sums": int(record.flush_sums),
        "dropped_a": WIDTH - a.significand_bits,
        "dropped_b": WIDTH - b.significand_bits,
        "lowest_a": a.min_normal_exponent + BIAS,
        "lowest_b": b.min_normal_exponent + BIAS,
        "lowest_sum": record.sum.min_normal_exponent + BIAS,
    }


def _alignment_words(record: Accumulator, a: Format, b: Format) -> dict[str, int]:
    kept = record.alignment or 0
    fraction = a.significand_bits + b.significand_bits
    second_sum, second_start = record.second_alignment or (0, WIDTH)
    return {
        "left": max(kept - fraction, 0),
        "right": max(fraction - kept, 0),
        "start_left": max(kept - WIDTH, 0),
        "start_right": max(WIDTH - kept, 0),
        "alignment": kept,
        "floor": 0 if record.floor is None else record.floor + 2 * BIAS,
        "second": int(record.second_alignment is not None),
        "second_sum": second_sum,
        "second_start": second_start,
        "largest_one": (2 << fraction) - 1,
    }


def _result_words(record: Accumulator) -> dict[str, int]:
    nan = _ALL_ONES.get(record.sum, 0x7FFFFFFF) if record.nan == "all_ones" else CANONICAL_NAN
    return {
        "positive_zero": int(record.zero == "positive"),
        "operand_nan": int(record.nan == "operand"),
        "nan": nan,
    }
