"""What stands for an operand in a quantized product, and how far that is from it: rounding and clipping, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from precision.backends import get_backend
from precision.quantization import tiles as tiling
from precision.quantization.array import QArray
from precision.quantization.expansions import Terms, added, negated, scaled, sign, terms, where

# Mypy does not follow arrays of booleans into NumPy's own annotations.
Mask = Any


@dataclass(frozen=True, kw_only=True)
class OperandError:
    """x^ = x + rounding + clipping.

    Fields: original, an (m, k) or (k, n) float32 array; stands_for, rounding, clipping: exact sums of that shape.
    """

    original: np.ndarray
    stands_for: Terms
    rounding: Terms
    clipping: Terms

    @property
    def total(self) -> Terms:
        """x^ - x."""
        return added(self.rounding, self.clipping)

    @property
    def approximate(self) -> np.ndarray:
        """x^ - x in float64."""
        return sum(self.total, np.zeros(self.original.shape))


class Codes:
    """The codes of a matrix (or of (..., m, k), flattened) with their scales spread over them."""

    def __init__(self, q: QArray, rows: Any = slice(None)) -> None:
        self.scheme = q.scheme
        self._shape, self._tiles, self._rows = q.shape, q.tiles, rows
        self.codes = self._flat(np.asarray(q.codes)).astype(np.int64)
        zero = 0 if q.zero_point is None else self._spread(q.zero_point).astype(np.int64)
        self.whole = self.codes - zero
        self._zero, self._scale = zero, self._spread(q.scale)

    def _flat(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(math.prod(self._shape[:-1]), self._shape[-1])[self._rows]

    def _spread(self, scale: Any) -> np.ndarray:
        spread = tiling.spread(get_backend("numpy"), np.asarray(scale), self._shape, self._tiles)
        return self._flat(np.broadcast_to(spread, self._shape))

    @property
    def scale(self) -> Terms:
        """What a code is worth: the scale; where that is an absmax, times RN32(1 / span), 48 bits as two terms."""
        if self.scheme.scale_step != "absmax":
            return terms(self._scale)
        worth = self._scale.astype(np.float64) * np.float64(np.float32(1) / np.float32(self.scheme.span))
        high = worth.astype(np.float32).astype(np.float64)
        return worth - high, high

    @property
    def values(self) -> Terms:
        return scaled(self.whole, self.scale)

    def clamped(self, x: np.ndarray) -> Terms:
        """x within what the least and the largest code stand for, wherever the code is that one and has a scale."""
        inside = terms(x)
        if not self.scheme.clamps:
            return inside
        for code, beyond in ((self.scheme.least, -1), (self.scheme.largest, 1)):
            end = scaled(code - self._zero + 0 * self.codes, self.scale)
            outside: Mask = sign(added(terms(x), negated(end))) == beyond
            inside = where(outside & (self.codes == code) & (self._scale > 0), end, inside)
        return inside


def operand_error(
    x: np.ndarray,
    *,
    codes: Codes | None = None,
    cast: np.ndarray | None = None,
    of_cast: Mask = True,
    through_codes: bool = True,
) -> OperandError:
    """x^ is what the codes stand for; ``cast`` where ``of_cast`` holds.

    ``through_codes``: whether the cast values were codes before, and clipped as such.
    """
    is_cast = np.broadcast_to(of_cast if cast is not None else False, x.shape)
    exact = terms(x)
    stands_for = where(is_cast, exact if cast is None else terms(cast), exact if codes is None else codes.values)
    clamped = exact
    if codes is not None:
        clamped = where(is_cast & (not through_codes), exact, codes.clamped(x))
    return OperandError(
        original=x,
        stands_for=stands_for,
        rounding=added(stands_for, negated(clamped)),
        clipping=added(clamped, negated(exact)),
    )
