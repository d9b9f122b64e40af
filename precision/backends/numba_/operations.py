"""Scalar operations, order and sums on NumPy arrays, each a loop of ``operation_kernels``."""

from __future__ import annotations

import numpy as np

from precision.backends.numba_ import operation_kernels as kernels
from precision.backends.numba_.rounding import random_words
from precision.format import Format
from precision.random_bits import Stream
from precision.rounding_modes import NEAREST_EVEN, Rounding

Array = np.ndarray


def _flat(x: Array, shape: tuple[int, ...]) -> Array:
    """Patterns of x broadcast, flat and contiguous."""
    return np.ascontiguousarray(np.broadcast_to(x, shape), np.float32).reshape(-1).view(np.uint32)


def operate(
    operation: str,
    operands: tuple[Array, ...],
    fmt: Format,
    rounding: Rounding = NEAREST_EVEN,
    random: Stream | None = None,
) -> Array:
    """A function of ``operations`` of float32 values that broadcast, rounded once."""
    shape = np.broadcast_shapes(*map(np.shape, operands))
    patterns = [_flat(x, shape) for x in operands]
    # without random words, something of the same size that no other mode reads
    words = patterns[0] if random is None else random_words(random.key, shape, random.counter).reshape(-1)
    out = np.empty(patterns[0].size, np.uint32)
    getattr(kernels, operation)(*patterns, words, out, rounding.words(fmt))
    return out.view(np.float32).reshape(shape)


def compare(relation: str, x: Array, y: Array) -> Array:
    """A relation of ``ordering`` between float32 values that broadcast; bool."""
    return _related(relation, x, y, np.dtype(np.bool_))


def extreme(which: str, x: Array, y: Array) -> Array:
    """One of two float32 values that broadcast, by a function of ``ordering``."""
    return _related(which, x, y, np.dtype(np.uint32)).view(np.float32)


def _related(function: str, x: Array, y: Array, dtype: np.dtype) -> Array:
    shape = np.broadcast_shapes(np.shape(x), np.shape(y))
    u, v = _flat(x, shape), _flat(y, shape)
    out = np.empty(u.size, dtype)
    getattr(kernels, function)(u, v, out)
    return out.reshape(shape)


def ordered_sum(order: str, terms: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN) -> Array:
    """Sums over the first axis, of at least one term, "sequential" or "kahan"."""
    words = np.ascontiguousarray(terms, np.float32).view(np.uint32).reshape(len(terms), -1)
    out = words[0].copy()
    getattr(kernels, order)(words, out, rounding.words(fmt), work=words.size)
    return out.view(np.float32).reshape(terms.shape[1:])
