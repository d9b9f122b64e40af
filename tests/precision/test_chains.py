"""Chains of sums in registers: every bit against exact arithmetic, at every edge, and on other processors."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from oracles import Real, flushed, ftz_add, product, read, read_all, rounded, total, write

pytest.importorskip("numba")
from precision.backends.numba_ import chains  # noqa: E402
from precision.backends.numba_.chains import CHAINS, add_flushing, flushing_offered  # noqa: E402

FORMATS = {"fp32": (8, 23), "fp16": (5, 10), "bf16": (8, 7)}
STEPS = ("fp32_fma", "fp32_mul_add", "fp16_fma", "fp16_mul_add", "bf16_fma", "bf16_mul_add")
WORDS = np.zeros(1, np.int64)
needs_flushing = pytest.mark.skipif(not flushing_offered(), reason="no register that flushes on this processor")


def _fused(fmt: str) -> Callable[[Real, Real, Real], Real]:
    return lambda s, a, b: rounded(total(product(a, b), s), fmt)


def _separate(fmt: str) -> Callable[[Real, Real, Real], Real]:
    return lambda s, a, b: rounded(total(rounded(product(a, b), fmt), s), fmt)


def _flushing(s: Real, a: Real, b: Real) -> Real:
    """fma_dz: operands and result; an exact product and sum meet ``ftz_add`` as one number, added to -0."""
    exact = total(product(flushed(a, "fp32"), flushed(b, "fp32")), flushed(s, "fp32"))
    if exact.is_nan or exact.is_infinite or exact.magnitude == 0:
        return exact
    return _unbounded_then_flushed(exact)


def _unbounded_then_flushed(x: Real) -> Real:
    from oracles import power, real

    scaled = 1 if x.magnitude >= power(-100) else power(200)
    nearest = rounded(real(x.value * scaled), "fp32")
    return flushed(real(nearest.value / scaled), "fp32") if scaled != 1 else nearest


ORACLES: dict[str, Callable[[Real, Real, Real], Real]] = {
    **{name: (_fused if name.endswith("_fma") else _separate)(name.split("_")[0]) for name in STEPS},
    "fp32_fma_flushing": _flushing,
}


def oracle(name: str, a: np.ndarray, b: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Patterns (m, n) of the chains from ``start``, in rational numbers."""
    step = ORACLES[name]
    out = np.empty(start.shape, np.uint32)
    rows, columns = [read_all(row) for row in a.view(np.uint32)], [read_all(c) for c in b.T.copy().view(np.uint32)]
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            s = read(start.view(np.uint32)[i, j])
            for x, y in zip(row, column, strict=True):
                s = step(s, x, y)
            out[i, j] = write(s)
    return out
