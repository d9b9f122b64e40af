"""Scalar operations, order and sums on JAX arrays: the sources of ``operations`` and ``ordering`` under jit."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from precision import operations, ordering
from precision.backends.jax_ import structure
from precision.backends.jax_.rounding import from_bits, random_words, to_bits
from precision.backends.recurrences import RECURRENCES
from precision.format import Format
from precision.random_bits import Stream
from precision.rounding_modes import MODES, NEAREST_EVEN, Constants, Rounding

Array = Any


def operate(
    operation: str,
    operands: tuple[Array, ...],
    fmt: Format,
    rounding: Rounding = NEAREST_EVEN,
    random: Stream | None = None,
) -> Array:
    """A function of ``operations`` of float32 values that broadcast, rounded once.

    Compiled once for an operation and a mode: the words of the format are arguments.
    """
    shape = jnp.broadcast_shapes(*map(jnp.shape, operands))
    word = np.uint32(0) if random is None else random_words(random.key, shape, random.counter)
    return _operate(operation, rounding.mode, operands, word, np.array(rounding.words(fmt)))


@partial(jax.jit, static_argnums=(0, 1))
def _operate(operation: str, mode: str, operands: tuple[Array, ...], word: Array, words: Array) -> Array:
    patterns = map(to_bits, jnp.broadcast_arrays(*operands))
    f = Constants(*words)._replace(mode=MODES[mode])
    return from_bits(getattr(operations, operation)(*patterns, word, f))


@partial(jax.jit, static_argnums=0)
def compare(relation: str, x: Array, y: Array) -> Array:
    """A relation of ``ordering`` between float32 values that broadcast; bool."""
    return getattr(ordering, relation)(*map(to_bits, jnp.broadcast_arrays(x, y))) != 0


@partial(jax.jit, static_argnums=0)
def extreme(which: str, x: Array, y: Array) -> Array:
    """One of two float32 values that broadcast, by a function of ``ordering``."""
    return from_bits(getattr(ordering, which)(*map(to_bits, jnp.broadcast_arrays(x, y))))


@partial(jax.jit, static_argnums=(0, 2, 3))
def ordered_sum(order: str, terms: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN) -> Array:
    """Sums over the first axis, of at least one term, by a function of ``recurrences``."""

    def rounded(operation: str) -> Any:
        return lambda x, y: operate(operation, (x, y), fmt, rounding)

    return RECURRENCES[order](structure, rounded("add"), rounded("sub"), terms)
