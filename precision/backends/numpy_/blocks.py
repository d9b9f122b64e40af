"""Scales of block formats on NumPy arrays."""

from __future__ import annotations

import numpy as np

from precision import block_scaling
from precision.backends.numpy_.rounding import from_bits, to_bits

Array = np.ndarray


def shared_scales(largest: Array, threshold: int, largest_exponent: int) -> Array:
    """``block_scaling.shared_scale`` of each absmax; uint8."""
    codes = block_scaling.shared_scale(to_bits(largest), threshold, largest_exponent)
    return codes.astype(np.uint8).reshape(largest.shape)


def times_power(x: Array, power: Array) -> Array:
    """``block_scaling.times_power`` of x (rows, size) and power (rows, 1), uint32."""
    return from_bits(block_scaling.times_power(to_bits(x), power)).reshape(x.shape)
