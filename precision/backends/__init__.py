"""The executors: each a module with the same functions, imported on first use.

``numpy_`` is the reference, ``numba_`` the fast CPU, ``jax_`` CPU, GPU and TPU under jit.  A back end supplies the
bitcast, the loop and the jit; what is computed stands in ``bits``, ``ftz`` and ``elementary``.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import Any

import numpy as np

BACKENDS = ("numpy", "numba", "jax")
HARDWARE = "jax_hardware"  # JAX by XLA's own float32, for what promises no bits; never chosen by arrays alone
_MODULES = {name: f"{name}_" for name in BACKENDS} | {HARDWARE: "jax_.hardware"}
SMALL = 1024  # NumPy arrays up to this size are not worth a Numba call


def get_backend(name: str) -> Any:
    """The module of that executor.  ValueError, naming the known ones, for any other name."""
    if name not in _MODULES:
        raise ValueError(f"unknown backend {name!r}; choose one of {', '.join(BACKENDS)}")
    return _load(name)


@cache
def _load(name: str) -> Any:
    return importlib.import_module(f"precision.backends.{_MODULES[name]}")


def is_jax(x: Any) -> bool:
    """Whether x is a JAX array or tracer, asked without importing JAX."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(x, jax.Array)


def is_concrete(x: Any) -> bool:
    """Whether x has values to look at: NumPy arrays and JAX arrays, not the tracers inside a JAX transformation."""
    return not is_jax(x) or not isinstance(x, sys.modules["jax"].core.Tracer)


def choose_backend(*arrays: Any, backend: str | None = None) -> Any:
    """The named back end, or the one these arrays live on: JAX; Numba; NumPy where they are small."""
    traced = [x for x in arrays if is_jax(x)]
    if backend is not None:
        if traced and backend not in ("jax", HARDWARE):
            raise ValueError(f"backend {backend!r} cannot take JAX arrays; convert them with numpy.asarray first")
        return get_backend(backend)
    if traced:
        return get_backend("jax")
    size = sum([np.size(x) for x in arrays if x is not None])
    return get_backend("numba" if size > SMALL else "numpy")
