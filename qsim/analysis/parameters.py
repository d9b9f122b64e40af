"""What is measured of a model's parameters, layer by layer as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from precision.quantization.array import QArray
from precision.quantization.scheme import MatmulScheme
from qsim.analysis import metrics
from qsim.analysis.histograms import GAIN_BINS, WEIGHT_BINS, HistogramRow, histogram
from qsim.analysis.metrics import Moments, spectral_norm
from qsim.analysis.ranges import LossRow, RangeRow, loss_rows, observed, range_row
from qsim.analysis.reconstruction import reconstructed_weight
from qsim.analysis.results import GainRow, WeightRow
from qsim.importing import Model


@dataclass(kw_only=True)
class ParameterRows:
    """Rows of every kind that parameters have."""

    weights: list[WeightRow] = field(default_factory=list)
    gains: list[GainRow] = field(default_factory=list)
    ranges: list[RangeRow] = field(default_factory=list)
    losses: list[LossRow] = field(default_factory=list)
    histograms: list[HistogramRow] = field(default_factory=list)

    @property
    def gain_std(self) -> dict[tuple[int | None, str], float]:
        """STD(g) by layer and norm."""
        return {(row.layer, row.norm): row.std for row in self.gains}


def parameter_rows(model: Model, scheme: MatmulScheme, backend: str) -> ParameterRows:
    """Of all parameters; linear layers of the blocks are the weights.  One layer is in memory at a time."""
    found = ParameterRows()
    for layer, name, w in _parameters(model):
        counted = observed(w, backend)
        found.ranges.append(range_row("weights", layer, name, counted))
        found.losses += loss_rows("weights", layer, name, counted)
        if name.endswith(".gain"):
            found.gains.append(_gain_row(layer, name.removesuffix(".gain"), w))
            found.histograms.append(histogram(layer, name, w, bins=GAIN_BINS, symmetric=False))
        elif layer is not None and name.endswith(".weight"):
            found.weights.append(_weight_row(layer, name, w, scheme, backend))
            found.histograms.append(histogram(layer, name, w, bins=WEIGHT_BINS, symmetric=True))
    return found


def _parameters(model: Model) -> Iterator[tuple[int | None, str, np.ndarray]]:
    for layer in range(model.config.layers):
        yield from ((layer, name, _values(w)) for name, w in model.layer(layer).items())
    yield from ((None, name, _values(w)) for name, w in model.weights.outer().items())


def _values(w: Any) -> np.ndarray:
    """What codes stand for, where those are kept."""
    return np.asarray(w.dequantize() if isinstance(w, QArray) else w)


def _gain_row(layer: int | None, norm: str, gain: np.ndarray) -> GainRow:
    moments = Moments.of(gain)
    return GainRow(
        layer=layer,
        norm=norm,
        width=gain.size,
        std=float(moments.std),
        mean=float(moments.mean),
        smallest=float(gain.min()),
        largest=float(gain.max()),
        ones=int((gain == 1).sum()),
    )


def _weight_row(layer: int, name: str, w: np.ndarray, scheme: MatmulScheme, backend: str) -> WeightRow:
    moments, norm = Moments.of(w), spectral_norm(w)
    again = reconstructed_weight(w, scheme, backend)
    return WeightRow(
        layer=layer,
        tensor=name,
        rows=w.shape[0],
        columns=w.shape[1],
        spectral_norm=norm.value,
        residual=norm.residual,
        std=float(moments.std),
        kurtosis=float(moments.kurtosis),
        infinity_norm=metrics.infinity_norm(w),
        rmse=None if again is None else metrics.rmse(w, again),
        sqnr_db=None if again is None else metrics.sqnr_db(w, again),
    )
