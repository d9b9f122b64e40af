"""Which fast loop rounds to nearest even, and the thresholds it takes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from precision.backends.numba_ import rounding_kernels as kernels
from precision.format import CANONICAL_NAN, Format
from precision.rounding_modes import INFINITY, Rounding


class Plan(NamedTuple):
    """A loop of ``rounding_kernels`` and its arguments after the arrays."""

    loop: Any
    arguments: tuple[np.uint32, ...]


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
    overflow_is_nan = f["overflow_positive"] == CANONICAL_NAN
    nan_from = overflow_from if overflow_is_nan else INFINITY + 1
    thresholds = (overflow_from, f["overflow_positive"], nan_from, f["nan"])
    if f["smallest_normal_exponent"] == 1:
        return Plan(kernels.round_same_range, _words(drop, *thresholds))
    # the moved sum must not overflow, and nothing may depend on float32's subnormals, which some processes flush
    if fmt.max_exponent + drop > 127 or fmt.min_subnormal_exponent < -124:
        return None
    base = f["smallest_normal_exponent"] << 23
    return Plan(kernels.round_narrow, _words(base, drop << 23, *thresholds))


def _words(*values: int) -> tuple[np.uint32, ...]:
    return tuple(map(np.uint32, values))
