"""Rows quantized to INT8, multiplied by INT8 weights and scaled, in one kernel: codes of x never reach memory."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu

from precision import bits, soft_division, soft_float
from precision.backends.jax_.arithmetic import flush, guard, long_division, zero_of
from precision.backends.jax_.pallas.targets import LANES, Target, block_size, launched, padded
from precision.backends.jax_.rounding import from_bits, to_bits
from precision.format import Format
from precision.formats import INT8
from precision.ftz import make_ftz32
from precision.quantization.scheme import SMALLEST_ABSMAX
from precision.rounding_modes import INFINITY, NEAREST_EVEN, Rounding, pattern_of

Array = Any
Unit = Literal["int8", "bf16"]
ROWS, COLUMNS = 128, 256  # of a block of results
LEAST_ROWS = 32  # of a TPU's INT8 tiles
LARGEST_K = (2**31 - 1) // 127**2
FAST_MEMORY = 12 << 20  # bytes of a TPU core's that a kernel takes
_SATURATING = Rounding(overflow="saturate").words(INT8)
_BOUND, _INVERSE = np.uint32(pattern_of(127.0)), np.float32(1 / 127)
_ONE, _TINY, _HIGH = np.uint32(0x3F800000), np.uint32(pattern_of(SMALLEST_ABSMAX)), np.float32(4096)


def _product(x: Array, y: Array) -> Array:
    return guard(x * y)


_ftz32 = make_ftz32(_product, long_division, flush, zero_of, jnp.where)


def quantized_product(
    x: Array, w: Array, w_scale: Array, output: Format, unit: Unit = "int8", *, target: Target | None = None
) -> Array:
    """x (m, k) float32 or bfloat16, w (k, n) int8 with float32 scales (n,): float32 (m, n), values of ``output``.

        a = absmax of a row of x    q = RN_int(RN(x RN(127 / a)))    s = RN(a RN(1 / 127))
        y = RN_output(RN(RN(sum_k q w) s) w_scale)

    Every RN is float32's, nearest even, subnormals flushed; the sum is exact.  Rows with a < 2^-112 have q = s = 0,
    rows with NaN or infinity are NaN: the bits of ``quantized_matmul`` under ``int8_vectorwise``,
    nonfinite="propagate".
    ``unit``: what multiplies codes.  "bf16": as bfloat16, which holds them, 128 of k at a time, whose sum is exact in
    float32; for units without INT8, as a TPU v4's is to Mosaic.
    Assumed of a platform: float32 multiplication and addition of normal numbers round to nearest even.  Everything
    else is integers: absmax, quotient, rounding to codes, sum, flushes, rounding to the output.
    Errors: ValueError for k beyond what INT32 or a TPU's fast memory holds.
    """
    return _quantized_product(x, w, w_scale, output, unit, target)


@partial(jax.jit, static_argnames=("output", "unit", "target"))
def _quantized_product(
    x: Array, w: Array, w_scale: Array, output: Format, unit: Unit, target: Target | None
) -> Array:
    (m, k), n = x.shape, w.shape[1]
    if m * n == 0 or k == 0:
        return jnp.zeros((m, n), jnp.float32)
    rows, columns = _block(m, -(-k // LANES) * LANES, n)
    # zeros change neither an absmax nor a sum
    x, w = padded(x, (rows, LANES)), padded(w, (LANES, columns))
    scale = padded(w_scale.reshape(1, n), (1, columns))
    return launched(partial(_launch, output, unit, rows, columns), x, w, scale, target=target)[:m, :n]


def _block(m: int, k: int, n: int) -> tuple[int, int]:
    """Rows and columns of a block whose operands, two at a time, and codes stay within ``FAST_MEMORY``."""
    rows, columns = block_size(m, LEAST_ROWS, ROWS), block_size(n, LANES, COLUMNS)
    while _bytes(rows, k, columns) > FAST_MEMORY and (rows, columns) != (LEAST_ROWS, LANES):
        rows, columns = (rows // 2, columns) if rows > LEAST_ROWS else (rows, columns // 2)
    if k > LARGEST_K or _bytes(rows, k, columns) > FAST_MEMORY:
        most = min(LARGEST_K, FAST_MEMORY // _bytes(LEAST_ROWS, 1, LANES) // LANES * LANES)
        raise ValueError(
            f"k = {k} is more than a block in fast memory holds; at most {most}, or use quantized_matmul"
        )
    return rows, columns


def _bytes(rows: int, k: int, columns: int) -> int:
    return k * (2 * 4 * rows + rows + 2 * columns)


def _launch(
    output: Format, unit: Unit, rows: int, columns: int, target: Target, x: Array, w: Array, scale: Array
) -> Array:
    (m, k), n = x.shape, w.shape[1]
    # where blocks run in order, the first of a row of blocks leaves its codes to the others
    kept = [tpu.VMEM((rows, k), jnp.int8), tpu.VMEM((rows, LANES), jnp.float32)] if target.ordered else []
    return pl.pallas_call(
        partial(_kernel, output, unit),
        grid=(m // rows, n // columns),
        in_specs=[
            pl.BlockSpec((rows, k), lambda i, _: (i, 0)),
            pl.BlockSpec((k, columns), lambda _, j: (0, j)),
            pl.BlockSpec((1, columns), lambda _, j: (0, j)),
        ],
        out_specs=pl.BlockSpec((rows, columns), lambda i, j: (i, j)),
        out_shape=jax.ShapeDtypeStruct((m, n), jnp.float32),
        scratch_shapes=kept,
        **target.options,
    )(x, w, scale)


def _kernel(output: Format, unit: Unit, x_ref: Any, w_ref: Any, scale_ref: Any, y_ref: Any, *kept: Any) -> None:
    if kept:
        codes_ref, rows_ref = kept
        pl.when(pl.program_id(1) == 0)(lambda: _keep(x_ref, codes_ref, rows_ref))
        row_scale = rows_ref[...][:, :1]
        sums = _sums(lambda chunk: codes_ref[:, chunk], w_ref, unit)
    else:
        inverse, row_scale = _scales(x_ref)
        sums = _sums(lambda chunk: _codes(x_ref[:, chunk], inverse), w_ref, unit)
    scaled = _ftz32.multiply(_ftz32.multiply(_as_float(sums), row_scale), scale_ref[...])
    y_ref[...] = from_bits(bits.round_nearest_even(to_bits(scaled), NEAREST_EVEN.words(output)))


def _chunk(i: Any) -> Any:
    return pl.ds(pl.multiple_of(i * LANES, LANES), LANES)


def _keep(x_ref: Any, codes_ref: Any, rows_ref: Any) -> None:
    inverse, scale = _scales(x_ref)
    rows_ref[...] = jnp.broadcast_to(scale, rows_ref.shape)

    def body(i: Any, _: Any) -> Any:
        codes_ref[:, _chunk(i)] = _codes(x_ref[:, _chunk(i)], inverse)
        return _

    lax.fori_loop(0, x_ref.shape[1] // LANES, body, 0)


def _scales(x_ref: Any) -> tuple[Array, Array]:
    """(1 / s, s), each (rows, 1): of rows that are zero (0, 0), of rows that hold NaN or infinity (0, NaN)."""

    def body(i: Any, largest: Array) -> Array:
        magnitude = to_bits(x_ref[:, _chunk(i)].astype(jnp.float32)) & 0x7FFFFFFF
        return jnp.maximum(largest, lax.bitcast_convert_type(magnitude, jnp.int32))

    start = jnp.zeros((x_ref.shape[0], LANES), jnp.int32)
    largest = lax.fori_loop(0, x_ref.shape[1] // LANES, body, start).max(axis=1, keepdims=True)
    u = lax.bitcast_convert_type(largest, jnp.uint32)
    none, finite = largest < jnp.int32(_TINY), largest < jnp.int32(INFINITY)
    usable = finite & ~none
    u = jnp.where(usable, u, _ONE)
    inverse = from_bits(soft_float.nearest(*soft_division.exact_divide(jnp.full_like(u, _BOUND), u)))
    unusable = jnp.where(none, np.float32(0), np.float32(np.nan))
    return jnp.where(usable, inverse, np.float32(0)), jnp.where(usable, guard(from_bits(u) * _INVERSE), unusable)


def _codes(x: Array, inverse: Array) -> Array:
    """int8 of x / s.  Of unusable rows, where the inverse is 0, the code is that of 0 or of NaN, which is 0 too.

    No clamp: |x inverse| <= 127 (1 + 2^-23) rounds to 127 at most.
    """
    scaled = to_bits(x.astype(jnp.float32) * inverse)
    code = bits.encode(bits.round_nearest_even(scaled, _SATURATING), _SATURATING)
    signed = lax.bitcast_convert_type(code ^ 0x80, jnp.int32) - 0x80
    return signed.astype(jnp.int8)


def _sums(codes: Any, w_ref: Any, unit: Unit) -> Array:
    """int32 (rows, columns), of chunks along k."""
    factor, total = (jnp.int8, jnp.int32) if unit == "int8" else (jnp.bfloat16, jnp.float32)

    def body(i: Any, sums: Array) -> Array:
        chunk = _chunk(i)
        operands = codes(chunk).astype(factor), w_ref[chunk, :].astype(factor)
        part = lax.dot_general(*operands, (((1,), (0,)), ((), ())), preferred_element_type=total)
        return sums + part.astype(jnp.int32)

    (k, columns), rows = w_ref.shape, codes(_chunk(0)).shape[0]
    return lax.fori_loop(0, k // LANES, body, jnp.zeros((rows, columns), jnp.int32))


def _as_float(sums: Array) -> Array:
    """RN32 of int32, whatever a unit's own conversion does above 2^24: parts and product are exact."""
    high, low = sums >> 12, sums & 0xFFF
    return high.astype(jnp.float32) * _HIGH + low.astype(jnp.float32)
