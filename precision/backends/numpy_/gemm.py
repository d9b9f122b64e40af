"""Matrix products on NumPy arrays: the reference of every accumulator, one block of k at a time."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from precision import bits, exact_sums
from precision.accumulator import Accumulator
from precision.backends.numpy_ import structure
from precision.backends.numpy_.rounding import from_bits, random_words, round_to, to_bits
from precision.backends.underflow import floats_suffice, products_fit
from precision.exact_products import exact_product
from precision.format import Format
from precision.formats import FP32
from precision.ordered_products import Events, OrderedSum
from precision.random_bits import Stream
from precision.rounding_modes import NEAREST_EVEN, Rounding

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
    """(B, m, k) x (B, k, n) added to c (B, m, n), or to +0, by an ordered or native accumulator; operands are values
    of the formats ``inputs``."""
    del proofs  # asked and answered here, value by value
    total = np.zeros((*a.shape[:2], b.shape[2]), np.float32) if c is None else c
    if accumulator.summation == "exact":
        return round_exact(*exact_matmul(a, b, total), FP32)
    if accumulator.summation == "native":
        return native_matmul(a, b, c)
    plain = _in_float_operations(a, b, total, accumulator, inputs)
    return counted_matmul(a, b, total, accumulator, inputs, counting=False)[0] if plain is None else plain


def native_matmul(a: Array, b: Array, c: Array | None) -> Array:
    """Whatever NumPy's own product is."""
    with np.errstate(**_QUIET):
        return a @ b if c is None else c + a @ b


def counted_matmul(
    a: Array, b: Array, c: Array, accumulator: Accumulator, inputs: tuple[Format, Format], counting: bool = True
) -> tuple[Array, Events]:
    """The product by an ordered accumulator and what happened inside, by row."""
    total = OrderedSum(structure, accumulator, inputs, counting)
    with np.errstate(**_QUIET):
        words, events = total(to_bits(a), to_bits(b), to_bits(c))
    return from_bits(words), events


def _in_float_operations(
    a: Array, b: Array, c: Array, accumulator: Accumulator, inputs: tuple[Format, Format]
) -> Array | None:
    """The chains that NumPy's own float32 operations give the bits of; None for the rest."""
    if accumulator.is_chain and accumulator.sum is FP32 and not accumulator.flushes:
        exact = accumulator.product == "exact"
        if not exact or (
            products_fit(*inputs) and floats_suffice(np, to_bits(a), to_bits(b), to_bits(c), exact=True)
        ):
            with np.errstate(**_QUIET):
                for k in range(a.shape[2]):
                    c = c + a[:, :, k, None] * b[:, None, k, :]
            return round_to(c, FP32)
    return None


def integer_matmul(a: Array, b: Array, c: Array | None = None) -> Array:
    """int8 (B, m, k) x (B, k, n) onto int32 c: int32, modulo 2^32; float64 holds every partial sum below 2^53."""
    total = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    return (total if c is None else total + c).astype(np.uint64).astype(np.uint32).view(np.int32)


def exact_matmul(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """(u, extra), as in ``soft_float``, of the exact c + a b."""
    return exact_product(sys.modules[__package__], to_bits(a), to_bits(b), to_bits(c))


# The sum that ``exact_products`` adds to


def exact_start(c: Array) -> Array:
    return exact_sums.started(c)


def exact_add(limbs: Array, total: Array, rows: Array, columns: Array) -> Array:
    """total 2^(row + column - 300) added: int32 (B, m, n), rows (B, m, 1), columns (B, 1, n)."""
    return exact_sums.with_integer(structure, limbs, total, rows + columns - 2)


def exact_result(limbs: Array) -> tuple[Array, Array, Array]:
    return exact_sums.withdrawn(structure, limbs)


def round_exact(
    u: Array, extra: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None
) -> Array:
    """(u, extra), as in ``soft_float``, rounded once."""
    word = np.uint32(0) if random is None else np.atleast_1d(random_words(random.key, u.shape, random.counter))
    return from_bits(bits.round_pattern(u, extra, word, rounding.words(fmt))).reshape(u.shape)
