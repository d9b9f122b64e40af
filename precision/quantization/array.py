"""``QArray``: integer codes with their scales, as one array."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from precision.backends import choose_backend
from precision.formats import FP32
from precision.quantization import tiles as tiling
from precision.quantization.scheme import VECTOR, QScheme, Tiles


@dataclass(frozen=True, kw_only=True)
class QArray:
    """Integer codes with a scale for each tile: x is about ``(codes - zero_point) * scale``.

    Shapes: codes any, int8 whatever their width (int16 where the scheme does not clamp); scale float32, a value of
    ``scheme.stored_scale``, one for each tile: ceil(n / edge) along every axis, 1 where a tile spans it; zero_point
    int32 of the same shape, or None.
    ``axis``, negative, is the contraction axis (-1 of X, -2 of W).  ``tiles``: edges of a tile along each axis, None
    for the whole of it; by default one vector along ``axis``.
    A pytree once the JAX back end is loaded.  Indexing takes slices and integers; a slice along an axis that several
    tiles share begins at a tile's first element.
    """

    codes: Any
    scale: Any
    zero_point: Any = None
    axis: int = -1
    tiles: Tiles = ()
    scheme: QScheme = VECTOR

    def __post_init__(self) -> None:
        if not self.tiles and hasattr(self.codes, "ndim"):
            object.__setattr__(self, "tiles", self.scheme.tiles(self.codes.ndim, self.axis))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.scheme.code_dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the codes packed to their width, of the scales in their format and of zero points as codes."""
        width = self.scheme.bits if self.scheme.bits in (2, 4) else 8
        scales = math.prod(self.scale.shape)
        zeros = 0 if self.zero_point is None else scales
        return -(-self.size * width // 8) + scales * self.scheme.stored_scale.bits // 8 + zeros

    @cached_property
    def _module(self) -> Any:
        return choose_backend(self.codes)

    def dequantize(self, *, backend: str | None = None) -> Any:
        """(codes - zero_point) * scale, one rounding a value to the scheme's ``arithmetic``; subnormals flushed.

        Where the scale is the absmax itself, times RN32(1 / bound) in a second step.
        """
        module, fmt = choose_backend(self.codes, backend=backend), self.scheme.computes_in
        fused = module.fused_dequantizer(self.own_tiles) if self.zero_point is None else None
        if fused is not None:
            values = fused(self.codes, self.scale)
        else:
            values = module.multiply(self._whole(module), module.asarray(self._spread(module, self.scale)))
        if self.scheme.scale_step == "absmax":
            values = module.multiply(values, np.float32(1) / np.float32(self.scheme.span))
        return values if fmt == FP32 else module.round_to(values, fmt)

    def _whole(self, module: Any) -> Any:
        """codes - zero_point as float32."""
        whole = module.asarray(self.codes)
        return whole if self.zero_point is None else whole - module.asarray(self._spread(module, self.zero_point))

    def _spread(self, module: Any, scale: Any) -> Any:
        return tiling.spread(module, module.array_module.asarray(scale), self.shape, self.tiles)

    def _each(self, function: Any) -> dict[str, Any]:
        """codes, scale and zero_point through a function of (array, whether it has one element a tile)."""
        zero = None if self.zero_point is None else function(self.zero_point, True)
        return {"codes": function(self.codes, False), "scale": function(self.scale, True), "zero_point": zero}

    # Axes

    def transpose(self, *axes: int) -> QArray:
        """Axes in another order, reversed by default; no value changes."""
        order = [a % self.ndim for a in axes] if axes else list(range(self.ndim))[::-1]
        own = self.own_tiles
        moved = self._each(lambda x, _: x.transpose(order))
        axis = order.index(self.axis % self.ndim) - self.ndim
        return replace(self, axis=axis, tiles=tuple(own[i] for i in order), **moved)

    @property
    def T(self) -> QArray:
        return self.transpose()

    def swapaxes(self, first: int, second: int) -> QArray:
        order = list(range(self.ndim))
        order[first], order[second] = order[second], order[first]
        return self.transpose(*order)

    @property
    def own_tiles(self) -> Tiles:
        """``tiles`` without those of axes that a mapping took away."""
        return self.tiles[len(self.tiles) - self.ndim :]

    # Parts

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> QArray:
        """The part of codes and scales.  IndexError or ValueError, in a sentence, for what would cut a tile."""
        places = _full_index(index, self.ndim)
        kept = [i for i, place in enumerate(places) if isinstance(place, slice)]
        if self.axis % self.ndim not in kept:
            raise IndexError(f"axis {self.axis} is the contraction axis; take a slice of it, not one element")
        counts = tiling.counts(self.shape, self.tiles)
        of_scales = tuple(
            _tile_index(place, n, edge, count)
            for place, n, edge, count in zip(places, self.shape, self.own_tiles, counts, strict=True)
        )
        parts = self._each(lambda x, per_tile: x[of_scales if per_tile else tuple(places)])
        axis = kept.index(self.axis % self.ndim) - len(kept)
        return replace(self, axis=axis, tiles=tuple(self.own_tiles[i] for i in kept), **parts)


def _full_index(index: Any, ndim: int) -> list[Any]:
    """One slice or integer for each axis."""
    places = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in places:
        at = places.index(Ellipsis)
        places[at : at + 1] = [slice(None)] * (ndim - len(places) + 1)
    places += [slice(None)] * (ndim - len(places))
    wrong = [place for place in places if not isinstance(place, slice | int | np.integer)]
    if wrong or len(places) > ndim:
        raise IndexError(f"a quantized array of {ndim} axes takes slices and integers, not {index!r}")
    return places


def _tile_index(place: Any, n: int, edge: int | None, count: int) -> Any:
    """The index of the scales that belongs to an index of the elements of one axis."""
    if isinstance(place, int | np.integer):
        if not -n <= place < n:
            raise IndexError(f"index {place} is out of bounds for an axis of {n}")
        return 0 if edge is None else int(place) % n // edge
    if edge == 1:
        return place
    if edge is None:
        return slice(None)
    start, stop, step = place.indices(n)
    if step != 1 or start % edge or (stop % edge and stop != n):
        raise ValueError(f"slice {start}:{stop}:{step} cuts tiles of {edge}; cut where a tile begins, in steps of 1")
    return slice(start // edge, min(-(-stop // edge), count))


def concatenate(arrays: Any, axis: int) -> QArray:
    """Quantized arrays of one scheme joined along an axis that no tile spans, as keys and values of a cache are.

    Errors: ValueError for an empty list, for arrays of different schemes or tiles, and where a tile would be cut.
    """
    arrays = list(arrays)
    if not arrays:
        raise ValueError("nothing to concatenate; pass at least one quantized array")
    first = arrays[0]
    edge = first.own_tiles[axis]
    if any((q.scheme, q.axis, q.own_tiles) != (first.scheme, first.axis, first.own_tiles) for q in arrays):
        raise ValueError("quantized arrays of different schemes or axes do not join; quantize them alike")
    if edge is None or any(q.shape[axis] % edge for q in arrays[:-1]):
        raise ValueError(f"along axis {axis} tiles would be cut; join along an axis that no tile spans")
    xp = first._module.array_module
    joined = {
        name: xp.concatenate([getattr(q, name) for q in arrays], axis=axis)
        for name in ("codes", "scale", *(() if first.zero_point is None else ("zero_point",)))
    }
    return replace(first, **joined)
