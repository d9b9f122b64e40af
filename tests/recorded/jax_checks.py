"""How JAX on another platform is held against NumPy: checks by name and part, bits compared, a line each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from strategies import drawn, generator, sprinkled  # noqa: E402

from precision.backends import get_backend  # noqa: E402

Pair = tuple[Any, Any]
NUMPY, JAX = get_backend("numpy"), get_backend("jax")


class Check(NamedTuple):
    """``pairs``: what was found and what is expected; ``any_nan``: one NaN is as good as another."""

    part: str
    pairs: Callable[[], Iterator[Pair]]
    any_nan: bool


CHECKS: dict[str, Check] = {}


def check(name: str, part: str, any_nan: bool = False) -> Callable:
    def register(function: Callable[[], Iterator[Pair]]) -> Callable[[], Iterator[Pair]]:
        CHECKS[name] = Check(part, function, any_nan)
        return function

    return register


# Operands


def floats(words: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(words).view(np.float32)


def everywhere(shape: int | tuple[int, ...], seed: int) -> np.ndarray:
    """Float32 of any exponent, with edges sprinkled in."""
    rng = generator(seed)
    return floats(sprinkled(rng, drawn(rng, shape)))


# Both sides


def both(function: Callable, *arrays: np.ndarray, **static: Any) -> Pair:
    """The facade's function on JAX under jit and on NumPy."""
    compiled = jax.jit(partial(function, backend="jax", **static))
    return compiled(*map(jnp.asarray, arrays)), function(*arrays, backend="numpy", **static)


def of_module(operation: str, *arrays: np.ndarray, **static: Any) -> Pair:
    compiled = jax.jit(partial(getattr(JAX, operation), **static))
    return compiled(*map(jnp.asarray, arrays)), getattr(NUMPY, operation)(*arrays, **static)


# Comparison


def unsigned(x: Any) -> np.ndarray:
    """Bits of numbers as words; texts and truth values as they are."""
    x = np.asarray(x)
    return x if x.dtype.kind in "USb" else np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}").reshape(x.shape)


def compared(found: Any, expected: Any) -> tuple[int, int]:
    """How many values differ, and how many of these are NaN on both sides."""
    a, b = unsigned(found), unsigned(expected)
    if (a.shape, a.dtype.kind, a.dtype.itemsize) != (b.shape, b.dtype.kind, b.dtype.itemsize):
        raise TypeError(f"{a.dtype}{a.shape} against {b.dtype}{b.shape}")
    differ = a != b
    if np.asarray(expected).dtype != np.float32:
        return int(differ.sum()), 0
    both_nan = np.isnan(np.asarray(found)) & np.isnan(np.asarray(expected))
    return int(differ.sum()), int((differ & both_nan).sum())


def perform(name: str) -> None:
    began, differ, of_nan, total, problem = time.perf_counter(), 0, 0, 0, ""
    one = CHECKS[name]
    try:
        for found, expected in one.pairs():
            count, nan = compared(found, expected)
            differ, of_nan, total = differ + count, of_nan + nan, total + np.size(expected)
    except Exception as failure:
        problem = f"  FAILED: {type(failure).__name__}: {failure}".splitlines()[0][:300]
    if one.any_nan:
        differ -= of_nan
    bits = f" ({of_nan} NaN in their bits{', allowed' if one.any_nan else ''})" if of_nan else ""
    print(f"{name}: {differ} of {total} differ{bits}, {time.perf_counter() - began:.1f} s{problem}", flush=True)
