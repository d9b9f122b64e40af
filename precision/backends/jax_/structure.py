"""What moves values without changing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

array_module = jnp


def asarray(x: Any) -> jax.Array:
    """x as a float32 array."""
    return jnp.asarray(x, jnp.float32)


def jit(function: Callable) -> Callable:
    """``jax.jit``."""
    return jax.jit(function)


def scan(body: Callable, carry: Any, xs: Any, *, reverse: bool = False) -> tuple[Any, Any]:
    """``lax.scan``: the body is compiled once, however many layers there are."""
    return jax.lax.scan(body, carry, xs, reverse=reverse)
