"""Which fast loop rounds to nearest even, and the thresholds it takes."""

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


def _words(*values: int) -> tuple[np.uint32, ...]:
    return tuple(map(np.uint32, values))
