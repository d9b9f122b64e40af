"""Float32 arithmetic and sums on JAX arrays.

XLA contracts ``a * b + c`` into a fused multiply-add, joins ``(x + c) + d`` for constants, rewrites divisions and, on
a CPU, flushes subnormals.  A ``guard`` around a result is the identity to the reader and opaque to the compiler.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from precision import bits, elementary, soft_division, soft_float
from precision.backends.jax_.rounding import encode, from_bits, on_cpu, round_to, to_bits
from precision.format import CANONICAL_NAN
from precision.formats import FP32, Format
from precision.ftz import Ftz32, make_ftz32
from precision.rounding_modes import INFINITY

Array = Any


def unknown_zero(u: Array) -> Array:
    """A zero that no compiler recognises: u^2 mod 8 is 0, 1 or 4, so its bits 0 and 2 are never both set."""
    square = u * u
    return square & (square >> 2) & 1


def guard(x: Array) -> Array:
    """x, out of reach of contraction and algebraic rewriting.

    (``where(x == x, x, nan)`` in its place is taken away wherever x is provably not NaN.)
    """
    u = to_bits(x)
    return from_bits(u ^ unknown_zero(u))


def _hidden(x: Array, y: Array) -> tuple[Array, Array]:
    """Both operands, of their common shape and unknown even where one is a constant: the compiler reads x + 0 and x 1
    as x, unflushed, and (x + c) + d as x + (c + d)."""
    u, v = to_bits(x), to_bits(y)
    zero = unknown_zero(u ^ v)
    return from_bits(u ^ zero), from_bits(v ^ zero)


def total(x: Array, y: Array) -> Array:
    """RN32(x + y), never joined with another sum."""
    x, y = _hidden(x, y)
    return x + y


def difference(x: Array, y: Array) -> Array:
    """RN32(x - y), never joined with another sum."""
    x, y = _hidden(x, y)
    return x - y


def product(x: Array, y: Array) -> Array:
    """RN32(x y), never contracted into what follows."""
    x, y = _hidden(x, y)
    return guard(x * y)


def quotient(x: Array, y: Array) -> Array:
    """RN32(x / y): equal shapes behind a barrier, because XLA divides by a broadcast value by its reciprocal."""
    x, y = _hidden(x, y)
    return guard(x / lax.optimization_barrier(y))


def flush(x: Array) -> Array:
    return from_bits(bits.flush_subnormal(to_bits(x), FP32.constants))


def zero_of(x: Array) -> Array:
    return from_bits((to_bits(x) >> 31) << 31)


def long_division(x: Array, y: Array) -> Array:
    """RN32(x / y) in integers: a GPU's compiler may divide by a reciprocal, or approximately."""
    x, y = jnp.broadcast_arrays(x, y)
    return from_bits(soft_float.nearest(*soft_division.exact_divide(to_bits(x), to_bits(y))))


_in_hardware = Ftz32(total, difference, product, quotient)
_spelled_out = make_ftz32(product, long_division, flush, zero_of, jnp.where)


def _ftz32() -> Ftz32:
    """XLA's CPU code runs with FTZ and DAZ set; elsewhere the flushes are spelled out."""
    return _in_hardware if on_cpu() else _spelled_out


def add(x: Array, y: Array) -> Array:
    return _ftz32().add(x, y)


def subtract(x: Array, y: Array) -> Array:
    return _ftz32().subtract(x, y)


def multiply(x: Array, y: Array) -> Array:
    return _ftz32().multiply(x, y)


def divide(x: Array, y: Array) -> Array:
    return _ftz32().divide(x, y)


def square_root(x: Array) -> Array:
    if on_cpu():
        return guard(jnp.sqrt(flush(x)))
    return from_bits(soft_float.nearest(*soft_division.exact_square_root(to_bits(flush(x)))))


_primitives = elementary.Primitives(
    multiply=product,
    select=jnp.where,
    to_bits=to_bits,
    from_bits=from_bits,
    word=lambda x: x.astype(jnp.uint32),
)
exp = elementary.make_exp(_primitives)
log = elementary.make_log(_primitives)
erf = elementary.make_erf(_primitives)
tanh = elementary.make_tanh(_primitives, exp)
rsqrt = elementary.make_rsqrt(_primitives)


def tree_sum(x: Array, axis: int = -1) -> Array:
    """Neighbours (2i, 2i + 1) added until one is left; padded with -0, which changes no sum."""
    x = jnp.moveaxis(x, axis, -1)
    width = x.shape[-1]
    if width < 2 or not on_cpu():
        x = flush(x)
    size = 1 << max(width - 1, 0).bit_length()
    x = jnp.concatenate([x, jnp.full((*x.shape[:-1], size - width), -0.0, jnp.float32)], axis=-1)
    # neither leaf nor sum is a constant that XLA could join, so only the root is guarded
    plus = jnp.add if on_cpu() else _spelled_out.add
    while x.shape[-1] > 1:
        pairs = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
        x = plus(pairs[..., 0], pairs[..., 1])
    return guard(x[..., 0])


def row_max(x: Array, mask: Array | None = None) -> Array:
    """Largest value along the last axis, kept as an axis of 1, where mask holds; NaN if there is one."""
    keys = bits.order_key(to_bits(round_to(flush(x), FP32)))
    if mask is not None:
        keys = jnp.where(mask, keys, jnp.uint32(0))
    return from_bits(bits.from_order_key(keys.max(axis=-1, keepdims=True)))


def absmax(x: Array, axis: int) -> Array:
    """Largest magnitude along an axis, kept as an axis of 1, by integer maximum; 0 where it is empty."""
    largest = (to_bits(x) & 0x7FFFFFFF).max(axis=axis, keepdims=True, initial=0)
    return from_bits(jnp.where(largest > INFINITY, jnp.uint32(CANONICAL_NAN), largest))


def lookup(table: Any, x: Array, fmt: Format) -> Array:
    """table[code of x]."""
    return jnp.asarray(table).at[encode(x, fmt).astype(jnp.int32)].get(mode="promise_in_bounds")


def scatter_add_rows(indices: Array, rows: Array, size: int) -> Array:
    """out[c, i] = sum of rows[c, r] over r with indices[c, r] = i, r ascending from +0.  -> (C, size, h)."""
    chunks = jnp.arange(rows.shape[0])

    def body(out: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
        target = (chunks, row[0])
        return out.at[target].set(add(out[target], row[1])), None

    # behind a barrier: XLA reads 0 + x as x, which loses the sum's sign where x is -0
    start = lax.optimization_barrier(jnp.zeros((rows.shape[0], size, rows.shape[2]), jnp.float32))
    return lax.scan(body, start, (indices.T, jnp.moveaxis(rows, 1, 0)))[0]
