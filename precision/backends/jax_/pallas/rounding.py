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
from precision.backends.jax_.rounding import CELLS, cells, from_bits, refuse_too_many, to_bits
from precision.format import Format
from precision.rounding_modes import NEAREST_EVEN, Rounding
from precision.significands import COLUMNS
from precision.statistics import COUNTERS, INFINITY

Array = Any
ROWS = 256  # of 128 lanes, in a block: 128 KiB read, as many written
LARGEST, SMALLEST = len(COUNTERS), len(COUNTERS) + 1  # where the extremes stand, after the counters
TALLIED, TABLE = 16, 64  # rows of a block's tally and of its table of 128 columns, powers of two
NOWHERE = TABLE * LANES - 1  # a cell behind all that are read


class Counted(NamedTuple):
    """What is counted of the values of one array: fields of ``statistics.Tally``."""

    counts: Array  # int32 (9,), in the order of COUNTERS
    largest: Array  # uint32, float32 pattern of the largest finite magnitude; 0 where there is none
    smallest: Array  # uint32, of the smallest nonzero one; that of infinity where there is none
    significands: Array | None  # int32 (277, 24), where it was asked for


def round_and_count(
    x: Array,
    fmt: Format,
    rounding: Rounding = NEAREST_EVEN,
    *,
    significands: bool = False,
    target: Target | None = None,
) -> tuple[Array, Counted]:
    """x float32, of any shape, rounded to nearest even, and its counters; with the table of ``significands``.

    Integer operations alone: no compiler takes a rounding away and no unit flushes a subnormal, on any platform.
    A block leaves one partial counter a lane; those are added, as integers, in any order.  The table is a product of
    matrices of 0 and 1: cell 128 i + j counts the values whose row i and column j both hold 1.  An array that does
    not fill whole blocks is copied into one that does, and what fills it up is counted nowhere.
    Errors: ValueError for another mode, and from 2^31 values on.
    """
    if rounding.mode != "nearest_even":
        raise ValueError(f"the fused kernel rounds to nearest even, not {rounding.mode}; use round_with_statistics")
    refuse_too_many(x.size)
    return _round_and_count(x, fmt, rounding, significands, target)


@partial(jax.jit, static_argnames=("fmt", "rounding", "tabulating", "target"))
def _round_and_count(
    x: Array, fmt: Format, rounding: Rounding, tabulating: bool, target: Target | None
) -> tuple[Array, Counted]:
    rows = block_size(-(-x.size // LANES), SUBLANES, ROWS)
    flat = padded(x.reshape(-1), (rows * LANES,)) if x.size else jnp.zeros(rows * LANES, jnp.float32)
    launch = partial(_launch, fmt, rounding, tabulating, x.size, rows)
    rounded, tallies, *tables = launched(launch, flat.reshape(-1, LANES), target=target)
    counts = tallies[:, : len(COUNTERS)].sum(axis=(0, 2), dtype=jnp.int32)
    largest, smallest = tallies[:, LARGEST].max(), tallies[:, SMALLEST].min()
    table = tables[0].sum(axis=0, dtype=jnp.int32).reshape(-1)[:CELLS].reshape(-1, COLUMNS) if tables else None
    counted = Counted(counts, largest.astype(jnp.uint32), smallest.astype(jnp.uint32), table)
    return rounded.reshape(-1)[: x.size].reshape(x.shape), counted


def _launch(
    fmt: Format, rounding: Rounding, tabulating: bool, size: int, rows: int, target: Target, flat: Array
) -> list[Array]:
    blocks = flat.shape[0] // rows
    whole = pl.BlockSpec((rows, LANES), lambda i: (i, 0))
    partials = [TALLIED, *([TABLE] if tabulating else [])]  # rows of what every block leaves
    return pl.pallas_call(
        partial(_kernel, fmt, rounding, size if size < flat.size else None, SUBLANES if target.ordered else 1),
        grid=(blocks,),
        in_specs=[whole],
        out_specs=[whole, *(pl.BlockSpec((None, part, LANES), lambda i: (i, 0, 0)) for part in partials)],
        out_shape=[
            jax.ShapeDtypeStruct(flat.shape, jnp.float32),
            *(jax.ShapeDtypeStruct((blocks, part, LANES), jnp.int32) for part in partials),
        ],
        **target.options,
    )(flat)


def _kernel(
    fmt: Format,
    rounding: Rounding,
    size: int | None,
    at_once: int,
    x_ref: Any,
    rounded_ref: Any,
    tally_ref: Any,
    table_ref: Any = None,
) -> None:
    """One block, eight rows at a time, as registers hold them; ``size``: how many values there are, where not all of
    the array are; ``at_once``: rows that are tabulated together."""
    infinity, f = jnp.int32(INFINITY), rounding.words(fmt)
    before = pl.program_id(0) * x_ref.shape[0]  # rows in other blocks; inside a loop no interpreter knows the program

    def body(i: Any, tally: tuple[Array, ...]) -> tuple[Array, ...]:
        rows = _rows(i, SUBLANES)
        u = to_bits(x_ref[rows, :])
        result, events = bits.round_and_tell(u, np.uint32(0), f)
        rounded_ref[rows, :] = from_bits(result)
        # below 2^31, so that int32 has the order of uint32: vector units compare signed integers
        events, magnitude = _signed(events), _signed(u & 0x7FFFFFFF)
        if size is not None:
            inside = _places(before + i * SUBLANES) < size
            events, magnitude = jnp.where(inside, events, 0), jnp.where(inside, magnitude, 0)
        *counts, largest, smallest = tally
        counts = [count + ((events >> event) & 1) for event, count in enumerate(counts)]
        largest = jnp.maximum(largest, jnp.where(magnitude < infinity, magnitude, 0))
        smallest = jnp.minimum(smallest, jnp.where(magnitude > 0, magnitude, infinity))
        return (*counts, largest, smallest)

    none = jnp.zeros((SUBLANES, LANES), jnp.int32)
    start = (*[none] * (len(COUNTERS) + 1), none + infinity)
    *counts, largest, smallest = lax.fori_loop(0, x_ref.shape[0] // SUBLANES, body, start)
    for event, count in enumerate(counts):
        tally_ref[event, :] = count.sum(axis=0, dtype=jnp.int32)
    tally_ref[LARGEST, :], tally_ref[SMALLEST, :] = largest.max(axis=0), smallest.min(axis=0)
    if table_ref is not None:
        _tabulate(x_ref, table_ref, at_once)


def _rows(i: Any, count: int) -> Any:
    return pl.ds(pl.multiple_of(i * count, count), count)


def _signed(u: Array) -> Array:
    return lax.bitcast_convert_type(u, jnp.int32)


def _places(first: Any) -> Array:
    """Index in the flat array of each element of eight rows."""
    row = lax.broadcasted_iota(jnp.int32, (SUBLANES, LANES), 0) + first
    return row * LANES + lax.broadcasted_iota(jnp.int32, (SUBLANES, LANES), 1)


def _tabulate(x_ref: Any, table_ref: Any, at_once: int) -> None:
    """Counts of the cells of a block, below 2^24 and so exact in float32; zeros that fill it up are in no cell."""

    def body(i: Any, table: Array) -> Array:
        index = cells(to_bits(x_ref[_rows(i, at_once), :]) & 0x7FFFFFFF, NOWHERE)
        for row in range(at_once):
            one = index[row : row + 1, :] if at_once > 1 else index
            high, low = _ones(one >> 7, TABLE), _ones(one & 0x7F, LANES)
            table = table + lax.dot_general(high, low, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        return table

    counts = lax.fori_loop(0, x_ref.shape[0] // at_once, body, jnp.zeros((TABLE, LANES), jnp.float32))
    table_ref[...] = counts.astype(jnp.int32)


def _ones(places: Array, rows: int) -> Array:
    """bfloat16 (rows, 128), which every matrix unit takes: 1 in the row that a lane's place (1, 128) names."""
    row = lax.broadcasted_iota(jnp.int32, (rows, LANES), 0)
    return jnp.where(row == places, np.float32(1), np.float32(0)).astype(jnp.bfloat16)
