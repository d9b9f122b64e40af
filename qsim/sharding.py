"""How a step is spread over devices without a bit of it changing, as the layers see it.

A mesh has two axes.  ``data``: each device holds a contiguous part of the batch, of whole reduction chunks, and the
rows of every weight matrix (with their moments) in equal parts.  ``model``: each device holds the columns of the
weights of linear layers, and computes those columns of their products, and its share of the attention heads; the
activations between are the same on all of them.

    x (N / D, k) W        W (k / D, n / M) stored, rows gathered   -> (N / D, n / M), columns gathered
    dy (N / D, n) W^T     W exchanged to (k / M, n)                -> (N / D, k / M), columns gathered
    x^T dy by chunks      dy's own columns (N / D, n / M)          -> (C / D, k, n / M), exchanged: (C, k / D, n / M)

No product is split along its contraction and no float is summed on its way: what has to be added is gathered, or
exchanged for parts of other sums, and added here in the order that one device adds it in.

Of a step in A parts (``data.accumulation``) the devices share every part, which is contiguous in the batch: a scale
of a whole tensor is that of such a part, as on one device, its largest value taken over all devices.  The gradients
of a layer move as soon as a part has them, so that no device holds more than its share of those of all layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from precision.backends import get_backend

Array = Any
Layout = tuple[str | None, ...]
DATA, MODEL = "data", "model"
_LINEAR = ("qkv", "attention_out", "mlp_up", "mlp_down", "logits")
_BY_HEAD = ("scores", "softmax", "values")


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The mesh that a computation runs on, and where on it this is; on one device everything is the identity.

    Methods that move values are called inside the computation, on JAX; shapes are those of the parts held here.
    heads: of the whole model.  shared_parts: how many parts of the batch the devices share one after another.
    """

    data: int = 1
    model: int = 1
    heads: int = 1
    shared_parts: int = 1
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    turns: Any = field(default=None, compare=False)

    @classmethod
    def of(cls, data: int, model: int, shapes: Mapping[str, tuple[int, ...]], heads: int = 1) -> Shards:
        """The mesh for parameters of these shapes, and attention of so many heads.

        ``layouts``: which axes of each, of its gradient and of its moments are split.  Gains and biases are held
        everywhere, and rows that D does not divide.
        """
        bare = cls(data=data, model=model)
        layouts = {name: bare._layout(name, shape) for name, shape in shapes.items()}
        return cls(data=data, model=model, heads=heads, layouts=layouts)

    def _layout(self, name: str, shape: tuple[int, ...]) -> Layout:
        if not name.endswith(".weight") and not name.startswith("embedding."):
            return ()
        rows = DATA if self.data > 1 and shape[-2] % self.data == 0 else None
        columns = MODEL if name.endswith(".weight") and self.model > 1 else None
        return (*(None,) * (len(shape) - 2), rows, columns)

    @property
    def count(self) -> int:
        return self.data * self.model

    @cached_property
    def _devices(self) -> Any:
        return get_backend("jax").devices

    def for_computation(self, shared_parts: int = 1) -> Shards:
        """The same for one computation, to be traced once: what moves in it is kept in order."""
        return self if self.count == 1 else replace(self, turns=self._devices.Turns(), shared_parts=shared_parts)

    def after_turns(self, x: Array) -> Array:
        """x, to be had when all that has moved so far is there."""
        return x if self.count == 1 else self.turns.after(x)

    def begin_turns_after(self, x: Array) -> None:
        """What moves next moves after x is there."""
        if self.count > 1:
            self.turns.begin_after(x)

    def _gather(self, x: Array, mesh_axis: str, axis: int) -> Array:
        return self.turns.take(lambda x: self._devices.gather(x, mesh_axis, axis), x)

    def _exchange(self, x: Array, mesh_axis: str, *, apart: int, together: int) -> Array:
        return self.turns.take(lambda x: self._devices.exchange(x, mesh_axis, apart, together), x)

    # Rows and chunks of the batch

    def own_chunks(self, chunks: int) -> int:
        """How many of the chunks of the batch this device holds."""
        return chunks // self.data

    def all_rows(self, x: Array) -> Array:
        """(N / D, ...) -> (N, ...)"""
        return x if self.data == 1 else self._in_order(self._gather(x, DATA, 0))

    def _in_order(self, x: Array) -> Array:
        """What the devices hold, one after another, in the order of the batch."""
        return swapped(x, self.data, self.shared_parts)

    def shared_out(self, x: Array) -> Array:
        """Rows of a batch on the host, so ordered that equal shares of them are what the devices hold."""
        return swapped(x, self.shared_parts, self.data)

    def place_in_batch(self, part: Any, parts: int) -> Any:
        """Which of the D ``parts`` equal runs of rows of the batch this device's ``part`` is."""
        if self.data == 1:
            return part
        device = self._devices.index(DATA).astype(np.uint32)
        if self.shared_parts > 1:
            return part * np.uint32(self.data) + device
        return device * np.uint32(parts) + part

    def indices_of_output(self, key: str, shape: tuple[int, ...], part: Any, parts: int) -> Any:
        """Row-major index, among all of what the roundings of a site.pass round, of every element rounded here.

        Or that of the first.  shape: of this device's ``part`` of ``parts``; the rows, sequences or chunks of the
        batch come first.
        """
        axes = self._spread(key)
        if DATA not in axes or (self.count == 1 and parts == 1):
            return 0
        split = self.model if MODEL in axes else 1
        size, shares = math.prod(shape) * split, parts * self.data
        if shares * size >= 1 << 32:
            raise ValueError(
                f"{shares} parts of {size} values outgrow the 32 bits that number a batch's draws in parts; use "
                "data.accumulation 1 on one device, or smaller batches"
            )
        first = self.place_in_batch(part, parts) * np.uint32(size)
        return first if split == 1 else self._own_indices(key, shape) + first

    def _own_indices(self, key: str, shape: tuple[int, ...]) -> Array:
        """The same where columns, or heads, are split, of one part on its own."""
        # heads are an axis between sequences and what a head has of one: (B, H / M, T d); columns are the last axis
        by_head = key.split(".")[-2] in _BY_HEAD
        own, inner = (self.heads // self.model, math.prod(shape[1:])) if by_head else (shape[-1], 1)
        whole = get_backend("jax").array_module.arange(math.prod(shape) * self.model, dtype=np.uint32)
        return self.own_columns(whole.reshape(-1, own * self.model, inner), 1).reshape(shape)

    def chunks_together(self, name: str, folded: Array) -> Array:
        """What each device has of the tree over the chunks of a part, (K, ...), of all of them: (D K, ...).

        Of the gradient of a matrix (K, i, o) each device receives its own rows: (D K, i / D, o).
        """
        if self.data == 1:
            return folded
        if DATA not in self.layouts.get(name, ()):
            return self._gather(folded, DATA, 0)
        chunks, rows, columns = folded.shape
        shares = folded.reshape(chunks, self.data, rows // self.data, columns)
        received = self._exchange(shares.swapaxes(0, 1), DATA, apart=0, together=0)  # (D, K, i / D, o)
        return received.reshape(-1, rows // self.data, columns)

    # Parameters

    def whole_rows(self, w: Array, rows: int) -> Array:
        """Stored (rows / D, n), or (rows, n) where D does not divide them -> (rows, n)"""
        return w if w.shape[0] == rows else self._gather(w, DATA, 0)

    def own_rows(self, name: str, x: Array) -> Array:
        """(rows, n) -> what is stored of a parameter of that shape."""
        return self._devices.own_part(x, DATA, 0) if DATA in self.layouts.get(name, ()) else x

    def turned(self, w: Array) -> Array:
        """Own columns, (k, n / M), for own rows, (k / M, n)."""
        return w if self.model == 1 else self._exchange(w, MODEL, apart=0, together=1)

    def row_sums(self, arithmetic: Any, name: str, x: Array) -> Array:
        """Tree sums over the last axis of an array laid out as a parameter.  (..., i / D, o / M) -> (..., i)"""
        layout = self.layouts.get(name, ())
        sums = arithmetic.sum(self._gather(x, MODEL, -1) if MODEL in layout else x)
        return self._gather(sums, DATA, -1) if DATA in layout else sums

    # Columns and heads

    def own_columns(self, x: Array, axis: int = -1) -> Array:
        """(..., n) -> (..., n / M)"""
        return x if self.model == 1 else self._devices.own_part(x, MODEL, axis)

    def all_columns(self, x: Array, axis: int = -1) -> Array:
        """(..., n / M) -> (..., n)"""
        return x if self.model == 1 else self._gather(x, MODEL, axis)

    # What holds or is counted everywhere

    def everywhere(self, flag: Array) -> Array:
        """Whether a flag holds on every device."""
        if self.count == 1:
            return flag
        return self.turns.take(lambda x: self._devices.everywhere(x, (DATA, MODEL)), flag.astype(np.int32))

    def largest(self, magnitude: Array) -> Array:
        """The largest of every device's, NaN above all."""
        if self.count == 1:
            return magnitude
        return self.turns.take(lambda x: self._devices.largest(x, (DATA, MODEL)), magnitude)

    def places(self, name: str, shape: tuple[int, ...]) -> Any:
        """Row-major index, in the whole of a parameter, of every element held here, or 0, that of the first."""
        layout = self.layouts.get(name, ())
        if not any(layout):
            return 0
        sizes = [n * (getattr(self, axis) if axis else 1) for n, axis in zip(shape, layout, strict=True)]
        if math.prod(sizes) > 1 << 32:
            raise ValueError(
                f"{name} of {math.prod(sizes)} values outgrows the 32 bits that number its draws; use one device"
            )
        whole = get_backend("jax").array_module.arange(math.prod(sizes), dtype=np.uint32).reshape(sizes)
        for place, axis in enumerate(layout):
            whole = self._devices.own_part(whole, axis, place) if axis else whole
        return whole

    def weights_key(self, key: str, name: str) -> str:
        """Under what a parameter's own rounding is recorded before ``totals``: with the axes it is split over."""
        return f"{key}.weights" if self.count == 1 else f"{key}.weights@{'+'.join(self._split(name))}"

    def totals(self, records: Mapping[str, tuple[Array, Array, Array]]) -> dict[str, Any]:
        """Counts of this device by key, as those of all devices: integers, each value counted once."""
        if self.count == 1:
            return dict(records)
        sums: dict[str, Any] = {}
        for key, (size, counts, exponents) in records.items():
            name, axes = plain_key(key), self._spread(key)
            size = size * math.prod(getattr(self, axis) for axis in axes)
            if axes:
                counts, exponents = (self._integer_sum(x, axes) for x in (counts, exponents))
            before = sums.get(name, (0, 0, 0))
            found = zip(before, (size, counts, exponents), strict=True)
            sums[name] = tuple(get_backend("jax").carried(a + b, rank) for rank, (a, b) in enumerate(found))
        return sums

    def total(self, name: str, counts: Array) -> Array:
        """What was counted, as digits, in what is held here of a parameter, as of all of it."""
        axes = self._split(name)
        return get_backend("jax").carried(self._integer_sum(counts, axes), counts.ndim - 1) if axes else counts

    def largest_word(self, name: str, words: Array) -> Array:
        """The largest uint32 found in what is held here of a parameter, as of all of it."""
        axes = self._split(name)
        return self.turns.take(lambda x: self._devices.largest_word(x, axes), words) if axes else words

    def _split(self, name: str) -> tuple[str, ...]:
        return tuple(filter(None, self.layouts.get(name, ())))

    def _integer_sum(self, x: Array, axes: tuple[str, ...]) -> Array:
        return self.turns.take(lambda x: self._devices.integer_sum(x, axes), x)

    def _spread(self, key: str) -> tuple[str, ...]:
        """The axes of the mesh over which the values recorded under a key are split."""
        name, marked, axes = key.partition("@")
        if marked:
            return tuple(filter(None, axes.split("+")))
        site, direction = name.split(".")[-2:]
        if (site, direction) == ("loss", "fprop"):
            return ()
        by_column = site in _BY_HEAD or (site in _LINEAR and direction == "wgrad")
        return (DATA, MODEL) if by_column else (DATA,)


def swapped(x: Array, outer: int, inner: int) -> Array:
    """(outer inner K, ...) -> (inner outer K, ...)"""
    return x if 1 in (outer, inner) else x.reshape(outer, inner, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def plain_key(key: str) -> str:
    """A key of ``weights_key`` as it is known outside."""
    return key.partition("@")[0]


ONE_DEVICE = Shards()
