"""Histograms of parameters: bins of equal width, symmetric about zero for weights, over their range for gains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

WEIGHT_BINS, GAIN_BINS = 201, 61


@dataclass(frozen=True, kw_only=True)
class HistogramRow:
    """counts[i]: values in bin i of as many equal bins from low to high, its left edge its own, the last bin's both.

    NaN and infinities are in none.  layer: None outside the blocks.
    """

    layer: int | None
    tensor: str
    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def edges(self) -> np.ndarray:
        return np.linspace(self.low, self.high, len(self.counts) + 1)

    @property
    def density(self) -> np.ndarray:
        """Share of the values by bin, over the width of a bin: it integrates to 1."""
        counts = np.array(self.counts, np.float64)
        return counts / (counts.sum() or 1.0) / ((self.high - self.low) / len(counts))


def histogram(layer: int | None, tensor: str, x: np.ndarray, *, bins: int, symmetric: bool) -> HistogramRow:
    """Of the finite values; where these are all alike, over one unit about them."""
    values = np.asarray(x, np.float64).ravel()
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if symmetric:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(values, bins=bins, range=(low, high))
    return HistogramRow(layer=layer, tensor=tensor, low=low, high=high, counts=tuple(map(int, counts)))
