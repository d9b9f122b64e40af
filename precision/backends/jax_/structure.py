"""What moves values without changing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

array_module = jnp
scope = jax.named_scope  # what is computed inside is so called in the compiled program


def asarray(x: Any) -> jax.Array:
    """x as a float32 array."""
    return jnp.asarray(x, jnp.float32)


def jit(function: Callable, donated: tuple[int, ...] = ()) -> Callable:
    """``jax.jit``; results may take the memory of the ``donated`` arguments, which are then gone."""
    return jax.jit(function, donate_argnums=donated)


def scan(body: Callable, carry: Any, xs: Any, *, reverse: bool = False) -> tuple[Any, Any]:
    """``lax.scan``: the body is compiled once, however many layers there are."""
    return jax.lax.scan(body, carry, xs, reverse=reverse)


def varying_together(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Inside ``shard_map``: all typed as varying over the mesh axes of any; elsewhere as they are.

    A scan's carry must have the type of its result, and a custom gradient that of its operand: the cast's own
    transpose is what sums the gradient of a replicated operand over devices.
    """
    axes = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    missing = [tuple(sorted(frozenset().union(*axes) - own)) for own in axes]
    return tuple(jax.lax.pcast(x, m, to="varying") if m else x for x, m in zip(arrays, missing, strict=True))


def repeat(count: Any, body: Callable, state: Any) -> Any:
    """state = body(i, state) for i in 0 ... count - 1, a count known only at run time included."""
    return jax.lax.fori_loop(0, count, body, state)


def branch(condition: Any, yes: Callable, no: Callable, *operands: Any) -> Any:
    """yes(*operands) where the condition holds, else no(*operands)."""
    return jax.lax.cond(condition, yes, no, *operands)


def fused_dequantizer(tiles: Any) -> None:
    """None: XLA fuses the composed steps."""
    del tiles


def shapes_of(function: Callable[..., Any], *operands: Any) -> Any:
    """What function(*operands) would give, as shapes and dtypes, nothing of it computed."""
    return jax.eval_shape(function, *operands)
