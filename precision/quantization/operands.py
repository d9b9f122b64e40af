"""Quantized operands of a product as batches of matrices, their scales beside them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from precision.quantization import tiles as tiling
from precision.quantization.array import QArray


class Operand(NamedTuple):
    """Codes (B, p, q) with scales, and zero points or None, that broadcast against them but for groups along k.

    ``largest``: magnitude of a code, its zero point taken off.  ``length``: of a group along k, the last one shorter.
    """

    codes: Any
    scale: Any
    zero_point: Any
    largest: int
    length: int

    @classmethod
    def of(cls, module: Any, q: QArray) -> Operand:
        """Of a quantized array (B, p, q), its scales spread over all but the contraction axis."""
        edges = list(q.own_tiles)
        length = tiling.edges(q.shape, q.own_tiles)[q.axis]
        count = tiling.counts(q.shape, q.own_tiles)
        shape = list(q.shape)
        edges[q.axis], shape[q.axis] = 1, count[q.axis]
        over = tuple(shape), tuple(edges)
        xp = module.array_module
        scale = tiling.spread(module, xp.asarray(q.scale), *over)
        zero = None if q.zero_point is None else tiling.spread(module, xp.asarray(q.zero_point), *over)
        scheme = q.scheme
        largest = max(scheme.largest, -scheme.least) if zero is None else scheme.largest - scheme.least
        return cls(xp.asarray(q.codes), scale, zero, largest, length)

    def group(self, axis: int, i: int, length: int) -> Operand:
        """The i-th group of that length along k.  ValueError where this operand's own groups are others."""
        own, k = self.scale.shape[axis], self.codes.shape[axis]
        if length >= k:
            return self
        if own != 1 and self.length != length:
            raise ValueError(
                f"x and w have groups of {length} and {self.length} along k; quantize both in groups of one length"
            )
        elements = [slice(None)] * 3
        elements[axis] = slice(i * length, (i + 1) * length)
        of_scales = [slice(None)] * 3
        of_scales[axis] = slice(None) if own == 1 else slice(i, i + 1)
        zero = None if self.zero_point is None else self.zero_point[tuple(of_scales)]
        return self._replace(codes=self.codes[tuple(elements)], scale=self.scale[tuple(of_scales)], zero_point=zero)


def left(module: Any, x: QArray) -> Operand:
    """x (..., m, k) as (1, M, k)."""
    whole = Operand.of(module, x)
    rows = math.prod(x.shape[:-1])

    def flat(array: Any) -> Any:
        lead = array.shape[:-1]
        if math.prod(lead) not in (1, rows):
            array = module.array_module.broadcast_to(array, (*x.shape[:-1], array.shape[-1]))
        return array.reshape(1, math.prod(array.shape[:-1]), array.shape[-1])

    zero = None if whole.zero_point is None else flat(whole.zero_point)
    return whole._replace(codes=flat(whole.codes), scale=flat(whole.scale), zero_point=zero)


def right(module: Any, w: QArray) -> Operand:
    """w (k, n) as (1, k, n)."""
    whole = Operand.of(module, w)
    zero = None if whole.zero_point is None else whole.zero_point[None]
    return whole._replace(codes=whole.codes[None], scale=whole.scale[None], zero_point=zero)
