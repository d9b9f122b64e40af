"""Counters of values that are rounded already: a Numba kernel on a CPU, elsewhere sums and one histogram.

What one call counts fits int32.  What a step adds up, over the parts of a batch and the devices of a mesh, need not,
and without 64-bit types there is no wider integer; so counts that are to be added are two digits of base 2^16:

    int32, digit 1: high, below 2^31 | int32, digit 0: low, below 2^16        total = high 2^16 + low, below 2^47
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from precision.backends import get_backend
from precision.backends.jax_ import foreign
from precision.backends.jax_.gemm import platforms
from precision.backends.jax_.rounding import CELLS, NORMAL, cells, refuse_too_many, significands, to_bits
from precision.backends.jax_.structure import varying_together
from precision.format import Format
from precision.significands import COLUMNS
from precision.statistics import DIGIT_BITS, EXPONENT_BINS, INFINITY, event_thresholds

Array = Any
_LOW = (1 << DIGIT_BITS) - 1
_ROWS, _COLUMNS = 64, 128  # cells of the table of significands, and more behind them that nobody reads
_NOWHERE = _ROWS * _COLUMNS - 1
_BLOCK = 1 << 16


def statistics(x: Array, rounded: Array, fmt: Format) -> tuple[Array, Array]:
    """Counts of nearest-even rounding, in the order of ``COUNTERS``, and the table of significands of x; int32, below
    2^31 values."""
    refuse_too_many(x.size)
    return _counted(fmt, platforms(), *varying_together(x, rounded))


def observe(x: Array, rounded: Array, fmt: Format) -> tuple[Array, Array, Array]:
    """Number of values, as the length of an array of no elements, and their statistics as digits.

    A shape is known while a computation is traced, through scans and loops; it costs nothing and has no end.
    """
    counts, table = statistics(x, rounded, fmt)
    return jnp.zeros((x.size, 0), jnp.bool_), addable(counts), addable(table)


def addable(count: Array) -> Array:
    """Counts below 2^31 as digits, (...) -> (2, ...), the low one first."""
    return jnp.stack([count & _LOW, count >> DIGIT_BITS])


def carried(digits: Array, axes: int) -> Array:
    """The same numbers with low digits below 2^16: (..., 2, and so many axes).

    Exact where both digits are sums of at most 2^15 such.
    """
    low, high = jnp.moveaxis(digits, -axes - 1, 0)
    return jnp.stack([low & _LOW, high + (low >> DIGIT_BITS)], axis=-axes - 1)


def computed_once(x: Array) -> Array:
    """x, computed once for all that use it: XLA would fuse its computation into the rounding and repeat it for the
    counters.  On a CPU; elsewhere as it is."""
    return _computed_once(platforms(), x)


@partial(jax.jit, static_argnums=0)
def _computed_once(foreign_platforms: tuple[str, ...], x: Array) -> Array:
    def by_kernel(x: Array) -> Array:
        kernel, words = get_backend("numba").pass_on_foreign()
        return foreign.call(kernel, words, x.reshape(-1))[0].reshape(x.shape)

    return lax.platform_dependent(x, default=lambda x: x, **dict.fromkeys(foreign_platforms, by_kernel))


def join(a: tuple[Array, Array, Array], b: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Two observations of one name as one, or two stacks of them: counts add."""
    return jnp.concatenate([a[0], b[0]], axis=-2), carried(a[1] + b[1], 1), carried(a[2] + b[2], 2)


def join_all(stacked: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Observations along a first axis of at most 2^15, or stacks of them, as one."""
    of_values, counts, tables = stacked
    parts, *outer, size, _ = of_values.shape
    none = jnp.zeros((*outer, parts * size, 0), jnp.bool_)
    return none, carried(counts.sum(axis=0), 1), carried(tables.sum(axis=0), 2)


def count(observed: dict[str, tuple[Array, Array, Array]], formats: dict[str, Format]) -> dict[str, Any]:
    """(number of values, event counts, table of significands) by name, as digits: what ``observe`` has counted."""
    del formats
    return {name: (_length(of_values), *counts) for name, (of_values, *counts) in observed.items()}


def _length(of_values: Array) -> Array:
    *outer, size, _ = of_values.shape
    high, low = divmod(size, 1 << DIGIT_BITS)
    return jnp.broadcast_to(jnp.asarray([low, high], jnp.int32), (*outer, 2))


@partial(jax.jit, static_argnums=(0, 1))
def _counted(fmt: Format, foreign_platforms: tuple[str, ...], x: Array, rounded: Array) -> tuple[Array, Array]:
    def by_kernel(x: Array, rounded: Array) -> tuple[Array, Array]:
        kernel, words, sizes = get_backend("numba").count_foreign(fmt, x.size)
        counts, tables = foreign.call(kernel, words, _wide(x).reshape(-1), _wide(rounded).reshape(-1), sizes=sizes)
        return counts.sum(axis=0), tables.sum(axis=0)

    here = dict.fromkeys(foreign_platforms, by_kernel)
    ways = {"default": partial(_by_words, fmt, by_scattering), "tpu": partial(_by_words, fmt, by_products)}
    return lax.platform_dependent(x, rounded, **ways | here)


def _wide(x: Array) -> Array:
    """As float32, of any float type."""
    return x.astype(jnp.float32)


def _magnitudes(x: Array) -> Array:
    return to_bits(_wide(x)) & 0x7FFFFFFF


def by_scattering(x: Array) -> Array:
    """Table of significands of x, in one operation."""
    return significands(_magnitudes(x).reshape(-1))


def by_products(x: Array) -> Array:
    """The same as products of matrices of 0 and 1, for a unit that multiplies faster than it scatters.

    Cell 128 i + j counts the values of a block whose row i and column j both hold 1: sums below 2^24, exact in
    float32.  XLA for TPU fuses the matrices into the product, so that a block is read and nothing of it written; x is
    never flat, whole or widened, of which that compiler would make copies.
    """
    if x.size == 0:
        return jnp.zeros((EXPONENT_BINS, COLUMNS), jnp.int32)
    rows = x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x.reshape(-1, 1)
    count, width = rows.shape
    at_once = min(count, max(1, _BLOCK // width))

    def body(i: Array, table: Array) -> Array:
        first = jnp.minimum(i * at_once, count - at_once)  # the last block ends with x, and counts what is new in it
        new = lax.iota(jnp.int32, at_once) + first >= i * at_once
        found = cells(_magnitudes(lax.dynamic_slice_in_dim(rows, first, at_once)), _NOWHERE)
        return table + _of_cells(jnp.where(new[:, None], found, _NOWHERE).reshape(-1))

    start, rows = varying_together(jnp.zeros((_ROWS, _COLUMNS), jnp.int32), rows)
    table = lax.fori_loop(0, -(-count // at_once), body, start)
    return table.reshape(-1)[:CELLS].reshape(EXPONENT_BINS, COLUMNS)


def _of_cells(index: Array) -> Array:
    """How often each cell is named, int32 (64, 128)."""
    high, low = _ones(index // _COLUMNS, _ROWS), _ones(index % _COLUMNS, _COLUMNS)
    found = lax.dot_general(high, low, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    return found.astype(jnp.int32)


def _ones(places: Array, columns: int) -> Array:
    """(n, columns) bfloat16: 1 in the column that each place names."""
    return (places[:, None] == lax.iota(jnp.int32, columns)).astype(jnp.bfloat16)


def _by_words(fmt: Format, table: Callable[[Array], Array], x: Array, rounded: Array) -> tuple[Array, Array]:
    """Comparisons of patterns; in the order of ``COUNTERS``."""
    u, result = to_bits(_wide(x)), _magnitudes(rounded)
    magnitude = u & 0x7FFFFFFF
    beyond, beyond_below_zero, smallest_normal = event_thresholds(fmt)
    far, number = magnitude >= jnp.where(u >> 31 == 1, beyond_below_zero, beyond), magnitude <= INFINITY
    events = (
        magnitude == 0,
        magnitude > INFINITY,
        magnitude == INFINITY,
        (magnitude > 0) & (magnitude < NORMAL),
        (result > 0) & (result < smallest_normal),
        (magnitude > 0) & number & (result == 0),
        far & (magnitude < INFINITY),
        far & number & (result < INFINITY),
        (magnitude != result) & number,
    )
    return jnp.stack([event.sum(dtype=jnp.int32) for event in events]), table(x)
