"""The three back ends as the tests use them: NumPy in, NumPy out, JAX always under jit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from precision.backends import BACKENDS, get_backend


class Executor:
    """One back end."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    @property
    def module(self) -> ModuleType:
        return get_backend(self.name)

    def array(self, x: Any) -> Any:
        """x as an array that lives on this back end; dtype kept."""
        return jnp.asarray(x) if self.name == "jax" else np.asarray(x)

    def call(self, function: Callable, *arrays: Any, **static: Any) -> Any:
        """``function(*arrays, backend=..., **static)`` of the facade."""
        if self.name == "jax":
            return _numpy(_jitted(function, tuple(sorted(static.items())))(*arrays))
        return _numpy(function(*arrays, backend=self.name, **static))

    def apply(self, operation: str, *arrays: Any, **static: Any) -> Any:
        """``operation(*arrays, **static)`` of the back end's module."""
        if self.name == "jax":
            return _numpy(_jitted_operation(operation, tuple(sorted(static.items())))(*arrays))
        return _numpy(getattr(self.module, operation)(*arrays, **static))


def _numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


@cache
def _jitted(function: Callable, static: tuple) -> Callable:
    return jax.jit(partial(function, backend="jax", **dict(static)))


@cache
def _jitted_operation(operation: str, static: tuple) -> Callable:
    return jax.jit(partial(getattr(get_backend("jax"), operation), **dict(static)))


EXECUTORS = tuple(map(Executor, BACKENDS))
