"""Matrices on which INT8 variants are told apart, and how their results are compared."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from bits_assertions import as_bits
from strategies import drawn, generator

FLOATS = {np.dtype(kind).name: np.dtype(kind) for kind in (np.float32, ml_dtypes.bfloat16, np.float16)}
EXPONENTS = {"float32": (0, 254), "bfloat16": (0, 254), "float16": (102, 142)}
BOUNDS = (127.5, 127.0, 255.0, 1.0, 1.5)


def finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x.astype(np.float32)), x, np.zeros_like(x))


def matrix(dtype: str, seed: int, shape: tuple[int, int] = (256, 24)) -> np.ndarray:
    """Rows of a few binades anywhere in the range; the first quarter are ties of one bound or another."""
    rng, kind, (low, high) = generator(seed), FLOATS[dtype], EXPONENTS[dtype]
    rows, columns = shape
    x = np.empty(shape)
    for i, bottom in enumerate(rng.integers(low, high, rows)):
        x[i] = drawn(rng, (columns,), (int(bottom), min(int(bottom) + 8, high))).view(np.float32)
    for i, exponent in enumerate(rng.integers(low + 20, high - 8, rows // 4)):
        bound = BOUNDS[i % len(BOUNDS)]
        x[i] = (rng.integers(-127, 127, columns) + 0.5) * (bound / (127.5, 127.0)[i % 2])
        x[i, 0] = bound
        x[i] = np.ldexp(x[i], int(exponent) - 127)
    with np.errstate(over="ignore"):
        return with_edges(finite(x.astype(np.float32).astype(kind)))


def with_edges(x: np.ndarray) -> np.ndarray:
    """Zeros of both signs, both ends of the range, one value much larger than the rest."""
    info, at = ml_dtypes.finfo(x.dtype), len(x) // 2
    x[at : at + 2] = np.array([[0.0], [-0.0]])
    x[at + 2], x[at + 2, -1] = 0, info.smallest_subnormal
    x[at + 3], x[at + 4], x[at + 5, 1] = info.tiny, -info.max, info.max
    x[at + 6], x[at + 6, 1] = info.tiny, info.max
    return x


def differing(actual: np.ndarray, expected: np.ndarray) -> int:
    """How many elements differ in some bit; NaN is one value, as none of the packages promises its payload."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    nan = np.isnan(expected.astype(np.float32))
    return int(np.sum((as_bits(actual) != as_bits(expected)) & ~(nan & np.isnan(actual.astype(np.float32)))))


def factors(dtype: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and a bias: half of the rows near 1, the others anywhere."""
    x, w = matrix(dtype, seed, (64, 40)), matrix(dtype, seed + 1, (48, 40))
    near = generator(seed + 2).integers(-4095, 4096, (160, 40)) / np.float32(1024)
    near *= np.ldexp(np.float32(1), generator(seed + 3).integers(-5, 4, (160, 1)))
    x[::2], w[::2] = near[:32].astype(x.dtype), near[32:56].astype(x.dtype)
    return x, w, near.reshape(-1)[:48].astype(x.dtype)
