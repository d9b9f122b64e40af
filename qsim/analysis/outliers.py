"""Outlier dimensions by every reading of LLM.int8()'s criterion.

Dettmers, Lewis, Belkada and Zettlemoyer (2022), section 4.1: a feature dimension with |x| of at least 6.0 in at
least 25 % of the layers and 6 % of the sequence positions, at the inputs of the projections of attention (query, key,
value, output) and of the first layer of the feed-forward network.  What is a layer, and of what the 6 % are, can be
read in several ways; each is a record here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, Literal, get_args

import numpy as np

PLACES = ("qkv", "attention_out", "mlp_up")  # inputs that the criterion looks at
Positions = Literal["pairs", "unique", "within"]
Layers = Literal["block", "linear", "input"]
Comparison = Literal["at_least", "more_than"]
Scope = Literal["pooled", "sequence"]
COMPARISONS: tuple[Comparison, ...] = get_args(Comparison)
_OF_LINEAR = (3, 1, 1)  # linear layers that read an input: query, key and value; output; first of the MLP


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to read the criterion.

    positions: of what 6 % are affected: ``pairs`` of layer and position;  ``unique`` positions, affected in any
        layer;  ``within``: of the positions of a layer, which else is none of the 25 %.
    layers: ``block``: affected at any of its three inputs;  ``linear`` layers, five a block, of which query, key and
        value read one input;  ``input``: those three a block.
    comparison: of magnitude and both shares: ``at_least`` or ``more_than``.
    scope: ``pooled``: all positions of all sequences together;  ``sequence``: each sequence by itself.
    """

    positions: Positions
    layers: Layers
    comparison: Comparison
    scope: Scope
    layer_share: Fraction = Fraction(25, 100)
    position_share: Fraction = Fraction(6, 100)

    @property
    def name(self) -> str:
        return f"{self.positions}/{self.layers}/{self.comparison}/{self.scope}"


READINGS: tuple[Reading, ...] = tuple(
    Reading(positions=positions, layers=layers, comparison=comparison, scope=scope)
    for positions, layers, comparison, scope in product(
        get_args(Positions), get_args(Layers), COMPARISONS, get_args(Scope)
    )
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """At how many positions each dimension is affected, under one comparison with one threshold; counts add.

    positions: all there are.  inputs: (L, 3, d) by block and input.  blocks: (L, d), at any input of a block.
    unique: (d,), at any input of any block.
    """

    positions: int
    inputs: np.ndarray
    blocks: np.ndarray
    unique: np.ndarray

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            positions=self.positions + other.positions,
            inputs=self.inputs + other.inputs,
            blocks=self.blocks + other.blocks,
            unique=self.unique + other.unique,
        )

    def by_layer(self, layers: Layers) -> np.ndarray:
        """(layers in that sense, d)."""
        if layers == "block":
            return self.blocks
        times = _OF_LINEAR if layers == "linear" else (1, 1, 1)
        return np.repeat(self.inputs, times, axis=1).reshape(-1, self.inputs.shape[-1])


def outlier_dimensions(counts: Counts, reading: Reading) -> np.ndarray:
    """Ascending numbers of the dimensions that are outliers; exact, shares compared as integers."""
    by_layer, most = counts.by_layer(reading.layers), reading.comparison
    affected = by_layer > 0
    if reading.positions == "within":
        affected &= _reaches(by_layer, counts.positions, reading.position_share, most)
        return np.flatnonzero(_reaches(affected.sum(axis=0), len(by_layer), reading.layer_share, most))
    pairs = reading.positions == "pairs"
    seen = by_layer.sum(axis=0) if pairs else counts.unique
    whole = counts.positions * (len(by_layer) if pairs else 1)
    often = _reaches(seen, whole, reading.position_share, most)
    return np.flatnonzero(often & _reaches(affected.sum(axis=0), len(by_layer), reading.layer_share, most))


def _reaches(part: np.ndarray, whole: int, share: Fraction, comparison: Comparison) -> np.ndarray:
    """part / whole >= share, or >."""
    left, right = part.astype(np.int64) * share.denominator, whole * share.numerator
    return left >= right if comparison == "at_least" else left > right


@dataclass(frozen=True, kw_only=True)
class OutlierRow:
    """What one reading finds at one threshold.

    count: of dimensions; by sequence, the mean over sequences.  dimensions: each with the number of sequences in
    which it is one, all of them where they are pooled.
    """

    reading: str
    threshold: float
    count: float
    dimensions: tuple[tuple[int, int], ...]


class OutlierCounter:
    """Hears the inputs of one batch after the other, block by block; keeps counts, no activation beyond its batch.

    width: of the widest input; a narrower one has the first of the dimensions.  thresholds: of magnitude.
    """

    def __init__(self, layers: int, width: int, thresholds: Sequence[float]) -> None:
        self.layers, self.width, self.thresholds = layers, width, tuple(thresholds)
        self._keys = list(product(self.thresholds, COMPARISONS))
        self._pooled: dict[tuple[float, Comparison], Counts] = {}
        self._found: dict[tuple[float, str], list[np.ndarray]] = {}
        self._batch: _Batch | None = None

    def hear(self, layer: int, place: str, x: np.ndarray) -> None:
        """x (B, T, k): an input of a block, in the order of ``PLACES``."""
        if self._batch is None:
            self._batch = _Batch(self.layers, self.width, x.shape, self._keys)
        self._batch.hear(layer, PLACES.index(place), x)

    def end_batch(self) -> None:
        """Every block of the batch has been heard."""
        if self._batch is None:
            return
        for key, counts in self._batch.counts():
            self._pooled[key] = self._pooled[key] + counts if key in self._pooled else counts
            for reading in READINGS:
                if reading.scope == "sequence" and reading.comparison == key[1]:
                    found = self._found.setdefault((key[0], reading.name), [])
                    found.append(outlier_dimensions(counts, reading))
        self._batch = None

    def rows(self) -> Iterator[OutlierRow]:
        """Every reading at every threshold, once a batch has ended."""
        for threshold, reading in product(self.thresholds, READINGS):
            if reading.scope == "sequence":
                found = self._found[threshold, reading.name]
            else:
                found = [outlier_dimensions(self._pooled[threshold, reading.comparison], reading)]
            dimensions, times = np.unique(np.concatenate(found), return_counts=True)
            yield OutlierRow(
                reading=reading.name,
                threshold=threshold,
                count=sum(map(len, found)) / len(found),
                dimensions=tuple(zip(dimensions.tolist(), times.tolist(), strict=True)),
            )


class _Batch:
    """Counts of a batch while its blocks go by: magnitudes are compared, and their maxima over inputs kept."""

    def __init__(self, layers: int, width: int, shape: tuple[int, ...], keys: Sequence[Any]) -> None:
        self._keys, (self._sequences, self._length, _) = keys, shape
        self._inputs = np.zeros((len(keys), self._sequences, layers, len(PLACES), width), np.int32)
        self._blocks = np.zeros((len(keys), self._sequences, layers, width), np.int32)
        self._of_block = np.zeros((self._sequences, self._length, width), np.float32)
        self._of_all = np.zeros_like(self._of_block)

    def hear(self, layer: int, place: int, x: np.ndarray) -> None:
        size, k = np.abs(x), x.shape[-1]
        self._inputs[:, :, layer, place, :k] = self._counted(size)
        np.fmax(self._of_block[..., :k], size, out=self._of_block[..., :k])
        if place == len(PLACES) - 1:
            self._blocks[:, :, layer] = self._counted(self._of_block)
            np.fmax(self._of_all, self._of_block, out=self._of_all)
            self._of_block[:] = 0

    def _counted(self, size: np.ndarray) -> list[np.ndarray]:
        """Positions (B, d) of each threshold and comparison; thresholds are float64, so are comparisons."""
        return [
            (size >= np.float64(threshold) if most == "at_least" else size > np.float64(threshold)).sum(axis=1)
            for threshold, most in self._keys
        ]

    def counts(self) -> Iterator[tuple[tuple[float, Comparison], Counts]]:
        """Of each key and sequence."""
        unique = self._counted(self._of_all)
        for i, key in enumerate(self._keys):
            for s in range(self._sequences):
                yield (
                    key,
                    Counts(
                        positions=self._length,
                        inputs=self._inputs[i, s].astype(np.int64),
                        blocks=self._blocks[i, s].astype(np.int64),
                        unique=unique[i][s].astype(np.int64),
                    ),
                )
