"""``ProductError``: the parts of a quantized product's error, and every figure that is told of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from precision.format import Format
from precision.quantization.operand_error import OperandError
from precision.quantization.products import quantized_matmul
from precision.quantization.scheme import MatmulScheme

PARTS = ("x_rounding", "x_clipping", "w_rounding", "w_clipping", "cross", "output_rounding")
LLM_THRESHOLD = 6.0  # LLM.int8()'s


class OutlierColumns(NamedTuple):
    """What columns of x with a large magnitude cost.

    columns: their indices j, ascending.  shares: their ``column_shares``.
    savings: 1 - ||E'||^2 / ||E||^2, with E' the error once column j alone is kept out of the integer product, and x
    is quantized without it.  together: the same of all of them at once.
    """

    columns: np.ndarray
    shares: np.ndarray
    savings: np.ndarray
    together: float


class Source(NamedTuple):
    """What the product was made of, to make others like it."""

    x: Any
    w: Any
    codes_given: bool
    y: np.ndarray
    backend: str


@dataclass(frozen=True, kw_only=True, eq=False)
class ProductError:
    """E = y - x w of a quantized product y, and its parts.

    Fields: scheme, output: of y.  rows: which rows of x, its leading axes flattened, were analysed; m of them.
    product, total: x w and E, (m, n).  parts: six arrays (m, n) by the names in ``PARTS``; with x^ = x + dx and
    w^ = w + dw what is multiplied, dx = dx_r + dx_c, dw = dw_r + dw_c, rounding and clipping of each,

        x_rounding   dx_r w      x_clipping   dx_c w      cross   dx dw
        w_rounding   x dw_r      w_clipping   x dw_c      output_rounding   y - x^ w^

    which sum to E identically.  Each value of product, total and parts is the exact one rounded once to float32; a
    zero, also a rounded one, is +0.  So |sum of parts - total| <= 2^-24 (|total| + sum of |part|), and 2^-150 for
    each of the seven.
    Figures: float64 of these arrays; norms are Frobenius.  Of no error at all, ratios are 0.
    """

    scheme: MatmulScheme
    output: Format
    rows: np.ndarray = field(repr=False)
    product: np.ndarray = field(repr=False)
    total: np.ndarray = field(repr=False)
    parts: Mapping[str, np.ndarray] = field(repr=False)
    x: OperandError = field(repr=False)
    w: OperandError = field(repr=False)
    source: Source = field(repr=False)

    @property
    def rmse(self) -> float:
        """sqrt(||E||^2 / (m n)); 0 of no values."""
        return math.sqrt(_ratio(_energy(self.total), self.total.size))

    @property
    def sqnr_db(self) -> float:
        """10 log10(||x w||^2 / ||E||^2); infinite without error."""
        signal, noise = _energy(self.product), _energy(self.total)
        if noise == 0:
            return math.inf
        return 10 * math.log10(signal / noise) if signal else -math.inf

    @property
    def relative(self) -> float:
        """||E|| / ||x w||."""
        return math.sqrt(_ratio(_energy(self.total), _energy(self.product)))

    @property
    def relative_parts(self) -> dict[str, float]:
        """||part|| / ||x w||."""
        signal = _energy(self.product)
        return {name: math.sqrt(_ratio(_energy(part), signal)) for name, part in self.parts.items()}

    @property
    def shares(self) -> dict[str, float]:
        """<part, E> / ||E||^2, which sum to 1 but for the rounding of parts; negative where one cancels others."""
        noise = _energy(self.total)
        return {name: float(_ratio(_inner(part, self.total), noise)) for name, part in self.parts.items()}

    def table(self) -> str:
        """Norms of the parts relative to ||x w||, and their shares, a line each."""
        norms, shares = self.relative_parts, self.shares
        rows = [(name, norms[name], share) for name, share in shares.items()]
        rows.append(("total", self.relative, sum(shares.values())))
        lines = [f"{'part':<16}{'relative':>12}{'share':>10}"]
        lines += [f"{name:<16}{norm:>12.4e}{share:>z10.4f}" for name, norm, share in rows]
        return "\n".join(lines)

    @property
    def worst_row(self) -> tuple[int, float]:
        """(i, ||E_i|| / ||(x w)_i||) of the row where that is largest; i as in ``rows``.  ValueError of no rows."""
        i, error = _worst(self.total, self.product, 1)
        return int(self.rows[i]), error

    @property
    def worst_column(self) -> tuple[int, float]:
        """The same of columns."""
        return _worst(self.total, self.product, 0)

    @property
    def column_shares(self) -> np.ndarray:
        """(k,): <E_j, E> / ||E||^2, with E_j = x^_j w^_j - x_j w_j of column j of x and row j of w.

        The E_j sum to x^ w^ - x w, so the shares sum to 1 minus the share of the output's rounding: exactly, of the
        exact E; within 2^-22 of that, of E as it is here.
        """
        error, (x, dx, w, dw) = self.total.astype(np.float64), self._operands
        inner = (dx * (error @ w.T)).sum(axis=0) + ((x + dx) * (error @ dw.T)).sum(axis=0)
        return _ratio(inner, _energy(self.total))

    @property
    def column_energy(self) -> np.ndarray:
        """(k,): ||E_j||^2, as dx_j w_j + x^_j dw_j."""
        x, dx, w, dw = self._operands
        x = x + dx
        energy = _squares(dx, 0) * _squares(w, 1) + _squares(x, 0) * _squares(dw, 1)
        return np.maximum(energy + 2 * (dx * x).sum(axis=0) * (w * dw).sum(axis=1), 0)

    @property
    def _operands(self) -> tuple[np.ndarray, ...]:
        return (
            self.x.original.astype(np.float64),
            self.x.approximate,
            self.w.original.astype(np.float64),
            self.w.approximate,
        )

    def outlier_columns(self, threshold: float = LLM_THRESHOLD) -> OutlierColumns:
        """Columns of x, all its rows, that hold a magnitude of at least the threshold, and what they cost.

        ``savings`` are of the products that ``quantized_matmul(..., apart=)`` gives, one for each column.
        Errors: ValueError for a scheme that is no integer product, and where codes of x were given.
        """
        source, flat = self.source, np.abs(np.asarray(self.source.x)).reshape(-1, self.x.original.shape[1])
        if source.codes_given:
            raise ValueError("codes of x were given, and say nothing of x without some columns; pass x alone")
        large = (flat >= np.float32(threshold)).any(axis=0)
        columns = np.flatnonzero(large)
        masks = [np.arange(len(large)) == j for j in columns]
        savings = np.array([self._saving(mask) for mask in masks])
        return OutlierColumns(columns, self.column_shares[columns], savings, float(self._saving(large)))

    def _saving(self, apart: np.ndarray) -> float:
        source = self.source
        y = quantized_matmul(
            source.x, source.w, scheme=self.scheme, output=self.output, apart=apart, backend=source.backend
        )
        every_row = np.asarray(y).reshape(math.prod(y.shape[:-1]), y.shape[-1])
        other = every_row[self.rows].astype(np.float64)
        noise = _energy(self.total)
        return _ratio(noise - _energy(other - source.y + self.total), noise)


# Figures


def _energy(x: np.ndarray) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def _inner(x: np.ndarray, y: np.ndarray) -> float:
    return float((x.astype(np.float64) * y).sum())


def _squares(x: np.ndarray, axis: int) -> np.ndarray:
    return np.square(x, dtype=np.float64).sum(axis=axis)


def _ratio(part: Any, whole: float) -> Any:
    """part / whole; 0 / 0 is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(part, 0), 0.0, np.divide(part, whole))[()]


def _worst(error: np.ndarray, reference: np.ndarray, axis: int) -> tuple[int, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = _squares(error, axis)
        ratios = np.where(squares == 0, 0.0, squares / _squares(reference, axis))
    i = int(ratios.argmax())
    return i, math.sqrt(ratios[i])
