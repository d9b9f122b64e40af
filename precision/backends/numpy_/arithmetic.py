"""Float32 arithmetic and sums on NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision import bits, elementary
from precision.backends.numpy_.rounding import encode, from_bits, round_to, to_bits
from precision.formats import FP32, Format
from precision.ftz import make_ftz32

Array = np.ndarray
_QUIET: Any = {"over": "ignore", "under": "ignore", "invalid": "ignore", "divide": "ignore"}


def flush(x: Array) -> Array:
    return from_bits(bits.flush_subnormal(to_bits(x), FP32.constants)).reshape(np.shape(x))


def _zero_of(x: Array) -> Array:
    return np.copysign(np.float32(0), x)


_ftz32 = make_ftz32(np.multiply, np.divide, flush, _zero_of, np.where)
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
