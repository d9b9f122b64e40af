"""Rounding, float32 arithmetic, sums and counters on NumPy arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from precision import bits, elementary
from precision.formats import FP32, Format
from precision.ftz import make_ftz32
from precision.random_bits import Key, random_bits
from precision.statistics import COUNTERS, EXPONENT_BINS

Array = np.ndarray
_QUIET: Any = {"over": "ignore", "under": "ignore", "invalid": "ignore", "divide": "ignore"}


def to_bits(x: Array) -> Array:
    """Float32 patterns, at least one-dimensional: NumPy warns when a scalar word wraps around."""
    return np.atleast_1d(np.ascontiguousarray(x, dtype=np.float32)).view(np.uint32)


def from_bits(u: Array) -> Array:
    return u.view(np.float32)


def round_to(x: Array, fmt: Format, subnormals: str = "keep") -> Array:
    u = bits.round_nearest_even(to_bits(x), fmt.constants)
    if subnormals == "flush":
        u = bits.flush_subnormal(u, fmt.constants)
    return from_bits(u).reshape(np.shape(x))


def encode(x: Array, fmt: Format) -> Array:
    u = bits.round_nearest_even(to_bits(x), fmt.constants)
    codes = bits.encode(u, fmt.constants).astype(_unsigned(fmt))
    return codes.view(fmt.code_dtype).reshape(np.shape(x))


def decode(codes: Array, fmt: Format) -> Array:
    words = np.atleast_1d(np.ascontiguousarray(codes)).view(_unsigned(fmt)).astype(np.uint32)
    return from_bits(bits.decode(words, fmt.constants)).reshape(np.shape(codes))


def _unsigned(fmt: Format) -> np.dtype:
    return np.dtype(f"u{fmt.code_dtype.itemsize}")


def flush(x: Array) -> Array:
    return from_bits(bits.flush_subnormal(to_bits(x), FP32.constants)).reshape(np.shape(x))


def _zero_of(x: Array) -> Array:
    return np.copysign(np.float32(0), x)


_ftz32 = make_ftz32(np.multiply, flush, _zero_of, np.where)
_primitives = elementary.Primitives(
    multiply=np.multiply,
    select=np.where,
    to_bits=to_bits,
    from_bits=from_bits,
    word=lambda x: x.astype(np.uint32),
)


def _quiet(operation: Any) -> Any:
    def quiet(*arrays: Array) -> Array:
        shape = np.broadcast_shapes(*map(np.shape, arrays))
        with np.errstate(**_QUIET):
            return np.asarray(operation(*map(np.atleast_1d, arrays)), dtype=np.float32).reshape(shape)

    return quiet


add = _quiet(_ftz32.add)
subtract = _quiet(_ftz32.subtract)
multiply = _quiet(_ftz32.multiply)
divide = _quiet(_ftz32.divide)
square_root = _quiet(lambda x: np.sqrt(flush(x)))
_exp = elementary.make_exp(_primitives)
exp = _quiet(_exp)
log = _quiet(elementary.make_log(_primitives))
erf = _quiet(elementary.make_erf(_primitives))
tanh = _quiet(elementary.make_tanh(_primitives, _exp))
rsqrt = _quiet(elementary.make_rsqrt(_primitives))


def tree_sum(x: Array, axis: int = -1) -> Array:
    """Neighbours (2i, 2i + 1) added until one is left; padded with -0, which changes no sum."""
    x = flush(np.moveaxis(x, axis, -1))
    width = x.shape[-1]
    size = 1 << max(width - 1, 0).bit_length()
    x = np.concatenate([x, np.full((*x.shape[:-1], size - width), -0.0, np.float32)], axis=-1)
    while x.shape[-1] > 1:
        x = add(x[..., 0::2], x[..., 1::2])
    return x[..., 0]


def row_max(x: Array, mask: Array | None = None) -> Array:
    """Largest value along the last axis, kept as an axis of 1, where mask holds; NaN if there is one."""
    keys = bits.order_key(to_bits(round_to(flush(x), FP32)))
    if mask is not None:
        keys = np.where(mask, keys, np.uint32(0))
    return from_bits(bits.from_order_key(keys.max(axis=-1, keepdims=True)))


def absmax(x: Array, axis: int) -> Array:
    """Largest magnitude along an axis, kept as an axis of 1, by integer maximum; 0 where it is empty."""
    magnitude = to_bits(round_to(x, FP32)) & np.uint32(0x7FFFFFFF)
    return from_bits(magnitude.max(axis=axis, keepdims=True, initial=0))


def lookup(table: Array, x: Array, fmt: Format) -> Array:
    """table[code of x]."""
    return table[encode(x, fmt)]


def scatter_add_rows(indices: Array, rows: Array, size: int) -> Array:
    """out[c, i] = sum of rows[c, r] over r with indices[c, r] = i, r ascending from +0.  -> (C, size, h)."""
    out = np.zeros((rows.shape[0], size, rows.shape[2]), np.float32)
    chunks = np.arange(rows.shape[0])
    for r in range(rows.shape[1]):
        target = (chunks, indices[:, r])
        out[target] = add(out[target], rows[:, r])
    return out


def random_words(key: Key, shape: tuple[int, ...]) -> Array:
    """One uint32 an element, its counter the row-major index."""
    return random_bits(key, np.arange(math.prod(shape), dtype=np.uint64).reshape(shape))


def statistics(x: Array, rounded: Array, fmt: Format) -> tuple[Array, Array]:
    """Event counts in the order of ``COUNTERS`` and the exponent histogram of x; int64."""
    u = to_bits(x).ravel()
    events = bits.events(u, to_bits(rounded).ravel(), fmt.constants)
    counts = [np.count_nonzero(events & (1 << i)) for i in range(len(COUNTERS))]
    counted = u[(events & 0b111) == 0]
    index = bits.exponent_index(counted).astype(np.int64)
    return np.array(counts, np.int64), np.bincount(index, minlength=EXPONENT_BINS)


def observe(x: Array, rounded: Array, fmt: Format) -> tuple[int, Array, Array]:
    """Number of values and their statistics, counted at once."""
    return x.size, *statistics(x, rounded, fmt)
