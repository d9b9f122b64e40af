"""Matrix products in a stated order, one k at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.accumulator import Accumulator
from precision.backends.numpy_.rounding import round_to, to_bits
from precision.backends.underflow import floats_suffice, products_fit
from precision.formats import FP32, Format

Array = np.ndarray
_QUIET: Any = {"over": "ignore", "under": "ignore", "invalid": "ignore"}


def matmul(
    a: Array,
    b: Array,
    c: Array | None,
    accumulator: Accumulator,
    inputs: tuple[Format, Format],
    proofs: list[Any] | None = None,
) -> Array:
    """(B, m, k) x (B, k, n) added to c (B, m, n), or to +0; operands are values of the formats ``inputs``."""
    del proofs  # asked and answered here, value by value
    total = np.zeros((*a.shape[:2], b.shape[2]), np.float32) if c is None else c
    step = _step(a, b, total, accumulator, inputs)
    with np.errstate(**_QUIET):
        for k in range(a.shape[2]):
            total = step(a[:, :, k, None], b[:, None, k, :], total)
    return total


def _step(a: Array, b: Array, c: Array, accumulator: Accumulator, inputs: tuple[Format, Format]) -> Any:
    if accumulator.product == "rounded" and accumulator.sum is FP32:
        return lambda x, y, s: s + x * y
    if accumulator.product == "rounded":
        return lambda x, y, s: round_to(s + round_to(x * y, accumulator.sum), accumulator.sum)
    if products_fit(*inputs) and floats_suffice(np, to_bits(a), to_bits(b), to_bits(c), exact=True):
        return lambda x, y, s: s + x * y
    return fused_multiply_add


def fused_multiply_add(a: Array, b: Array, c: Array) -> Array:
    """RN32(a b + c): the product is exact in float64, the sum is rounded to odd there, then once to float32.

    Rounding to odd keeps, in the last of 53 bits, whether anything was lost, so the second rounding sees every
    tie for what it is.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    c = np.broadcast_to(c, product.shape).astype(np.float64)
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    pattern = total.view(np.int64)
    even = (pattern & 1) == 0
    outward = (error > 0) == (total > 0)
    odd = pattern + np.where(even & (error != 0) & np.isfinite(total), np.where(outward, 1, -1), 0)
    return odd.view(np.float64).astype(np.float32)


def integer_matmul(a: Array, b: Array) -> Array:
    """int8 (B, m, k) x (B, k, n) -> int32, exact: float64 holds every partial sum below 2^53."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int32)
