"""Functions under jit with nothing between them and XLA, and the back ends side by side: what facts are told from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from bits_assertions import as_bits, assert_same_bits, same_nan
from executors import EXECUTORS
from strategies import generator

SUBNORMALS = np.arange(1, 0x800000, 10_923, np.uint32).view(np.float32)

on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="a fact about XLA's compiler for CPUs")


def normal(seed: int, *shape: int) -> np.ndarray:
    return generator(seed).normal(size=shape).astype(np.float32)


def traced(function: Callable, *arrays: Any) -> np.ndarray:
    """The function under jit, nothing between it and XLA."""
    return np.asarray(jax.jit(function)(*arrays))


def differing(x: Any, y: Any) -> int:
    """How many values differ in a bit; one NaN is as good as another."""
    return np.count_nonzero(same_nan(as_bits(np.float32(x))) != same_nan(as_bits(np.float32(y))))


def same_everywhere(operation: str, *arrays: np.ndarray, **static: Any) -> np.ndarray:
    """The operation on every back end, JAX under jit: the same bits, which are returned."""
    results = [backend.apply(operation, *map(backend.array, arrays), **static) for backend in EXECUTORS]
    for other in results[1:]:
        assert_same_bits(other, results[0], any_nan=True)
    return results[0]
