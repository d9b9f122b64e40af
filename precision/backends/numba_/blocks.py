"""Scales of block formats on NumPy arrays through Numba loops."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from precision.backends.numba_ import scaling_kernels
from precision.backends.numba_.compilation import kernel

Array = np.ndarray
_times_power = scaling_kernels.times_power


@kernel
def _scale_rows(u, power, out):
    for i in prange(u.shape[0]):
        row = power[i, 0]
        for j in range(u.shape[1]):
            out[i, j] = _times_power(u[i, j], row)


def times_power(x: Array, power: Array) -> Array:
    """``block_scaling.times_power`` of x (rows, size) and power (rows, 1), uint32."""
    u: Any = np.ascontiguousarray(x).view(np.uint32)
    out = np.empty_like(u)
    _scale_rows(u, np.ascontiguousarray(power), out)
    return out.view(np.float32)
