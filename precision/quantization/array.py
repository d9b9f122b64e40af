"""``QArray``: integer codes with their scales, as one array."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from precision.backends import choose_backend, is_concrete, is_jax
from precision.formats import FP32
from precision.quantization import tiles as tiling
from precision.quantization.packing import packed_length
from precision.quantization.scheme import VECTOR, QScheme, Tiles


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class QArray:
    """Integer codes with a scale for each tile: x is about ``(codes - zero_point) * scale``.

    Shapes: codes any, int8 whatever their width (int16 where the scheme does not clamp); scale float32, a value of
    ``scheme.stored_scale``, one for each tile: ceil(n / edge) along every axis, 1 where a tile spans it; zero_point
    int32 of the same shape, or None.
    ``axis``, negative, is the contraction axis (-1 of X, -2 of W).  ``tiles``: edges of a tile along each axis, None
    for the whole of it; by default those of the scheme.
    A pytree once the JAX back end is loaded; a mapping may take leading axes away, or add some, each place of which
    has tiles of its own.  Indexing takes slices and integers, traced ones too, and gives the same values as indexing
    what ``dequantize`` returns; a slice cuts an axis only between tiles, or within one that spans the axis.
    Equality and hash are those of the object: compare ``codes`` and ``scale``, or what they stand for.
    """

    codes: Any
    scale: Any
    zero_point: Any = None
    axis: int = -1
    tiles: Tiles = ()
    scheme: QScheme = VECTOR

    def __post_init__(self) -> None:
        """ValueError for an axis that is not counted from the back, or that the codes do not have."""
        if self.axis >= 0:
            raise ValueError(f"axis {self.axis} is counted from the front; count it from the back, the last being -1")
        if not self.tiles and hasattr(self.codes, "ndim"):
            self._place(self.axis)
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
        """Bytes of codes of 2 and 4 bits packed along the last axis, of others as they are, of scales in their format
        and of zero points at a byte each."""
        *lead, last = self.shape
        codes = math.prod(lead) * packed_length(last, self.scheme.bits) * self.dtype.itemsize
        scales = math.prod(self.scale.shape)
        zeros = 0 if self.zero_point is None else scales
        return codes + scales * self.scheme.stored_scale.bits // 8 + zeros

    def __repr__(self) -> str:
        if not all(hasattr(part, "shape") for part in (self.codes, self.scale)):  # a tree of something else
            return f"QArray({self.scheme}, codes={self.codes!r}, scale={self.scale!r})"
        zeros = "" if self.zero_point is None else ", zero points"
        return f"QArray({self.scheme}, {self.shape}, axis={self.axis}, scales {tuple(self.scale.shape)}{zeros})"

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        """TypeError: codes and the values they stand for are different arrays."""
        raise TypeError(f"{self!r} is no array of numbers; take its .dequantize() or its .codes")

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

    def transpose(self, *axes: Any) -> QArray:
        """Axes in another order, reversed by default; no value changes.  ValueError unless each is named once."""
        given = axes[0] if len(axes) == 1 and isinstance(axes[0], tuple | list) else axes
        order = [self._place(a) for a in given] if given else list(range(self.ndim))[::-1]
        if sorted(order) != list(range(self.ndim)):
            raise ValueError(f"axes {tuple(given)} are not every axis of {self.ndim} once; name each one")
        own = self.own_tiles
        moved = self._each(lambda x, _: x.transpose(order))
        axis = order.index(self._place(self.axis)) - self.ndim
        return replace(self, axis=axis, tiles=tuple(own[i] for i in order), **moved)

    @property
    def T(self) -> QArray:
        return self.transpose()

    def swapaxes(self, first: int, second: int) -> QArray:
        order = list(range(self.ndim))
        i, j = self._place(first), self._place(second)
        order[i], order[j] = order[j], order[i]
        return self.transpose(*order)

    @property
    def own_tiles(self) -> Tiles:
        """``tiles`` of the axes that are there after mappings."""
        return tiling.own(self.ndim, self.tiles)

    def _place(self, axis: int) -> int:
        """An axis counted from the front."""
        if not -self.ndim <= axis < self.ndim:
            raise ValueError(f"axis {axis} does not exist in a quantized array of shape {self.shape}")
        return axis % self.ndim

    # Parts

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[QArray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> QArray:
        """The part of codes and scales; ``q[None]`` has an axis more in front.

        Errors: IndexError or ValueError, in a sentence, for what would cut a tile.
        """
        if index is None:
            return replace(self, **self._each(lambda x, _: x[None]))
        places = _full_index(index, self.ndim)
        kept = [i for i, place in enumerate(places) if isinstance(place, slice)]
        axis = self._place(self.axis)
        if axis not in kept:
            raise IndexError(f"axis {self.axis} is the contraction axis; take a slice of it, not one element")
        own = self.own_tiles
        of_scales = tuple(_tile_index(place, n, edge) for place, n, edge in zip(places, self.shape, own, strict=True))
        parts = self._each(lambda x, per_tile: x[of_scales if per_tile else tuple(places)])
        return replace(self, axis=kept.index(axis) - len(kept), tiles=tuple(own[i] for i in kept), **parts)

    @staticmethod
    def concatenate(arrays: Iterable[QArray], axis: int = 0) -> QArray:
        """Arrays of one scheme joined along an axis that no tile spans, as the keys and values of a cache are.

        Tokens that are appended have the bits that they would have had if all had been quantized at once.
        Shapes: alike but for ``axis``, along which all but the last hold whole tiles.
        Errors: ValueError for an empty list, for arrays of different schemes or tiles, and where a tile would be cut.
        """
        arrays = list(arrays)
        if not arrays:
            raise ValueError("nothing to concatenate; pass at least one quantized array")
        first = arrays[0]
        edge = first.own_tiles[first._place(axis)]
        if any((q.scheme, q.axis, q.own_tiles) != (first.scheme, first.axis, first.own_tiles) for q in arrays):
            raise ValueError("quantized arrays of different schemes or axes do not join; quantize them alike")
        if edge is None or any(q.shape[axis] % edge for q in arrays[:-1]):
            raise ValueError(f"along axis {axis} tiles would be cut; join along an axis that no tile spans")
        xp = choose_backend(*(q.codes for q in arrays)).array_module
        names = ("codes", "scale", *(() if first.zero_point is None else ("zero_point",)))
        return replace(first, **{name: xp.concatenate([getattr(q, name) for q in arrays], axis) for name in names})


def _full_index(index: Any, ndim: int) -> list[Any]:
    """One slice or integer for each axis."""
    places = list(index) if isinstance(index, tuple) else [index]
    at = [i for i, place in enumerate(places) if place is Ellipsis]
    if at:
        places[at[0] : at[0] + 1] = [slice(None)] * (ndim - len(places) + 1)
    places += [slice(None)] * (ndim - len(places))
    if len(places) > ndim or not all(isinstance(place, slice) or _is_integer(place) for place in places):
        raise IndexError(f"a quantized array of {ndim} axes takes slices and integers, not {index!r}")
    return places


def _is_integer(place: Any) -> bool:
    if is_jax(place):
        return place.ndim == 0 and np.issubdtype(place.dtype, np.integer)
    return isinstance(place, int | np.integer) and not isinstance(place, bool)


def _tile_index(place: Any, n: int, edge: int | None) -> Any:
    """The index of the scales that belongs to an index of the elements of one axis."""
    if not isinstance(place, slice):
        if is_concrete(place) and not -n <= operator.index(place) < n:
            raise IndexError(f"index {place} is out of bounds for an axis of {n}")
        return 0 if edge is None else place % n // edge
    if edge == 1:
        return place
    if edge is None:
        return slice(None)
    start, stop, step = place.indices(n)
    if not range(start, stop, step):
        return slice(0, 0)
    if step != 1 or start % edge or (stop % edge and stop != n):
        raise ValueError(f"slice {start}:{stop}:{step} cuts tiles of {edge}; cut where a tile begins, in steps of 1")
    return slice(start // edge, -(-stop // edge))
