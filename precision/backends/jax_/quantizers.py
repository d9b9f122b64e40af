"""Codes, and sums under their scales, by kernels of the Numba back end inside jitted JAX on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from precision.backends import get_backend
from precision.backends.jax_.layers import layer
from precision.backends.jax_.rounding import on_cpu
from precision.quantization import tiles as tiling
from precision.quantization.scheme import QScheme, Tiles

Array = Any


def fused_quantizer(scheme: QScheme, tiles: Tiles) -> Callable[..., tuple[Array, Array]] | None:
    """(x, composed) -> (codes, scales), those of composed(x); None off the CPU, where the kernels do not know the
    scheme, and where a tile is not the whole of one axis."""
    spanned = [axis for axis, edge in enumerate(tiles) if edge != 1]
    if not on_cpu() or len(spanned) != 1 or tiles[spanned[0]] is not None:
        return None
    record = get_backend("numba").quantizers.words_of(scheme)
    if record is None:
        return None
    axis, words = spanned[0], tuple(int(word.view(np.uint32)) for word in record)

    def quantizer(x: Array, composed: Callable[[Array], tuple[Array, Array]]) -> tuple[Array, Array]:
        if x.size == 0:
            return composed(x)
        shape = x.shape
        name, flat = _matrices(shape, axis)

        def reshaped(x: Array) -> tuple[Array, Array]:
            codes, scale = composed(x.reshape(shape))
            return codes.reshape(flat), scale.reshape(flat[:-1] if axis == len(shape) - 1 else (flat[0], flat[2]))

        codes, scale = layer(name, words, reshaped, x.reshape(flat))
        return codes.reshape(shape), scale.reshape(tiling.counts(shape, tiles))

    return quantizer


def _matrices(shape: tuple[int, ...], axis: int) -> tuple[str, tuple[int, ...]]:
    """The kernel for tiles along an axis, and the axes it takes."""
    before, along, after = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    if axis == len(shape) - 1:
        return "quantized_rows", (before, along)
    return "quantized_columns", (before, along, after)


def fused_scaler() -> Callable[..., Array] | None:
    """(sums, x_scale, w_scale, composed) -> (sums x_scale) w_scale, as composed computes it; None off the CPU."""
    return _scale if on_cpu() else None


def _scale(sums: Array, x_scale: Array, w_scale: Array, composed: Callable[..., Array]) -> Array:
    """sums (B, m, n) int32; scales that broadcast: (B, m, 1) and (B, 1, n)."""
    batches, m, n = sums.shape
    rows = jnp.broadcast_to(x_scale, (batches, m, 1))[:, :, 0]
    columns = jnp.broadcast_to(w_scale, (batches, 1, n))[:, 0]

    def spread(sums: Array, rows: Array, columns: Array) -> tuple[Array]:
        return (composed(sums, rows[:, :, None], columns[:, None]),)

    return layer("scaled_sums", (), spread, sums, rows, columns)[0]
