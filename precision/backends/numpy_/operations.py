"""Scalar operations, order and sums on NumPy arrays: the sources of ``operations`` and ``ordering``, word by word."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision import operations, ordering
from precision.backends.numpy_ import structure
from precision.backends.numpy_.rounding import from_bits, random_words, to_bits
from precision.backends.recurrences import RECURRENCES
from precision.format import Format
from precision.random_bits import Stream
from precision.rounding_modes import NEAREST_EVEN, Rounding

Array = np.ndarray


def operate(
    operation: str,
    operands: tuple[Array, ...],
    fmt: Format,
    rounding: Rounding = NEAREST_EVEN,
    random: Stream | None = None,
) -> Array:
    """A function of ``operations`` of float32 values that broadcast, rounded once."""
    shape = np.broadcast_shapes(*map(np.shape, operands))
    word = np.uint32(0) if random is None else np.atleast_1d(random_words(random.key, shape, random.counter))
    rounded = getattr(operations, operation)(*map(to_bits, operands), word, rounding.words(fmt))
    return from_bits(rounded).reshape(shape)


def compare(relation: str, x: Array, y: Array) -> Array:
    """A relation of ``ordering`` between float32 values that broadcast; bool."""
    return _related(relation, x, y) != 0


def extreme(which: str, x: Array, y: Array) -> Array:
    """One of two float32 values that broadcast, by a function of ``ordering``."""
    return from_bits(_related(which, x, y))


def _related(function: str, x: Array, y: Array) -> Array:
    return getattr(ordering, function)(to_bits(x), to_bits(y)).reshape(np.broadcast_shapes(x.shape, y.shape))


def ordered_sum(order: str, terms: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN) -> Array:
    """Sums over the first axis, of at least one term, by a function of ``recurrences``."""

    def rounded(operation: str) -> Any:
        return lambda x, y: operate(operation, (x, y), fmt, rounding)

    return RECURRENCES[order](structure, rounded("add"), rounded("sub"), terms)
