"""Scales of block formats on JAX arrays, and the records of quantized arrays as pytrees."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from precision import block_scaling
from precision.backends.jax_.rounding import from_bits, to_bits
from precision.block_quantizers import BlockArray
from precision.quantization.array import QArray

Array = Any

jax.tree_util.register_dataclass(
    QArray, data_fields=["codes", "scale", "zero_point"], meta_fields=["axis", "tiles", "scheme"]
)
jax.tree_util.register_dataclass(
    BlockArray, data_fields=["codes", "scale", "tensor_scale"], meta_fields=["format", "axis"]
)


def shared_scales(largest: Array, threshold: int, largest_exponent: int) -> Array:
    """``block_scaling.shared_scale`` of each absmax; uint8."""
    return block_scaling.shared_scale(to_bits(largest), threshold, largest_exponent).astype(jnp.uint8)


@jax.jit
def times_power(x: Array, power: Array) -> Array:
    """``block_scaling.times_power`` of x (rows, size) and power (rows, 1), uint32."""
    return from_bits(block_scaling.times_power(to_bits(x), power))
