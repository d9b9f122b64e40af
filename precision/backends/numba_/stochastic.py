"""Which fast loop rounds at random, and its arguments."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from precision.backends.numba_ import rounding_kernels as kernels
from precision.format import CANONICAL_NAN, Format
from precision.rounding_modes import INFINITY, Rounding


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
    words = (f["drop"], lowest, f["smallest"], f["largest"], overflow, nan_from, f["nan"])
    arguments = tuple(map(np.uint32, words))
    if lowest == 1:
        return kernels.stochastic_same_range, arguments
    return (kernels.stochastic_narrow, arguments) if fmt.min_subnormal_exponent >= -90 else None
