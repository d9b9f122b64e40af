"""Sums of scattered windows in a stated order."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from precision.backends.jax_.arithmetic import add

Array = Any


def scatter_add(operand: Array, indices: Array, updates: Array, params: dict[str, Any]) -> Array:
    """``lax.scatter_add`` of float32 with its parameters: windows added one after another, row-major in their places
    among the indices, from the operand.

    Each addition is that of ``add``.  What ``mode`` drops is dropped.
    """
    windows = params["dimension_numbers"].update_window_dims
    rows = [axis for axis in range(updates.ndim) if axis not in windows]
    order = [*rows, *windows]
    count = math.prod(updates.shape[axis] for axis in rows)
    places = _places(operand.shape, indices, updates.shape, params)
    targets, terms = (x.transpose(order).reshape(count, -1) for x in (places, updates))

    def body(out: Array, window: tuple[Array, Array]) -> tuple[Array, None]:
        target, term = window
        return out.at[target].set(add(out.at[target].get(mode="clip"), term), mode="drop"), None

    # behind a barrier: XLA reads 0 + x as x, which loses the sum's sign where x is -0
    start = lax.optimization_barrier(operand.reshape(-1))
    return lax.scan(body, start, (targets, terms))[0].reshape(operand.shape)


def _places(shape: tuple[int, ...], indices: Array, updates: tuple[int, ...], params: dict[str, Any]) -> Array:
    """Index into the operand, row-major, of every element of the updates; its size where an element is dropped.

    A gather of all indices by the transposed numbers.
    """
    numbers, size = params["dimension_numbers"], math.prod(shape)
    whole = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    widths = iter(updates[axis] for axis in numbers.update_window_dims)
    transposed = lax.GatherDimensionNumbers(
        offset_dims=numbers.update_window_dims,
        collapsed_slice_dims=numbers.inserted_window_dims,
        start_index_map=numbers.scatter_dims_to_operand_dims,
        operand_batching_dims=numbers.operand_batching_dims,
        start_indices_batching_dims=numbers.scatter_indices_batching_dims,
    )
    clips = lax.GatherScatterMode.from_any(params["mode"]) == lax.GatherScatterMode.CLIP
    return lax.gather(
        jnp.arange(size, dtype=jnp.int32).reshape(shape),
        indices,
        transposed,
        tuple(1 if axis in whole else next(widths) for axis in range(len(shape))),
        mode="clip" if clips else "fill",
        fill_value=size,
    )
