"""Matrix products on NumPy arrays through Numba kernels: which kernel takes which record."""

from __future__ import annotations

import sys
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from precision.accumulator import Accumulator
from precision.backends.numba_ import exact_kernels, fused, integer_kernels, ordered_kernels
from precision.backends.numba_.chains import CHAINS
from precision.backends.numba_.compilation import Kernel
from precision.backends.numba_.composed_kernels import flushing_kernel, truncated
from precision.backends.numba_.foreign import Foreign, array
from precision.backends.numpy_.gemm import native_matmul, round_exact
from precision.backends.numpy_.rounding import to_bits
from precision.exact_products import exact_product
from precision.format import Format
from precision.formats import FP32
from precision.ordered_products import Events
from precision.superaccumulator import LIMBS

Array = np.ndarray
_NO_WORDS, _FROM_ZERO = np.empty(0, np.int64), np.ones(1, np.int64)
_OPERANDS = (array(np.float32, "bmk"), array(np.float32, "bkn"))
_TOTAL = (array(np.float32, "bmn"),)
_BLOCK = 128  # rows and columns copied at a time
_GENERAL = 5  # multiply-adds of a fast kernel in the time of one of the general one, as a power of two


class Plan(NamedTuple):
    """kernel(a, b, total, words), its words, and how much a multiply-add of it costs, as a power of two.

    packed: whether operands have to lie in order, which costs less than code for any strides would be slower.
    from_zero: the words for a total of any contents that is to start from +0, where the kernel knows such.
    """

    kernel: Kernel
    words: Array
    cost: int
    packed: bool = False
    from_zero: Array | None = None


@lru_cache(maxsize=256)
def plan(accumulator: Accumulator, inputs: tuple[Format, Format]) -> Plan:
    """The fastest kernel of an ordered accumulator for operands of these formats."""
    if accumulator.is_chain and not accumulator.flushes:
        name = f"{accumulator.sum.name}_{'fma' if accumulator.product == 'exact' else 'mul_add'}"
        if name in CHAINS:
            return Plan(CHAINS[name], _NO_WORDS, 0, from_zero=_FROM_ZERO)
    general = ordered_kernels.words_of(accumulator, inputs, counting=False)
    if fused.takes(accumulator, inputs):
        return Plan(truncated, np.concatenate([fused.words_of(accumulator, inputs), general]), 2, packed=True)
    # flushed in float32, so the formats of the operands must have float32's subnormals
    flushing = flushing_kernel(accumulator)
    if flushing is not None and all(fmt.min_normal_exponent == FP32.min_normal_exponent for fmt in inputs):
        return Plan(flushing, general, 0, packed=flushing is not CHAINS.get("fp32_fma_flushing"))
    return Plan(ordered_kernels.ordered, general, _GENERAL)


@lru_cache(maxsize=256)
def foreign(accumulator: Accumulator, inputs: tuple[Format, Format]) -> tuple[Foreign, Array]:
    """``plan``, the kernel as XLA calls it."""
    chosen = plan(accumulator, inputs)
    return Foreign(kernel=chosen.kernel, operands=_OPERANDS + _TOTAL, results=_TOTAL, starts=1), chosen.words


@lru_cache(maxsize=256)
def counting_foreign(accumulator: Accumulator, inputs: tuple[Format, Format]) -> tuple[Foreign, Array]:
    """``ordered_and_counted`` as XLA calls it; its letter e is the number of kinds of events."""
    words = ordered_kernels.words_of(accumulator, inputs, counting=True)
    results = (*_TOTAL, array(np.int32, "bme"))
    kernel = ordered_kernels.ordered_and_counted
    return Foreign(kernel=kernel, operands=_OPERANDS + _TOTAL, results=results, starts=1), words


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
    if accumulator.summation == "exact":
        return round_exact(*exact_matmul(a, b, _total(a, b, c)), FP32)
    chosen = plan(accumulator, inputs)
    if c is None and chosen.from_zero is not None:
        total, words = np.empty((*a.shape[:2], b.shape[2]), np.float32), chosen.from_zero
    else:
        total, words = _total(a, b, c), chosen.words
    if chosen.packed:
        a, b = _in_order(a), _in_order(b)
    chosen.kernel(a, b, total, words, work=(total.size * a.shape[2] >> 6) << chosen.cost)
    return total


def _in_order(x: Array) -> Array:
    """x (B, r, c) contiguous; copied in blocks that stay in a cache, as rows of a transpose do not."""
    if x.flags.c_contiguous:
        return x
    out = np.empty(x.shape, x.dtype)
    for i, j in product(range(0, x.shape[1], _BLOCK), range(0, x.shape[2], _BLOCK)):
        out[:, i : i + _BLOCK, j : j + _BLOCK] = x[:, i : i + _BLOCK, j : j + _BLOCK]
    return out


def _total(a: Array, b: Array, c: Array | None) -> Array:
    """A copy of c, or zeros, written at once: pages of zeros first read and then written are mapped twice."""
    return np.full((*a.shape[:2], b.shape[2]), np.float32(0)) if c is None else np.array(c, np.float32, order="C")


def counted_matmul(
    a: Array, b: Array, c: Array, accumulator: Accumulator, inputs: tuple[Format, Format]
) -> tuple[Array, Events]:
    """The product by an ordered accumulator and what happened inside, by row."""
    total = np.array(c, np.float32, order="C")
    counts = np.zeros((*total.shape[:2], len(Events._fields)), np.int32)
    words = ordered_kernels.words_of(accumulator, inputs, counting=True)
    ordered_kernels.ordered_and_counted(a, b, total, counts, words, work=total.size * a.shape[2] >> 1)
    return total, Events(*np.moveaxis(counts, 2, 0))


def integer_matmul(a: Array, b: Array, c: Array | None = None) -> Array:
    """int8 (B, m, k) x (B, k, n) onto int32 c: int32, modulo 2^32."""
    shape = (a.shape[0], a.shape[1], b.shape[2])
    total = np.full(shape, np.int32(0)) if c is None else np.array(c, np.int32, order="C")
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
    exact_kernels.add(total, rows[:, :, 0], columns[:, 0, :], state.limbs, carrying, work=total.size << 4)
    return ExactSum(state.limbs, 1 if carrying else state.additions + 1)


def exact_result(state: ExactSum) -> tuple[Array, Array, Array]:
    shape = state.limbs.shape[:3]
    u, extra, zero = (np.empty(shape, np.uint32) for _ in range(3))
    exact_kernels.result(
        state.limbs.reshape(-1, LIMBS), u.reshape(-1), extra.reshape(-1), zero.reshape(-1), work=u.size << 6
    )
    return u, extra, zero
