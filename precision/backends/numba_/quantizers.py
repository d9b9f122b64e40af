"""Quantization of NumPy arrays in one go: which schemes and tiles have kernels of their own, and the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from precision.backends.numba_ import quantizer_kernels as kernels
from precision.formats import FP32
from precision.quantization import tiles as tiling
from precision.quantization.scheme import SMALLEST_ABSMAX, QScheme, Tiles

Array = np.ndarray
CACHED = 1 << 17  # float32 that stay in a second-level cache from one reading to the next
NARROW = 512  # columns: rows cut shorter are read slowly
Composed = Callable[[Array], tuple[Array, Array]]
LONG_RUN = 1 << 16  # elements from which threads share a run
PART, LEAST_ROWS = 1 << 14, 64  # elements of a run, or of whole rows and of how many at least, that a thread takes


@lru_cache(maxsize=256)
def fused_quantizer(scheme: QScheme, tiles: Tiles) -> Callable[..., tuple[Array, Array]] | None:
    """(x, composed) -> (codes, scales), those of composed(x), or None where the kernels do not know the scheme, or
    its tiles span several axes."""
    words = words_of(scheme)
    spanned = [axis - len(tiles) for axis, edge in enumerate(tiles) if edge != 1]
    whole = all(edge is None for edge in tiles)
    if words is None or not (whole or len(spanned) <= 1):
        return None
    return partial(_quantize, words, tiles, None if whole else (spanned or [-1])[0])


def words_of(scheme: QScheme) -> kernels.Words | None:
    """What the kernels need, where float32 steps make symmetric codes from an absmax; else None.

    The bounds on threshold and span are those under which no code depends on subnormals: see the kernels.
    """
    plain = (
        scheme.symmetric
        and scheme.clamps
        and scheme.clipping.method == "absmax"
        and scheme.rounding == "nearest_even"
        and scheme.computes_in == scheme.stored_scale == FP32
        and scheme.inverse_format in (None, "fp32")
        and scheme.threshold >= SMALLEST_ABSMAX
        and 1 <= scheme.span <= 128
    )
    of_scale = scheme.tiny in ("least_scale", "one")
    if not plain or scheme.quotient not in (("inverse",) if of_scale else ("bound", "unit", "inverse")):
        return None
    zero, span, threshold = np.float32(0), np.float32(scheme.span), np.float32(scheme.threshold)
    flags = (scheme.scale_step == "division", scheme.scale_step == "absmax", scheme.quotient == "inverse")
    return kernels.Words(
        span,
        np.float32(1 / scheme.span),
        np.float32(scheme.least),
        np.float32(scheme.largest),
        threshold if scheme.tiny == "zero" else zero,
        threshold if scheme.tiny in ("absmax_one", "least_absmax") else zero,
        np.float32(1) if scheme.tiny == "absmax_one" else threshold,
        threshold if of_scale else zero,
        np.float32(1) if scheme.tiny == "one" else threshold,
        *map(np.uint32, (*flags, scheme.quotient == "unit")),
    )


def _quantize(
    words: kernels.Words, tiles: Tiles, axis: int | None, x: Array, composed: Composed | None = None
) -> tuple[Array, Array]:
    """``axis``: the one that tiles span; None: all of them."""
    del composed
    count = tiling.counts(x.shape, tiles)
    *matrices, edge = _layout(x.shape, tiles, axis)
    u = np.ascontiguousarray(x, np.float32).reshape(matrices).view(np.uint32)
    codes, scale = np.empty(matrices, np.int8), np.empty(math.prod(count), np.float32)
    if u.shape[2] == 1:
        _runs(u[:, :, 0], codes[:, :, 0], scale, edge, words)
    else:
        _columns(u, codes, scale, edge, words)
    return codes.reshape(x.shape), scale.reshape(count)


def _layout(shape: tuple[int, ...], tiles: Tiles, axis: int | None) -> tuple[int, int, int, int]:
    """(before, along, after) the axis that tiles span, and the edge of a tile along it."""
    if axis is None:
        size = math.prod(shape)
        return 1, size, 1, size
    place = axis % len(shape)
    before, along, after = math.prod(shape[:place]), shape[place], math.prod(shape[place + 1 :])
    edge = tiling.edges(shape, tiles)[place]
    if edge and along % edge == 0:  # whole tiles: no row holds several
        before, along = before * (along // edge), edge
    return before, along, after, edge


def _runs(u: Array, codes: Array, scale: Array, edge: int, words: kernels.Words) -> None:
    rows, n = u.shape
    if edge == n >= LONG_RUN:
        kernels.quantize_long_runs(u, codes, scale, PART, words)
    else:
        tiles = scale.size // rows if rows else 1
        kernels.quantize_runs(u, codes, scale.reshape(rows, tiles), edge, words)


def _columns(u: Array, codes: Array, scale: Array, edge: int, words: kernels.Words) -> None:
    batches, depth, n = u.shape
    if edge == depth and edge * min(n, NARROW) > CACHED:
        part = max(LEAST_ROWS, PART // n)
        kernels.quantize_long_columns(u, codes, scale.reshape(batches, n), part, words)
    else:
        tiles = scale.size // (batches * n) if batches * n else 1
        width = max(NARROW, CACHED // max(edge, 1))
        kernels.quantize_columns(u, codes, scale.reshape(batches, tiles, n), edge, width, words)
