"""Scalar operations, order and sums on JAX arrays: the sources of ``operations`` and ``ordering`` under jit.

JAX's own derivative of integer operations is 0; ``_with_tangent`` puts that of the real operation in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precision import operations, ordering
from precision.backends.jax_ import structure
from precision.backends.jax_.rounding import from_bits, random_words, to_bits
from precision.backends.jax_.structure import varying_together
from precision.backends.recurrences import RECURRENCES
from precision.format import Format
from precision.random_bits import Stream
from precision.rounding_modes import MODES, NEAREST_EVEN, Constants, Rounding

Array = Any
_REAL: dict[str, Callable[..., Array]] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": jnp.divide,
    "sqrt": jnp.sqrt,
    "fma": lambda x, y, z: x * y + z,
    "minimum": jnp.minimum,
    "maximum": jnp.maximum,
    "minimum_number": jnp.fmin,
    "maximum_number": jnp.fmax,
}


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
    values = tuple(map(lax.stop_gradient, operands))
    result = _operate(operation, rounding.mode, values, word, np.array(rounding.words(fmt)))
    return _differentiable(operation, operands, result)


@partial(jax.jit, static_argnums=(0, 1))
def _operate(operation: str, mode: str, operands: tuple[Array, ...], word: Array, words: Array) -> Array:
    patterns = map(to_bits, jnp.broadcast_arrays(*operands))
    f = Constants(*words)._replace(mode=MODES[mode])
    return from_bits(getattr(operations, operation)(*patterns, word, f))


@partial(jax.jit, static_argnums=0)
def compare(relation: str, x: Array, y: Array) -> Array:
    """A relation of ``ordering`` between float32 values that broadcast; bool."""
    return getattr(ordering, relation)(*map(to_bits, jnp.broadcast_arrays(x, y))) != 0


def extreme(which: str, x: Array, y: Array) -> Array:
    """One of two float32 values that broadcast, by a function of ``ordering``."""
    return _differentiable(which, (x, y), _extreme(which, lax.stop_gradient(x), lax.stop_gradient(y)))


@partial(jax.jit, static_argnums=0)
def _extreme(which: str, x: Array, y: Array) -> Array:
    return from_bits(getattr(ordering, which)(*map(to_bits, jnp.broadcast_arrays(x, y))))


def _differentiable(operation: str, operands: tuple[Array, ...], result: Array) -> Array:
    *values, result = varying_together(*operands, result)
    return _with_tangent(operation, tuple(values), result)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_tangent(operation: str, operands: tuple[Array, ...], result: Array) -> Array:
    del operation, operands
    return result


@_with_tangent.defjvp
def _tangent(operation: str, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    operands, result = primals
    tangent = jax.jvp(_REAL[operation], operands, tangents[0])[1]
    # not the result itself: an outer derivative must find the operands' tangents on the value as well
    return _with_tangent(operation, operands, result), tangent


@partial(jax.jit, static_argnums=(0, 2, 3))
def ordered_sum(order: str, terms: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN) -> Array:
    """Sums over the first axis, of at least one term, by a function of ``recurrences``."""

    def rounded(operation: str) -> Any:
        return lambda x, y: operate(operation, (x, y), fmt, rounding)

    return RECURRENCES[order](structure, rounded("add"), rounded("sub"), terms)
