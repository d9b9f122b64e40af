"""What is measured of a model's parameters, layer by layer as they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
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
from qsim.decoder import Parameters, Weights


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


class ObservedWeights:
    """``Weights`` that measures each part when it is first read, so that nothing is read just to be measured.

    Linear layers of the blocks are the weights among the rows.
    """

    def __init__(self, weights: Weights, scheme: MatmulScheme, backend: str) -> None:
        self._weights, self._scheme, self._backend = weights, scheme, backend
        self._found: dict[int | None, ParameterRows] = {}

    @property
    def found(self) -> ParameterRows:
        """Rows of what has been read: of the blocks, then of what is outside them."""
        rows = ParameterRows()
        for layer in sorted(self._found, key=lambda layer: math.inf if layer is None else layer):
            for kind in fields(ParameterRows):
                getattr(rows, kind.name).extend(getattr(self._found[layer], kind.name))
        return rows

    def outer(self) -> Parameters:
        return self._observed(None, self._weights.outer())

    def layer(self, number: int) -> Parameters:
        return self._observed(number, self._weights.layer(number))

    def _observed(self, layer: int | None, parameters: Parameters) -> Parameters:
        if layer not in self._found:
            self._found[layer] = ParameterRows()
            for name, w in parameters.items():
                if not name.endswith(".limits"):  # of static ranges: no parameter
                    self._add(layer, name, _values(w))
        return parameters

    def _add(self, layer: int | None, name: str, w: np.ndarray) -> None:
        found, counted = self._found[layer], observed(w, self._backend)
        found.ranges.append(range_row("weights", layer, name, counted))
        found.losses += loss_rows("weights", layer, name, counted)
        if name.endswith(".gain"):
            found.gains.append(_gain_row(layer, name.removesuffix(".gain"), w))
            found.histograms.append(histogram(layer, name, w, bins=GAIN_BINS, symmetric=False))
        elif layer is not None and name.endswith(".weight"):
            found.weights.append(_weight_row(layer, name, w, self._scheme, self._backend))
            found.histograms.append(histogram(layer, name, w, bins=WEIGHT_BINS, symmetric=True))


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
    wide = w.astype(np.float64)
    moments, norm = Moments.of(wide), spectral_norm(wide)
    again = reconstructed_weight(w, scheme, backend)
    noise, signal = (None, None) if again is None else (metrics.noise_power(wide, again), metrics.power(wide))
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
        rmse=None if noise is None else metrics.root_mean(noise, w.size),
        sqnr_db=None if noise is None or signal is None else metrics.decibels(signal, noise),
    )
