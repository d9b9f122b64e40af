"""Gradients of what has none: roundings, and matrix products whose sums are formed in integers.

A rounding is a step function and its bits come from integer operations, so JAX's own derivative of it is 0.
``straight_through`` puts the derivative of what is meant in its place; ``product`` gives a matrix product its two
backward products, each in its own arithmetic.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from precision import bits
from precision.backends.jax_.structure import varying_together
from precision.format import Format

Array = Any


def straight_through(function: Any, x: Array, fmt: Format, rule: str) -> Array:
    """function(x), a rounding to the format, with a derivative.

        straight_through   dy = dx
        clipped            dy = dx where minimum <= x <= maximum of the format or x is NaN, else 0: the derivative
                           of clip(x, minimum, maximum), whatever the rounding mode
        zero               dy = 0

    Shapes: any; ``function`` keeps it.  Bits: those of ``function``.
    The rule is a JVP, and linear, so forward mode, reverse mode and their compositions follow from it; a
    ``custom_vjp`` would refuse forward mode, and Hessians with it.  ``function`` is evaluated outside the rule on
    values that carry no tangent, so that it may close over tracers (a random key).
    """
    return _with_tangent(rule, fmt, *varying_together(x, function(lax.stop_gradient(x))))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _with_tangent(rule: str, fmt: Format, x: Array, y: Array) -> Array:
    del rule, fmt, x
    return y


@_with_tangent.defjvp
def _tangent(rule: str, fmt: Format, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple:
    x, y = primals
    dx = tangents[0].astype(y.dtype)
    if rule != "straight_through":
        dx = jnp.where(_inside(x, fmt), dx, 0) if rule == "clipped" else jnp.zeros_like(dx)
    # not y itself: an outer derivative must find x's tangent on the value as well
    return _with_tangent(rule, fmt, x, y), dx


def straight_through_where(function: Any, x: Array) -> Array:
    """y of function(x) = (y, kept), with dy = dx where kept, else 0: ``straight_through`` under a rule of its own."""
    return _with_tangent_where(*varying_together(x, *function(lax.stop_gradient(x))))


@jax.custom_jvp
def _with_tangent_where(x: Array, y: Array, kept: Array) -> Array:
    del x, kept
    return y


@_with_tangent_where.defjvp
def _tangent_where(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    x, y, kept = primals
    return _with_tangent_where(x, y, kept), jnp.where(kept, tangents[0].astype(y.dtype), 0)


def _inside(x: Array, fmt: Format) -> Array:
    """Whether minimum <= x <= maximum of the format, or x is NaN."""
    low, high = (_ordered(jnp.asarray(bound, x.dtype)) for bound in (fmt.minimum or -0.0, fmt.maximum))
    key = _ordered(x)
    return (low <= key) & (key <= high) | jnp.isnan(x)


def _ordered(x: Array) -> Array:
    """Integers in the order of x: comparisons of float32 on a CPU read subnormals as 0."""
    return bits.order_key(lax.bitcast_convert_type(x, jnp.uint32)) if x.dtype == jnp.float32 else x


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def without_derivative(x: Array, sentence: str) -> Array:
    """x; a derivative through it is refused with that sentence, where JAX's own would silently be 0."""
    del sentence
    return x


@without_derivative.defjvp
def _refused(sentence: str, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:  # noqa: ARG001
    raise TypeError(sentence)


def product(passes: Any, a: Array, b: Array, key: Any = None) -> Array:
    """``passes.fprop(a, b)`` with gradients by ``passes.dgrad`` and ``passes.wgrad``.  float32 (B, m, k) x (B, k, n).

        da = dgrad(dy, b^T),   db = wgrad(a^T, dy)

    Both are products of the same kind, so derivatives of any order in reverse mode use these three passes.
    key: two words where a pass rounds stochastically; each product takes its own child of it.
    Residuals: a and b as they came.  A ``custom_vjp``: a JVP could not say that the transposes are other products
    than the tangent's (``linear_call`` could, but has no batching rule); forward mode is refused by JAX.
    """
    words = None if key is None else jnp.stack([jnp.asarray(word, jnp.uint32) for word in key])
    return _product(passes, *varying_together(a, b), words)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(passes: Any, a: Array, b: Array, key: Array | None) -> Array:
    return _matmul(passes.fprop, a, b, key if passes.fprop.stochastic else None)


def _forward(passes: Any, a: Array, b: Array, key: Array | None) -> tuple[Array, tuple[Array, ...]]:
    return _product(passes, a, b, key), (a, b, key)


def _backward(passes: Any, residuals: tuple[Array, ...], dy: Array) -> tuple[Array, Array, None]:
    a, b, key = residuals
    first, second = (None if key is None else passes.key_of(p, (key[0], key[1])) for p in ("dgrad", "wgrad"))
    da = product(passes.of_dgrad(), dy, jnp.swapaxes(b, 1, 2), first)
    db = product(passes.of_wgrad(), jnp.swapaxes(a, 1, 2), dy, second)
    return da, db, None


_product.defvjp(_forward, _backward)


@partial(jax.jit, static_argnums=0)
def _matmul(gemm: Any, a: Array, b: Array, key: Array | None) -> Array:
    """gemm(a, b, key), compiled once a gemm and shape; mapped operands become more rows, columns or blocks of one
    product.

    Each element of such a product depends on its row and column alone, so the bits stay; and a product that picks its
    path by its operands keeps one ``cond`` instead of computing both paths.  Other products are made one by one.
    """
    run = custom_vmap(lambda a, b, key: gemm(a, b, key))
    run.def_vmap(lambda _, mapped, a, b, key: (_mapped(gemm, mapped, a, b, key), True))
    return run(a, b, key)


def _mapped(gemm: Any, mapped: list[Any], a: Array, b: Array, key: Array | None) -> Array:
    """The products of a leading axis V of some operands.  -> (V, B, m, n)"""
    if gemm.separable:
        return _folded(gemm, mapped[:2], a, b)
    operands = (a, b, key)
    own = [x for x, is_mapped in zip(operands, mapped, strict=True) if is_mapped]

    def one(parts: list[Array]) -> Array:
        rest = iter(parts)
        return _matmul(gemm, *(next(rest) if m else x for x, m in zip(operands, mapped, strict=True)))

    return lax.map(one, own)


def _folded(gemm: Any, mapped: list[bool], a: Array, b: Array) -> Array:
    """The products of a leading axis V of a, of b, or of both, as one.  -> (V, B, m, n)"""
    if all(mapped):
        every = a.shape[0] * a.shape[1]
        flat = _matmul(gemm, a.reshape(every, *a.shape[2:]), b.reshape(every, *b.shape[2:]), None)
        return flat.reshape(*a.shape[:2], *flat.shape[1:])
    if mapped[0]:
        size, blocks, m, k = a.shape
        rows = jnp.moveaxis(a, 0, 1).reshape(blocks, size * m, k)
        return jnp.moveaxis(_matmul(gemm, rows, b, None).reshape(blocks, size, m, b.shape[2]), 1, 0)
    size, blocks, k, n = b.shape
    columns = jnp.moveaxis(b, 0, 2).reshape(blocks, k, size * n)
    return jnp.moveaxis(_matmul(gemm, a, columns, None).reshape(blocks, a.shape[1], size, n), 2, 0)
