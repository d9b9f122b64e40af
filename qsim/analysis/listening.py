"""What a calculator's listener hears of a forward pass, as figures that add up: no activation is kept.

Each sequence is observed by itself and sequences are added in their order, so a batch of them gives the figures that
one at a time would, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from precision.quantization.scheme import MatmulScheme
from precision.statistics import Statistics
from qsim.analysis import metrics
from qsim.analysis.massive import Massive, massive_places, median_magnitude
from qsim.analysis.metrics import Moments
from qsim.analysis.outliers import PLACES, OutlierCounter
from qsim.analysis.ranges import observed
from qsim.analysis.reconstruction import reconstructed_input
from qsim.analysis.results import NORM_BEFORE, PAPER_NAMES, InputRow, OutputRow
from qsim.site_policy import QUANTIZED_SITES

_OUTPUT = "block.output"


@dataclass(kw_only=True)
class InputFigures:
    """Of one linear layer's input; sums are made exactly and rounded once, one term a sequence."""

    tokens: int = 0
    signal: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    token_std: list[float] = field(default_factory=list)
    token_kurtosis: list[float] = field(default_factory=list)
    kurtoses: int = 0  # tokens in which something varies
    moments: Moments | None = None
    channels: Moments | None = None
    counted: Statistics | None = None
    infinity_norm: float = 0.0

    def add(self, x: np.ndarray, scheme: MatmulScheme, backend: str) -> None:
        """x (T, k), a sequence."""
        self.tokens += len(x)
        wide = x.astype(np.float64)
        self.signal.append(metrics.power(wide))
        self.noise.append(metrics.noise_power(wide, reconstructed_input(x, scheme, backend)))
        self._add_tokens(Moments.of(wide, -1))
        whole, channels, counted = Moments.of(wide), Moments.of(wide, 0), observed(x, backend)
        self.moments = whole if self.moments is None else self.moments + whole
        self.channels = channels if self.channels is None else self.channels + channels
        self.counted = counted if self.counted is None else self.counted + counted
        self.infinity_norm = float(np.maximum(self.infinity_norm, metrics.infinity_norm(x)))

    def _add_tokens(self, tokens: Moments) -> None:
        self.token_std.append(float(tokens.std.sum()))
        kurtosis = tokens.kurtosis[tokens.m2 != 0]
        self.token_kurtosis.append(float(kurtosis.sum()))
        self.kurtoses += kurtosis.size

    def row(self, layer: int, site: str, gain_std: float | None) -> InputRow:
        if self.moments is None or self.channels is None:
            raise RuntimeError(f"nothing was heard of {site} in layer {layer}")
        signal, noise = math.fsum(self.signal), math.fsum(self.noise)
        kurtosis = self.channels.kurtosis[self.channels.m2 != 0]
        return InputRow(
            layer=layer,
            site=site,
            paper=PAPER_NAMES.get(site),
            tokens=self.tokens,
            width=self.channels.mean.size,
            rmse=metrics.root_mean(noise, self.moments.count),
            sqnr_db=metrics.decibels(signal, noise),
            token_std=math.fsum(self.token_std) / self.tokens,
            gain_std=gain_std,
            std=float(self.moments.std),
            kurtosis=float(self.moments.kurtosis),
            token_kurtosis=_mean(self.token_kurtosis, self.kurtoses),
            channel_kurtosis=_mean(kurtosis.tolist(), kurtosis.size),
            infinity_norm=self.infinity_norm,
        )


def _mean(terms: Sequence[float], count: int) -> float:
    return math.fsum(terms) / count if count else math.nan


@dataclass(kw_only=True)
class OutputFigures:
    """Of what one block gives out."""

    infinity_norm: float = 0.0
    medians: list[float] = field(default_factory=list)
    massive: list[Massive] = field(default_factory=list)
    counted: Statistics | None = None


class Listener:
    """Set as ``calculator.listener``; ``begin`` each batch and ``end`` it, then take the rows."""

    def __init__(
        self, layers: int, width: int, *, scheme: MatmulScheme, backend: str, thresholds: Sequence[float]
    ) -> None:
        self._scheme, self._backend = scheme, backend
        self.inputs = {(layer, site): InputFigures() for layer in range(layers) for site in QUANTIZED_SITES}
        self.outputs = [OutputFigures() for _ in range(layers)]
        self.outliers = OutlierCounter(layers, width, thresholds)
        self._tokens = np.zeros((0, 0), np.int64)
        self._first = 0
        self._heard: set[tuple[int, str]] = set()

    def begin(self, tokens: np.ndarray) -> None:
        """tokens (B, T), the sequences that follow those begun so far."""
        self._first += len(self._tokens)
        self._tokens, self._heard = tokens, set()

    def end(self) -> None:
        """The batch has been through every layer."""
        self.outliers.end_batch()

    def __call__(self, layer: int | None, place: str, x: np.ndarray) -> None:
        site = place.removesuffix(".input")
        if layer is None or (layer, place) in self._heard or not (place == _OUTPUT or site in QUANTIZED_SITES):
            return  # the head; or what a gated MLP reads, heard before
        self._heard.add((layer, place))
        rows = np.asarray(x).reshape(*self._tokens.shape, -1)
        if place == _OUTPUT:
            for i, sequence in enumerate(rows):
                self._hear_output(layer, i, sequence)
            return
        for sequence in rows:
            self.inputs[layer, site].add(sequence, self._scheme, self._backend)
        if site in PLACES:
            self.outliers.hear(layer, site, rows)

    def _hear_output(self, layer: int, number: int, x: np.ndarray) -> None:
        """x (T, h), of one sequence of the batch."""
        found, median, counted = self.outputs[layer], median_magnitude(x), observed(x, self._backend)
        found.counted = counted if found.counted is None else found.counted + counted
        found.infinity_norm = float(np.maximum(found.infinity_norm, metrics.infinity_norm(x)))
        found.medians.append(median)
        for position, dimension in massive_places(x).tolist():
            found.massive.append(
                Massive(
                    layer=layer,
                    sequence=self._first + number,
                    position=position,
                    token=int(self._tokens[number, position]),
                    dimension=dimension,
                    value=float(x[position, dimension]),
                    median=median,
                )
            )

    def input_rows(self, gain_std: dict[tuple[int | None, str], float]) -> Iterator[InputRow]:
        """gain_std: STD(g) by layer and norm."""
        for (layer, site), figures in self.inputs.items():
            norm = NORM_BEFORE.get(site)
            yield figures.row(layer, site, None if norm is None else gain_std[layer, norm])

    def output_rows(self) -> Iterator[OutputRow]:
        for layer, found in enumerate(self.outputs):
            yield OutputRow(
                layer=layer,
                infinity_norm=found.infinity_norm,
                median=_mean(found.medians, len(found.medians)),
                massive=len(found.massive),
            )

    def counted(self) -> Iterator[tuple[int, str, Statistics]]:
        """(layer, place, counts) of everything heard in the blocks."""
        for (layer, site), figures in self.inputs.items():
            if figures.counted is not None:
                yield layer, f"{site}.input", figures.counted
        for layer, found in enumerate(self.outputs):
            if found.counted is not None:
                yield layer, _OUTPUT, found.counted
