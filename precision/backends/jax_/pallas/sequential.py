"""``fp32_sequential`` over tiles: sums of exact products in float32, one rounding an addition, k ascending."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from precision.accumulators import ACCUMULATORS
from precision.backends.jax_ import gemm
from precision.backends.jax_.pallas.targets import LANES, SUBLANES, Target, block_size, launched, padded
from precision.backends.jax_.rounding import from_bits, to_bits
from precision.backends.underflow import always_normal, floats_suffice, products_fit
from precision.format import CANONICAL_NAN, Format
from precision.rounding_modes import INFINITY

Array = Any
ROWS, COLUMNS = 128, 128  # of a block of sums, which a TPU keeps in 16 of its registers


def sequential_product(
    a: Array, b: Array, c: Array | None, inputs: tuple[Format, Format], *, target: Target | None = None
) -> Array:
    """(m, k) x (k, n) onto c (m, n), or +0: float32, s <- RN32(s + a b) for k ascending.

    Exact by the float unit, contracted or not, where a product has at most 24 significand bits and nothing falls
    below 2^-126: always for formats such as FP16 and those of 8 bits, from +0; of BF16, and with a c, where the
    exponents of the operands prove it, and where they do not the sums are formed in integers by ``gemm.scanned``.
    Assumed of a platform: float32 addition of normal numbers rounds to nearest even.
    Errors: ValueError for formats whose products have more than 24 bits.
    """
    if not products_fit(*inputs):
        raise ValueError(
            f"products of {inputs[0].name} and {inputs[1].name} have {sum(f.precision for f in inputs)} significand "
            "bits, more than the 24 of float32; use matmul, which forms their sums in integers"
        )
    return _sequential_product(a, b, c, inputs, target)


@partial(jax.jit, static_argnames=("inputs", "target"))
def _sequential_product(
    a: Array, b: Array, c: Array | None, inputs: tuple[Format, Format], target: Target | None
) -> Array:
    start = jnp.zeros((a.shape[0], b.shape[1]), jnp.float32) if c is None else c
    if 0 in (*start.shape, a.shape[1]):
        return start
    by_tiles = partial(_by_tiles, target)
    if c is None and always_normal(*inputs):
        return by_tiles(a, b, start)
    suffices = floats_suffice(jnp, to_bits(a), to_bits(b), to_bits(start), True)
    return lax.cond(suffices, by_tiles, partial(_in_integers, inputs), a, b, start)


def _in_integers(inputs: tuple[Format, Format], a: Array, b: Array, c: Array) -> Array:
    return gemm.scanned(a[None], b[None], c[None], ACCUMULATORS["fp32_sequential"], inputs)[0]


def _by_tiles(target: Target | None, a: Array, b: Array, c: Array) -> Array:
    m, n = c.shape
    rows, columns = block_size(m, SUBLANES, ROWS), block_size(n, LANES, COLUMNS)
    # products -0 +0 = -0 at the end of k: adding that changes no sum, not even -0
    a, b = padded(a, (rows, LANES), np.float32(-0.0)), padded(b, (LANES, columns))
    total = launched(partial(_launch, rows, columns), a, b, padded(c, (rows, columns)), target=target)
    return total[:m, :n]


def _launch(rows: int, columns: int, target: Target, a: Array, b: Array, c: Array) -> Array:
    (m, k), n = a.shape, b.shape[1]
    block = LANES if target.ordered else k
    sums = pl.BlockSpec((rows, columns), lambda i, j, _: (i, j))
    return pl.pallas_call(
        _block_of_k if target.ordered else _all_of_k,
        grid=(m // rows, n // columns, k // block),
        in_specs=[
            pl.BlockSpec((rows, block), lambda i, _, step: (i, step)),
            pl.BlockSpec((block, columns), lambda _, j, step: (step, j)),
            sums,
        ],
        out_specs=sums,
        out_shape=jax.ShapeDtypeStruct((m, n), jnp.float32),
        **target.options,
    )(a, b, c)


def _block_of_k(a_ref: Any, b_ref: Any, c_ref: Any, total_ref: Any) -> None:
    """128 of k onto what the blocks before have left; their columns are taken out of a register at fixed places."""

    def begin() -> None:
        total_ref[...] = c_ref[...]

    def end() -> None:
        total_ref[...] = _canonical(total_ref[...])

    pl.when(pl.program_id(2) == 0)(begin)
    a, total = a_ref[...], total_ref[...]
    for i in range(LANES):
        total = total + a[:, i : i + 1] * b_ref[i : i + 1, :]
    total_ref[...] = total
    pl.when(pl.program_id(2) == pl.num_programs(2) - 1)(end)


def _all_of_k(a_ref: Any, b_ref: Any, c_ref: Any, total_ref: Any) -> None:
    """k one by one, out of memory."""

    def step(i: Any, total: Array) -> Array:
        return total + a_ref[:, pl.ds(i, 1)] * b_ref[pl.ds(i, 1), :]

    total_ref[...] = _canonical(lax.fori_loop(0, a_ref.shape[1], step, c_ref[...]))


def _canonical(x: Array) -> Array:
    """x, its NaN all 0x7FC00000."""
    u = to_bits(x)
    return from_bits(jnp.where((u & 0x7FFFFFFF) > INFINITY, jnp.uint32(CANONICAL_NAN), u))
