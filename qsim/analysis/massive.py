"""Massive activations: values that dwarf all others of their hidden state.

Source: Sun, Chen, Kolter and Liu, Massive Activations in Large Language Models (2024), section 2: magnitude above 100
and about 1,000 times the median magnitude of the hidden state or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST, TIMES = 100.0, 1000.0


@dataclass(frozen=True, kw_only=True)
class Massive:
    """A value of a block's output: of which layer, sequence, position and dimension, and the token read there.

    median: of the magnitudes of that layer's output over the whole sequence.
    """

    layer: int
    sequence: int
    position: int
    token: int
    dimension: int
    value: float
    median: float

    @property
    def ratio(self) -> float:
        """|value| / median; infinite over a median of zero."""
        return abs(self.value) / self.median if self.median else float("inf")


def median_magnitude(x: Any) -> float:
    """Median of |x| over all values; of an even number of them, the mean of the middle two."""
    return float(np.median(np.abs(np.asarray(x, np.float64))))


def massive_places(x: Any, *, least: float = LEAST, times: float = TIMES) -> np.ndarray:
    """(M, 2) position and dimension of |x| > least and |x| > times the median magnitude, of (T, h), row by row.

    A value that is not finite is none; with a NaN among them the median is NaN, and nothing is massive.
    """
    size = np.abs(np.asarray(x, np.float64))
    with np.errstate(invalid="ignore"):
        return np.argwhere((size > least) & (size > times * median_magnitude(x)) & np.isfinite(size))
