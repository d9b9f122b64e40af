"""Matrix products on NumPy arrays through Numba kernels: which kernel takes which record."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

from precision.accumulator import Accumulator
from precision.backends.numba_ import chain_kernels, exact_kernels, integer_kernels, ordered_kernels
from precision.backends.numpy_.gemm import native_matmul, round_exact
from precision.backends.numpy_.rounding import to_bits
from precision.exact_products import exact_product
from precision.format import Format
from precision.formats import FP32
from precision.ordered_products import Events
from precision.superaccumulator import LIMBS

Array = np.ndarray
_NO_WORDS = np.empty(0, np.int64)


def matmul(
    a: Array,
    b: Array,
    c: Array | None,
    accumulator: Accumulator,
    inputs: tuple[Format, Format],
    proofs: list[Any] | None = None,
) -> Array:
    """(B, m, k) x (B, k, n) added to c (B, m, n), or to +0, by an ordered, exact or native accumulator; operands are
    values of the formats ``inputs``."""
    del proofs  # nothing is speculative here
    if accumulator.summation == "native":
        return native_matmul(a, b, c)
    total = np.zeros((*a.shape[:2], b.shape[2]), np.float32) if c is None else np.array(c, np.float32, order="C")
    if accumulator.summation == "exact":
        return round_exact(*exact_matmul(a, b, total), FP32)
    work = total.size * a.shape[2] >> 6
    if accumulator.is_chain and accumulator.sum is FP32 and not accumulator.flushes:
        chain_kernels.sequential(
            np.ascontiguousarray(a), np.ascontiguousarray(b), total, accumulator.product == "exact", work=work
        )
        return total
    words = ordered_kernels.words_of(accumulator, inputs, counting=False)
    ordered_kernels.ordered(a, b, total, words, work=work << 4)
    return total


def counted_matmul(
    a: Array, b: Array, c: Array, accumulator: Accumulator, inputs: tuple[Format, Format]
) -> tuple[Array, Events]:
    """The product by an ordered accumulator and what happened inside, by row."""
    total = np.array(c, np.float32, order="C")
    counts = np.zeros((*total.shape[:2], len(Events._fields)), np.int32)
    words = ordered_kernels.words_of(accumulator, inputs, counting=True)
    ordered_kernels.ordered_and_counted(a, b, total, counts, words, work=total.size * a.shape[2] >> 2)
    return total, Events(*np.moveaxis(counts, 2, 0))


def integer_matmul(a: Array, b: Array, c: Array | None = None) -> Array:
    """int8 (B, m, k) x (B, k, n) onto int32 c: int32, modulo 2^32."""
    total = (
        np.zeros((a.shape[0], a.shape[1], b.shape[2]), np.int32) if c is None else np.array(c, np.int32, order="C")
    )
    integer_kernels.multiply_add(a, b, total, _NO_WORDS, work=total.size * a.shape[2] >> 6)
    return total


def exact_matmul(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """(u, extra), as in ``soft_float``, of the exact c + a b."""
    return exact_product(sys.modules[__package__], to_bits(a), to_bits(b), to_bits(c))


# The sum that ``exact_products`` adds to


class ExactSum(NamedTuple):
    limbs: Array  # (B, m, n, LIMBS)
    additions: int  # since the last pass of carries


def exact_start(c: Array) -> ExactSum:
    limbs = np.zeros((*c.shape, LIMBS), np.uint32)
    exact_kernels.start(np.ascontiguousarray(c).reshape(-1), limbs.reshape(-1, LIMBS), work=c.size)
    return ExactSum(limbs, 1)


def exact_add(state: ExactSum, total: Array, rows: Array, columns: Array) -> ExactSum:
    """total 2^(row + column - 300) added: int32 (B, m, n), rows (B, m, 1), columns (B, 1, n)."""
    carrying = state.additions == exact_kernels.MOST
    exact_kernels.add(total, rows[:, :, 0], columns[:, 0, :], state.limbs, carrying, work=total.size)
    return ExactSum(state.limbs, 1 if carrying else state.additions + 1)


def exact_result(state: ExactSum) -> tuple[Array, Array, Array]:
    shape = state.limbs.shape[:3]
    u, extra, zero = (np.empty(shape, np.uint32) for _ in range(3))
    exact_kernels.result(
        state.limbs.reshape(-1, LIMBS), u.reshape(-1), extra.reshape(-1), zero.reshape(-1), work=u.size
    )
    return u, extra, zero
