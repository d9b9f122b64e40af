"""Matrix products in a stated order: a scan over k of rank-1 updates, exact on any XLA platform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from precision import soft_float
from precision.accumulator import Accumulator
from precision.backends.jax_.arithmetic import guard
from precision.backends.jax_.products import exact_matmul, native_matmul, ordered_product, round_exact
from precision.backends.jax_.rounding import from_bits, to_bits
from precision.backends.jax_.structure import varying_together
from precision.backends.underflow import always_normal, floats_suffice, products_fit
from precision.format import Format
from precision.formats import FP32
from precision.ordered_products import Events

Array = Any
Step = Callable[[Array, Array, Array], Array]


def matmul(
    a: Array,
    b: Array,
    c: Array | None,
    accumulator: Accumulator,
    inputs: tuple[Format, Format],
    proofs: list[Array] | None = None,
) -> Array:
    """(B, m, k) x (B, k, n) added to c (B, m, n), or to +0; operands are values of the formats ``inputs``.

    Float operations serve where ``floats_suffice`` proves that nothing reaches the subnormals XLA would flush and
    that no exact product overflows; elsewhere, and for products wider than 24 bits, the same sums are formed in
    integers.  With ``proofs`` the integer path is left out and the proof appended instead: the result stands only if
    it holds, and the caller, who computes again without ``proofs`` if not, is spared compiling both paths at every
    product.
    """
    if accumulator.summation == "native":
        return native_matmul(a, b, c)
    from_zero = c is None
    # behind a barrier: XLA reads a constant 0 + x as x, which loses the sum's sign where x is -0
    c = lax.optimization_barrier(jnp.zeros((*a.shape[:2], b.shape[2]), jnp.float32) if c is None else c)
    a, b, c = varying_together(a, b, c)
    if accumulator.summation == "exact":
        u, extra = exact_matmul(a, b, c)
        return round_exact(u, extra, FP32)
    if not accumulator.is_chain or accumulator.flushes or accumulator.sum is not FP32:
        return ordered_product(a, b, c, accumulator, inputs, False)[0]
    in_floats = _exact_step if accumulator.product == "exact" else _float_step
    if from_zero and always_normal(*inputs):
        return _walk(in_floats, a, b, c)
    in_integers = _integer_step(accumulator)
    if accumulator.product == "exact" and not products_fit(*inputs):
        return _walk(in_integers, a, b, c)
    suffices = floats_suffice(jnp, to_bits(a), to_bits(b), to_bits(c), accumulator.product == "exact")
    if proofs is not None:
        proofs.append(suffices)
        return _walk(in_floats, a, b, c)
    floats, integers = (lambda *x, step=step: _walk(step, *x) for step in (in_floats, in_integers))
    return lax.cond(suffices, floats, integers, a, b, c)


def _walk(step: Step, a: Array, b: Array, c: Array) -> Array:
    """step(a_k, b_k, sum) for k ascending."""
    columns, rows = jnp.moveaxis(a, 2, 0), jnp.moveaxis(b, 1, 0)

    def body(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        return step(pair[0][:, :, None], pair[1][:, None, :], total), None

    return lax.scan(body, c, (columns, rows))[0]


def _float_step(x: Array, y: Array, total: Array) -> Array:
    return total + guard(x * y)


def _exact_step(x: Array, y: Array, total: Array) -> Array:
    """For products that have no more than 24 bits: contracted or not, the sum is the same."""
    return total + x * y


def _integer_step(accumulator: Accumulator) -> Step:
    def step(x: Array, y: Array, total: Array) -> Array:
        u, v, w = to_bits(x), to_bits(y), to_bits(total)
        if accumulator.product == "exact":
            return from_bits(soft_float.fused_multiply_add(u, v, w))
        return from_bits(soft_float.add(soft_float.multiply(u, v), w))

    return step


def counted_matmul(
    a: Array, b: Array, c: Array, accumulator: Accumulator, inputs: tuple[Format, Format]
) -> tuple[Array, Events]:
    """The product by an ordered accumulator and what happened inside, by row."""
    return ordered_product(a, b, c, accumulator, inputs, True)
