"""Matrix products on JAX arrays in array operations alone: any ordered accumulator, with counters, and exact sums.

What runs where no kernel of the platform's own is at hand: the array form of ``ordered_products`` as scans of integer
operations, ``exact_products`` on the platform's INT8 unit, its digits counted while it runs.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precision import bits, exact_sums
from precision.accumulator import Accumulator
from precision.backends.jax_ import structure
from precision.backends.jax_.rounding import from_bits, on_cpu, random_words, to_bits
from precision.backends.jax_.structure import varying_together
from precision.exact_products import exact_product
from precision.format import Format
from precision.ordered_products import Events, OrderedSum
from precision.random_bits import Stream
from precision.rounding_modes import NEAREST_EVEN, Rounding

Array = Any
UNIT = 16  # rows, columns and terms of an INT8 product come to a GPU's matrix unit in multiples of it


@partial(jax.jit, static_argnums=(3, 4, 5))
def ordered_product(
    a: Array, b: Array, c: Array, accumulator: Accumulator, inputs: tuple[Format, Format], counting: bool
) -> tuple[Array, Events]:
    """(B, m, k) x (B, k, n) onto c (B, m, n) by an ordered accumulator, and what happened inside, by row."""
    # behind a barrier: XLA would fold the constants of a start from 0 for minutes
    words = map(to_bits, varying_together(a, b, lax.optimization_barrier(c)))
    total, events = OrderedSum(structure, accumulator, inputs, counting)(*words)
    return from_bits(total), events


def native_matmul(a: Array, b: Array, c: Array | None) -> Array:
    """Whatever XLA's own product is, in float32 and at its default precision."""
    total = lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)
    return total if c is None else c + total


def integer_matmul(a: Array, b: Array, c: Array | None = None) -> Array:
    """int8 (B, m, k) x (B, k, n) onto int32 c: int32, modulo 2^32."""
    total = _integer_product(a, b) if on_cpu() else padded_integer_matmul(a, b)
    return total if c is None else c + total


def _integer_product(a: Array, b: Array) -> Array:
    return lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.int32)


def padded_integer_matmul(a: Array, b: Array) -> Array:
    """The product of operands padded with zeros to multiples of ``UNIT``.

    Unpadded ones are wrong on a GPU at 22 of 59 shapes tried (XLA of JAX 0.11.2, an H100), all with an odd k; padded
    ones at none (``tests/recorded/hopper/jax_checks.txt``).  The barriers keep the padding from being taken back.
    """
    (m, k), n = a.shape[1:], b.shape[2]
    if not any(size % UNIT for size in (m, k, n)):
        return _integer_product(a, b)
    a = jnp.pad(a, ((0, 0), (0, -m % UNIT), (0, -k % UNIT)))
    b = jnp.pad(b, ((0, 0), (0, -k % UNIT), (0, -n % UNIT)))
    total = _integer_product(*lax.optimization_barrier((a, b)))
    return lax.optimization_barrier(total)[:, :m, :n]


@jax.jit
def exact_matmul(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """(u, extra), as in ``soft_float``, of the exact c + a b."""
    return exact_product(sys.modules[__package__], *map(to_bits, varying_together(a, b, c)))


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
    word = np.uint32(0) if random is None else random_words(random.key, u.shape, random.counter)
    return from_bits(bits.round_pattern(u, extra, word, rounding.words(fmt)))
