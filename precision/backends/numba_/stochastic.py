"""Which fast loop rounds at random, and its arguments."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from precision.backends.numba_ import rounding_kernels as kernels
from precision.format import CANONICAL_NAN, Format
from precision.rounding_modes import SIGN, Rounding, pattern_of


@lru_cache(maxsize=1024)
def stochastic_plan(rounding: Rounding, fmt: Format) -> tuple[Any, tuple[np.uint32, ...]] | None:
    """The fast loop of stochastic rounding with 24 bits and its arguments after key and counter, or None."""
    plain = rounding.stochastic and rounding.random_bits == 24 and rounding.subnormals == "keep"
    if not (plain and fmt.subnormals and fmt.signed_zero) or fmt.significand_bits in (0, 23):
        return None
    f = {name: int(word) for name, word in rounding.words(fmt)._asdict().items()}
    overflow, lowest = f["overflow_positive"], f["smallest_normal_exponent"]
    same_range = lowest == 1
    if not same_range and not -90 <= fmt.min_subnormal_exponent < 0:
        return None
    scale = 0 if same_range else pattern_of(2.0 ** (24 - fmt.min_subnormal_exponent))
    sign = 0 if overflow == CANONICAL_NAN else SIGN
    words = (f["drop"], lowest, f["smallest"], scale, f["largest"], overflow, sign, f["nan"])
    loop = kernels.stochastic_same_range if same_range else kernels.stochastic_narrow
    return loop, tuple(map(np.uint32, words))
