"""Codes and sums of NumPy arrays times their scales, in one pass each."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from precision.backends.numba_ import scaling_kernels as kernels
from precision.quantization import tiles as tiling
from precision.quantization.scheme import Tiles

Array = np.ndarray
FAR_FROM_SUBNORMAL = np.float32(2.0**-63)  # the product of two is not subnormal; nor, of course, one with 0 or NaN


def fused_dequantizer(tiles: Tiles) -> Callable[[Array, Array], Array] | None:
    """(codes, scales) -> codes scale, or None where tiles span other axes than the last two, and not all."""
    whole = all(edge is None for edge in tiles)
    return partial(_dequantize, tiles) if whole or all(edge == 1 for edge in tiles[:-2]) else None


def _dequantize(tiles: Tiles, codes: Array, scale: Array) -> Array:
    shape, edges = codes.shape, tiling.edges(codes.shape, tiles)
    out = np.empty(shape, np.float32)
    if out.size:
        single = scale.size == 1  # of all axes, or of arrays of one tile
        batches = 1 if single else math.prod(shape[:-2])
        n = shape[-1] if shape else 1
        matrices = (batches, out.size // (batches * n), n)
        high, wide = matrices[1:] if single else (1, 1, *edges)[-2:]
        scales = np.ascontiguousarray(scale, np.float32).reshape(batches, -(-matrices[1] // high), -1)
        kernels.scale_codes(
            np.ascontiguousarray(codes).reshape(matrices), scales, out.reshape(matrices), high, wide, work=out.size
        )
    return out


def fused_scaler() -> Callable[..., Array]:
    """(sums, x_scale, w_scale, composed) -> (sums x_scale) w_scale, as composed computes it, in place of the sums."""
    return _scale


def _scale(sums: Array, x_scale: Array, w_scale: Array, composed: Callable[..., Array] | None = None) -> Array:
    """sums (B, m, n) int32, contiguous; scales that broadcast: (B, m, 1) and (B, 1, n)."""
    del composed
    batches, m, n = sums.shape
    rows = np.ascontiguousarray(np.broadcast_to(x_scale, (batches, m, 1))[:, :, 0])
    columns = np.ascontiguousarray(np.broadcast_to(w_scale, (batches, 1, n))[:, 0])
    plain = all(bool(((scale == 0) | ~(np.abs(scale) < FAR_FROM_SUBNORMAL)).all()) for scale in (rows, columns))
    kernels.scale_sums(sums, rows, columns, plain, work=sums.size)
    return sums.view(np.float32)
