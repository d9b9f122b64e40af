"""Rounding to nearest even and everything counted about it, in one pass over memory."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from precision import bits
from precision.backends.jax_.pallas.targets import LANES, SUBLANES, Target, block_size, launched, padded
from precision.backends.jax_.rounding import from_bits, refuse_too_many, to_bits
from precision.format import Format
from precision.rounding_modes import NEAREST_EVEN, Rounding
from precision.statistics import COUNTERS, INFINITY

Array = Any
ROWS = 256  # of 128 lanes, in a block: 128 KiB read, as many written
LARGEST, SMALLEST = len(COUNTERS), len(COUNTERS) + 1  # where the extremes stand, after the counters
TALLIED = 16  # rows of a block's tally, a power of two


class Counted(NamedTuple):
    """What is counted of the values of one array: the first, third and fourth field of ``statistics.Tally``."""

    counts: Array  # int32 (9,), in the order of COUNTERS
    largest: Array  # uint32, float32 pattern of the largest finite magnitude; 0 where there is none
    smallest: Array  # uint32, of the smallest nonzero one; that of infinity where there is none


def round_and_count(
    x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, *, target: Target | None = None
) -> tuple[Array, Counted]:
    """x float32, of any shape, rounded to nearest even, and its counters.

    Integer operations alone: no compiler takes a rounding away and no unit flushes a subnormal, on any platform.
    A block leaves one partial counter a lane; those are added, as integers, in any order.  An array that does not
    fill whole blocks is copied into one that does, and what fills it up is counted nowhere.
    Errors: ValueError for another mode, and from 2^31 values on.
    """
    if rounding.mode != "nearest_even":
        raise ValueError(f"the fused kernel rounds to nearest even, not {rounding.mode}; use round_with_statistics")
    refuse_too_many(x.size)
    return _round_and_count(x, fmt, rounding, target)


@partial(jax.jit, static_argnames=("fmt", "rounding", "target"))
def _round_and_count(
    x: Array, fmt: Format, rounding: Rounding, target: Target | None
) -> tuple[Array, Counted]:
    if x.size == 0:
        return x, Counted(jnp.zeros(len(COUNTERS), jnp.int32), jnp.uint32(0), jnp.uint32(INFINITY))
    rows = block_size(-(-x.size // LANES), SUBLANES, ROWS)
    flat = padded(x.reshape(-1), (rows * LANES,)).reshape(-1, LANES)
    launch = partial(_launch, fmt, rounding, x.size, rows)
    rounded, tallies = launched(launch, flat, target=target)
    largest, smallest = tallies[:, LARGEST].max(), tallies[:, SMALLEST].min()
    counted = Counted(
        tallies[:, : len(COUNTERS)].sum(axis=(0, 2), dtype=jnp.int32),
        largest.astype(jnp.uint32),
        smallest.astype(jnp.uint32),
    )
    return rounded.reshape(-1)[: x.size].reshape(x.shape), counted


def _launch(
    fmt: Format, rounding: Rounding, size: int, rows: int, target: Target, flat: Array
) -> tuple[Array, Array]:
    blocks = flat.shape[0] // rows
    whole = pl.BlockSpec((rows, LANES), lambda i: (i, 0))
    return pl.pallas_call(
        partial(_kernel, fmt, rounding, size if size < flat.size else None),
        grid=(blocks,),
        in_specs=[whole],
        out_specs=[whole, pl.BlockSpec((None, TALLIED, LANES), lambda i: (i, 0, 0))],
        out_shape=[
            jax.ShapeDtypeStruct(flat.shape, jnp.float32),
            jax.ShapeDtypeStruct((blocks, TALLIED, LANES), jnp.int32),
        ],
        **target.options,
    )(flat)


def _kernel(fmt: Format, rounding: Rounding, size: int | None, x_ref: Any, rounded_ref: Any, tally_ref: Any) -> None:
    """One block; ``size``: how many values there are, where not all of the array are."""
    u = to_bits(x_ref[...])
    result, events = bits.round_and_tell(u, np.uint32(0), rounding.words(fmt))
    rounded_ref[...] = from_bits(result)
    # below 2^31, so that int32 has the order of uint32: vector units reduce signed integers
    events, magnitude = _signed(events), _signed(u & 0x7FFFFFFF)
    if size is not None:
        events = jnp.where(_places(u.shape) < size, events, 0)
        magnitude = jnp.where(_places(u.shape) < size, magnitude, 0)
    for i in range(len(COUNTERS)):
        tally_ref[i, :] = ((events >> i) & 1).sum(axis=0, dtype=jnp.int32)
    infinity = jnp.int32(INFINITY)
    tally_ref[LARGEST, :] = jnp.where(magnitude < infinity, magnitude, 0).max(axis=0)
    tally_ref[SMALLEST, :] = jnp.where((magnitude > 0) & (magnitude < infinity), magnitude, infinity).min(axis=0)


def _signed(u: Array) -> Array:
    return lax.bitcast_convert_type(u, jnp.int32)


def _places(shape: tuple[int, int]) -> Array:
    """Index of each element of the block in the flat array."""
    row = lax.broadcasted_iota(jnp.int32, shape, 0) + pl.program_id(0) * shape[0]
    return row * LANES + lax.broadcasted_iota(jnp.int32, shape, 1)
