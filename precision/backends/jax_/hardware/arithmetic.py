"""Float32 arithmetic as the device has it: XLA's own operations, contracted, reordered and fused as XLA likes.

No bits are promised of anything here but of roundings, none of which is a conversion that XLA takes away:

* BF16 on GPUs and TPUs is XLA's own ``reduce_precision``, which a GPU's compiler spells out as the integer sum that
  rounds (subnormals kept; on a TPU they are as it has them).  A TPU's compiler keeps the constants of integers that
  are written out here as whole arrays, hundreds of MiB of them in attention.
* FP16 on GPUs is ``reduce_precision`` to its 10 bits, and below 2^-14 a whole number of its quanta (``_to_fp16``).
* Elsewhere formats of float32's exponents are rounded by integers, narrower ones by an addition to a number read off
  the pattern (``nearest.make_narrow``): the integers that spell that out are a hundred operations.

On a GPU 20 operations an element are as long as it takes to fetch it, and a softmax whose roundings take patterns
apart is four kernels where it could be one: XLA's fusions for Triton have no bitcast.
What was rounded to 16 bits is kept in an array of 16 bits, half the memory to move; every function widens what it is
given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precision.backends.jax_ import rounding as exact
from precision.backends.jax_.platforms import platform
from precision.format import Format
from precision.formats import BF16, FP16, FP32, INT8
from precision.nearest import make_narrow, plan
from precision.random_bits import Stream
from precision.rounding_modes import NEAREST_EVEN, Rounding

Array = Any
_SATURATING = Rounding(overflow="saturate")
NARROW = {BF16: jnp.bfloat16, FP16: jnp.float16}
_PER_QUANTUM, _QUANTUM = np.float32(2**24), np.float32(2**-24)  # of FP16's subnormals

_by_addition = make_narrow(exact.to_bits, exact.from_bits, jnp.where, lambda u: u)


def wide(x: Any) -> Array:
    """x as a float32 array."""
    return jnp.asarray(x, jnp.float32)


def widen(x: Any, fmt: Format | None) -> Array:
    """Values of a narrower type as float32."""
    del fmt
    return wide(x)


def narrowed(x: Array, fmt: Format) -> Array:
    """Values of a format in the array type that holds exactly those, where there is one.

    Exact, so that a compiler that takes the conversion and its inverse away changes nothing.
    """
    return x.astype(NARROW[fmt]) if fmt in NARROW else x


def widened(tree: Any) -> Any:
    """The same values, floats of 16 bits as float32."""
    return jax.tree.map(lambda x: wide(x) if _is_narrow(x) else x, tree)


def _is_narrow(x: Any) -> bool:
    return getattr(x, "dtype", None) in (jnp.bfloat16, jnp.float16)


def round_to(x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None) -> Array:
    """x rounded once; what already is in the format's own array type stays as it is."""
    if rounding == NEAREST_EVEN and fmt == FP32:
        return wide(x)
    if rounding == NEAREST_EVEN and fmt in NARROW and getattr(x, "dtype", None) == NARROW[fmt]:
        return x
    if rounding == NEAREST_EVEN and fmt == BF16 and platform() in ("gpu", "tpu"):
        return narrowed(lax.reduce_precision(wide(x), exponent_bits=8, mantissa_bits=7), fmt)
    if rounding == NEAREST_EVEN and fmt == FP16 and platform() == "gpu":
        return narrowed(_to_fp16(wide(x)), fmt)
    short = plan(rounding, fmt)
    if short is not None and short.by_addition:
        return narrowed(exact.from_bits(_by_addition(to_bits(x), *short.thresholds)), fmt)
    return narrowed(exact.round_to(wide(x), fmt, rounding, random), fmt)


def _to_fp16(x: Array) -> Array:
    """x rounded to FP16, in float operations alone; -0 stays, and what is above 65504 when rounded is infinite.

    An addition of a constant that is then taken away again would not do: XLA makes nothing of it.
    """
    small = lax.round(x * _PER_QUANTUM, lax.RoundingMethod.TO_NEAREST_EVEN) * _QUANTUM
    normal = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)
    normal = normal * jnp.where(jnp.abs(normal) > FP16.maximum, jnp.inf, 1)
    return jnp.where(jnp.abs(x) < FP16.min_normal, small, normal)


def round_each(arrays: Any, fmt: Format, rounding: Rounding, streams: Any) -> tuple[Array, ...]:
    rounded = exact.round_each([wide(x) for x in arrays], fmt, rounding, streams)
    return tuple(narrowed(x, fmt) for x in rounded)


def encode(x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None) -> Array:
    if fmt == INT8 and rounding == _SATURATING:
        whole = jnp.clip(lax.round(wide(x), lax.RoundingMethod.TO_NEAREST_EVEN), fmt.minimum, fmt.maximum)
        return jnp.where(whole == whole, whole, 0).astype(jnp.int8)
    return exact.encode(wide(x), fmt, rounding, random)


def add(x: Array, y: Array) -> Array:
    return wide(x) + wide(y)


def subtract(x: Array, y: Array) -> Array:
    return wide(x) - wide(y)


def multiply(x: Array, y: Array) -> Array:
    return wide(x) * wide(y)


def divide(x: Array, y: Array) -> Array:
    return wide(x) / wide(y)


def square_root(x: Array) -> Array:
    return jnp.sqrt(wide(x))


def rsqrt(x: Array) -> Array:
    return lax.rsqrt(wide(x))


def exp(x: Array) -> Array:
    return jnp.exp(wide(x))


def log(x: Array) -> Array:
    return jnp.log(wide(x))


def erf(x: Array) -> Array:
    return lax.erf(wide(x))


def tanh(x: Array) -> Array:
    return jnp.tanh(wide(x))


def flush(x: Array) -> Array:
    """x: what becomes of subnormals is the device's affair."""
    return wide(x)


def tree_sum(x: Array, axis: int = -1) -> Array:
    """The sum along an axis, in the device's order."""
    return jnp.sum(wide(x), axis=axis)


def row_max(x: Array, mask: Array | None = None) -> Array:
    """Largest value along the last axis, kept as an axis of 1, where mask holds."""
    values = wide(x)
    return jnp.max(values if mask is None else jnp.where(mask, values, -jnp.inf), axis=-1, keepdims=True)


def absmax(x: Array, axis: int) -> Array:
    """Largest magnitude along an axis, kept as an axis of 1; 0 where it is empty, NaN where there is one."""
    return jnp.max(jnp.abs(wide(x)), axis=axis, keepdims=True, initial=0)


def lookup(table: Any, x: Array, fmt: Format) -> Array:
    """table[code of x]"""
    return jnp.asarray(table).at[encode(x, fmt).astype(jnp.int32)].get(mode="promise_in_bounds")


def scatter_add_rows(indices: Array, rows: Array, size: int) -> Array:
    """out[c, i] = sum of rows[c, r] over r with indices[c, r] = i, in the device's order.  -> (C, size, h)"""
    chunks = jnp.arange(rows.shape[0])[:, None]
    start = jnp.zeros((rows.shape[0], size, rows.shape[2]), jnp.float32)
    return start.at[chunks, indices].add(wide(rows))


def scan(body: Callable, carry: Any, xs: Any, *, reverse: bool = False) -> tuple[Any, Any]:
    """``lax.scan``, its carry in float32: what a body gives on may be of another format than what it began with."""

    def step(carry: Any, x: Any) -> tuple[Any, Any]:
        carry, y = body(carry, x)
        return widened(carry), y

    return lax.scan(step, widened(carry), xs, reverse=reverse)


def fused_layer(name: str) -> Callable[..., tuple[Array, ...]]:
    """(words, composed, *operands, sizes) -> composed(*operands): XLA fuses the steps itself."""
    del name

    def composed_by_xla(words: Any, composed: Callable, *operands: Array, sizes: Any = None) -> tuple[Array, ...]:
        del words, sizes
        return composed(*operands)

    return composed_by_xla


def fused_quantizer(scheme: Any, tiles: Any) -> None:
    """None: XLA fuses the composed steps."""
    del scheme, tiles


def fused_scaler() -> None:
    """None, for the same reason."""


def computed_once(x: Array) -> Array:
    """x: whether it is computed again for counters is XLA's choice."""
    return x


def to_bits(x: Array) -> Array:
    return exact.to_bits(wide(x))
