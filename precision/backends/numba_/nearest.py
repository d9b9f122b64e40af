"""Which fast loop rounds to nearest even or at random, and the thresholds it takes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from precision.backends.numba_ import rounding_kernels as kernels
from precision.format import CANONICAL_NAN, Format
from precision.rounding_modes import INFINITY, Rounding, pattern_of


class Plan(NamedTuple):
    """A loop of ``rounding_kernels`` and its arguments after the arrays; what ``tally_nearest`` takes beside them."""

    loop: Any
    arguments: tuple[np.uint32, ...]
    by_addition: bool
    thresholds: tuple[
        np.uint32, ...
    ]  # of the first pattern not zero, of the first not subnormal, of overflow; finite


@lru_cache(maxsize=1024)
def plan(rounding: Rounding, fmt: Format) -> Plan | None:
    """The fast loop for a format, or None: rounding to nearest even, subnormals and both zeros kept.

    A magnitude overflows from a pattern on, whatever lies between: half a quantum above the largest value, itself
    included where that value's last bit is odd.
    """
    plain = rounding.mode == "nearest_even" and rounding.subnormals == "keep" and fmt.subnormals and fmt.signed_zero
    if not plain or fmt.significand_bits in (0, 23):
        return None
    f = {name: int(word) for name, word in rounding.words(fmt)._asdict().items()}
    drop, largest = f["drop"], f["largest"]
    overflow_from = largest + (1 << (drop - 1)) + (1 - (largest >> drop & 1))
    overflow = f["overflow_positive"]
    nan_from = overflow_from if overflow == CANONICAL_NAN else INFINITY + 1
    after = (overflow_from, overflow, nan_from, f["nan"])
    same_range = f["smallest_normal_exponent"] == 1
    # the moved sum must not overflow, and nothing may depend on float32's subnormals, which some processes flush
    if not same_range and (fmt.max_exponent + drop > 127 or fmt.min_subnormal_exponent < -124):
        return None
    # half a quantum below the smallest normal value the tie goes to it; half the smallest value becomes zero
    above_subnormal = pattern_of(fmt.min_normal - fmt.min_subnormal / 2)
    thresholds = _words(f["half_smallest"] + 1, above_subnormal, overflow_from, overflow < INFINITY)
    if same_range:
        return Plan(kernels.round_same_range, _words(drop, 0, *after), False, thresholds)
    base = f["smallest_normal_exponent"] << 23
    return Plan(kernels.round_narrow, _words(base, drop << 23, *after), True, thresholds)


@lru_cache(maxsize=1024)
def stochastic_plan(rounding: Rounding, fmt: Format) -> tuple[Any, tuple[np.uint32, ...]] | None:
    """The fast loop of stochastic rounding with 24 bits and its arguments after key and counter, or None."""
    plain = rounding.stochastic and rounding.random_bits == 24 and rounding.subnormals == "keep"
    if not (plain and fmt.subnormals and fmt.signed_zero) or fmt.significand_bits in (0, 23):
        return None
    f = {name: int(word) for name, word in rounding.words(fmt)._asdict().items()}
    overflow = f["overflow_positive"]
    nan_from = INFINITY if overflow == CANONICAL_NAN else INFINITY + 1
    lowest = f["smallest_normal_exponent"]
    arguments = _words(f["drop"], lowest, f["smallest"], f["largest"], overflow, nan_from, f["nan"])
    if lowest == 1:
        return kernels.stochastic_same_range, arguments
    return (kernels.stochastic_narrow, arguments) if fmt.min_subnormal_exponent >= -90 else None


def _words(*values: int) -> tuple[np.uint32, ...]:
    return tuple(map(np.uint32, values))
