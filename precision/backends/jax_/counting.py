"""Counters of values that are rounded already: a Numba kernel on a CPU, elsewhere sums and one histogram.

What one call counts fits int32.  What a step adds up, over the parts of a batch and the devices of a mesh, need not,
and without 64-bit types there is no wider integer; so counts that are to be added are two digits of base 2^16:

    int32, digit 1: high, below 2^31 | int32, digit 0: low, below 2^16        total = high 2^16 + low, below 2^47
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from precision.backends import get_backend
from precision.backends.jax_ import foreign
from precision.backends.jax_.gemm import platforms
from precision.backends.jax_.rounding import NORMAL, refuse_too_many, significands, to_bits
from precision.backends.jax_.structure import varying_together
from precision.format import Format
from precision.statistics import DIGIT_BITS, INFINITY, event_thresholds

Array = Any
_LOW = (1 << DIGIT_BITS) - 1


def statistics(x: Array, rounded: Array, fmt: Format) -> tuple[Array, Array]:
    """Counts of nearest-even rounding, in the order of ``COUNTERS``, and the table of significands of x; int32, below
    2^31 values."""
    refuse_too_many(x.size)
    pair = varying_together(x.reshape(-1), rounded.reshape(-1))
    return _counted(fmt, platforms(), *pair)


def observe(x: Array, rounded: Array, fmt: Format) -> tuple[Array, Array, Array]:
    """Number of values, as the length of an array of no elements, and their statistics as digits.

    A shape is known while a computation is traced, through scans and loops; it costs nothing and has no end.
    """
    counts, table = statistics(x, rounded, fmt)
    return jnp.zeros((x.size, 0), jnp.bool_), addable(counts), addable(table)


def addable(count: Array) -> Array:
    """Counts below 2^31 as digits, (...) -> (2, ...), the low one first."""
    return jnp.stack([count & _LOW, count >> DIGIT_BITS])


def carried(digits: Array) -> Array:
    """The same numbers with low digits below 2^16.  Exact where both digits are sums of at most 2^15 such."""
    low, high = digits
    return jnp.stack([low & _LOW, high + (low >> DIGIT_BITS)])


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
    """Two observations of one name as one: counts add."""
    return jnp.concatenate([a[0], b[0]]), carried(a[1] + b[1]), carried(a[2] + b[2])


def count(observed: dict[str, tuple[Array, Array, Array]], formats: dict[str, Format]) -> dict[str, Any]:
    """(number of values, event counts, table of significands) by name, as digits: what ``observe`` has counted."""
    del formats
    return {name: (_length(of_values), *counts) for name, (of_values, *counts) in observed.items()}


def _length(of_values: Array) -> Array:
    high, low = divmod(of_values.shape[0], 1 << DIGIT_BITS)
    return jnp.asarray([low, high], jnp.int32)


@partial(jax.jit, static_argnums=(0, 1))
def _counted(fmt: Format, foreign_platforms: tuple[str, ...], x: Array, rounded: Array) -> tuple[Array, Array]:
    def by_kernel(x: Array, rounded: Array) -> tuple[Array, Array]:
        kernel, words, sizes = get_backend("numba").count_foreign(fmt, x.size)
        counts, tables = foreign.call(kernel, words, x, rounded, sizes=sizes)
        return counts.sum(axis=0), tables.sum(axis=0)

    by_words = partial(_by_words, fmt)
    return lax.platform_dependent(x, rounded, default=by_words, **dict.fromkeys(foreign_platforms, by_kernel))


def _by_words(fmt: Format, x: Array, rounded: Array) -> tuple[Array, Array]:
    """Comparisons of patterns; in the order of ``COUNTERS``."""
    u, result = to_bits(x), to_bits(rounded) & 0x7FFFFFFF
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
    return jnp.stack([event.sum(dtype=jnp.int32) for event in events]), significands(magnitude)
