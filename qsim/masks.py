"""Which positions attend to which, and what ALiBi adds for their distance."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from qsim.sites import Calculator

Array = Any


def causal_mask(ar: Calculator, length: int, earlier: int = 0) -> Array:
    """(T, earlier + T), true where a position may attend: to the earlier ones, and of its own up to itself."""
    return ar.xp.asarray(_allowed(length, earlier))


@lru_cache(maxsize=4)
def _allowed(length: int, earlier: int) -> np.ndarray:
    """The same on the host, for every layer of a pass."""
    allowed = np.tril(np.ones((length, earlier + length), np.bool_), earlier)
    allowed.flags.writeable = False
    return allowed


def masked(ar: Calculator, mask: Array, x: Array) -> Array:
    """x with +0 where the mask excludes it, so that nothing unused is rounded or counted."""
    return ar.xp.where(mask, x, ar.float32.scalar(0))


def alibi_bias(ar: Calculator, slopes: Array, mask: Array) -> Array:
    """-slope (i - j) for query i and key j <= i, one rounding to float32; -0 where i = j or masked.  (H, T, S)

    The queries are those of the last T of S positions.
    """
    place = ar.xp.arange(mask.shape[1], dtype=np.float32)
    distance = masked(ar, mask, place[-len(mask) :, None] - place[None, :])
    return ar.float32.multiply(-slopes[:, None, None], distance)
