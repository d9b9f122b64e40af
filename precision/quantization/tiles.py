"""Tiles of an array as rows of a matrix: elements that share a scale stand in one row.

    x (n_0, n_1)  ->  (c_0, t_0, c_1, t_1)  ->  rows (c_0 c_1, t_0 t_1),    c_i = ceil(n_i / t_i)

The last tile of an axis that t_i does not divide is filled with zeros.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np

from precision.quantization.scheme import Tiles

Shape = tuple[int, ...]


def own(ndim: int, tiles: Tiles) -> Tiles:
    """Edges along the axes of an array that had those of ``tiles`` before mappings took leading ones away, or stacked
    arrays along new ones."""
    return (1,) * (ndim - len(tiles)) + tiles[max(len(tiles) - ndim, 0) :]


def edges(shape: Shape, tiles: Tiles) -> Shape:
    """Edge of a tile along each axis, as numbers."""
    return tuple(n if t is None else t for n, t in zip(shape, own(len(shape), tiles), strict=True))


def counts(shape: Shape, tiles: Tiles) -> Shape:
    """Tiles along each axis: the shape of the scales.  An axis that is one tile has one, also where it is empty."""
    return tuple(1 if t is None else -(-n // t) for n, t in zip(shape, own(len(shape), tiles), strict=True))


def to_rows(module: Any, x: Any, tiles: Tiles) -> Any:
    """(tiles, elements of a tile)."""
    count, edge = counts(x.shape, tiles), edges(x.shape, tiles)
    missing = [c * t - n for c, t, n in zip(count, edge, x.shape, strict=True)]
    if any(missing):
        x = module.array_module.pad(x, [(0, more) for more in missing])
    split = x.reshape([size for pair in zip(count, edge, strict=True) for size in pair])
    order = [*range(0, 2 * x.ndim, 2), *range(1, 2 * x.ndim, 2)]
    return split.transpose(order).reshape(math.prod(count), math.prod(edge))


def from_rows(module: Any, rows: Any, shape: Shape, tiles: Tiles) -> Any:
    """The array of that shape whose tiles these rows are, or, with rows of one element, its scales spread over it."""
    count, edge = counts(shape, tiles), edges(shape, tiles)
    whole = rows if rows.shape[1:] == (math.prod(edge),) else module.array_module.broadcast_to(
        rows, (rows.shape[0], math.prod(edge))
    )  # fmt: skip
    order = [place for i in range(len(shape)) for place in (i, len(shape) + i)]
    joined = whole.reshape((*count, *edge)).transpose(order)
    padded = joined.reshape([c * t for c, t in zip(count, edge, strict=True)])
    return padded[tuple(slice(n) for n in shape)]


def spread(module: Any, scale: Any, shape: Shape, tiles: Tiles) -> Any:
    """Scales, one a tile, as an array that broadcasts against one of that shape: itself wherever it does already."""
    if all(c in (1, n) for c, n in zip(scale.shape, shape, strict=True)):
        return scale
    return from_rows(module, scale.reshape(-1, 1), shape, tiles)


def owned(shape: Shape, tiles: Tiles) -> np.ndarray:
    """How many elements of each tile are the array's own, not filling: (tiles, 1)."""
    lengths = [
        np.minimum(t, n - t * np.arange(c))
        for n, t, c in zip(shape, edges(shape, tiles), counts(shape, tiles), strict=True)
    ]
    return reduce(np.multiply.outer, lengths, np.ones((), np.int64)).reshape(-1, 1)
