"""Derivatives of the unary functions, which jax.grad cannot see through bit patterns and gathers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Array = Any


def _exact_gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _gelu_gradient(x: Array) -> Array:
    return jax.jvp(_exact_gelu, (x,), (jnp.ones_like(x),))[1]


_REAL: dict[str, Callable[[Array], Array]] = {
    "cos": jnp.cos,
    "erf": jax.scipy.special.erf,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "gelu": _exact_gelu,
    "gelu_gradient": _gelu_gradient,
    "gelu_tanh": jax.nn.gelu,
    "log": jnp.log,
    "reciprocal": jnp.reciprocal,
    "rsqrt": jax.lax.rsqrt,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "sin": jnp.sin,
    "tanh": jnp.tanh,
}


def differentiable(name: str, function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """``function``, the rounded version of a named real function, with the real function's derivative.

    The derivative is XLA's float32 one: not part of the bit contract.  Forward and reverse mode, of any order.
    """
    rounded = jax.custom_jvp(function)
    rounded.defjvp(partial(_jvp, rounded, _REAL[name]))
    return rounded


def _jvp(rounded: Callable, real: Callable, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return rounded(*primals), jax.jvp(real, primals, tangents)[1]
