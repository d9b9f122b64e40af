"""The arithmetic of a site in float64, every rounding the identity: what other policies are held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from qsim.site import Composed, Deferred
from qsim.site_policy import SitePolicy

Array = Any


class IdentitySite:
    """The operations of ``qsim.site.Site`` on NumPy arrays in float64, in NumPy's order of sums.

    Operands may come in float32; constants are float64, so that every result is.
    """

    add = staticmethod(np.add)
    subtract = staticmethod(np.subtract)
    multiply = staticmethod(np.multiply)
    divide = staticmethod(np.divide)
    square_root = staticmethod(np.sqrt)
    exp = staticmethod(np.exp)
    log = staticmethod(np.log)
    erf = staticmethod(special.erf)
    tanh = staticmethod(np.tanh)
    scalar = staticmethod(np.float64)
    is_float32 = False

    def __init__(self, policy: SitePolicy) -> None:
        self.policy = policy

    def matmul(self, a: Array, b: Array, key: Array | None = None) -> Array:
        del key  # no gradient is rounded
        return np.matmul(a, b)

    def sum(self, x: Array, axis: int = -1) -> Array:
        return np.sum(x, axis=axis)

    def max(self, x: Array, mask: Array | None = None) -> Array:
        return np.max(x if mask is None else np.where(mask, x, -np.inf), axis=-1, keepdims=True)

    def scatter_add_rows(self, indices: Array, rows: Array, size: int) -> Array:
        out = np.zeros((len(rows), size, rows.shape[2]))
        for chunk in range(len(rows)):
            np.add.at(out[chunk], indices[chunk], rows[chunk])
        return out

    def output(self, x: Array) -> Array:
        return x

    narrowed = own_output = output

    def deferred(self, x: Array, prepare: Callable[[Array], Array] = lambda x: x) -> Deferred:
        return Deferred(prepare(x))

    def fused(self, name: str, composed: Composed, *operands: Array, **of_kernel: Any) -> tuple[Array, ...]:
        del name, of_kernel  # kernels compute in float32
        return composed(*operands)

    unrounded = fused

    def gelu(self, x: Array) -> Array:
        return x * special.ndtr(x)

    def activation(
        self, function: str, x: Array, composed: Callable[[Array], Array], words: tuple[int, ...] | None = None
    ) -> Array:
        del function, words
        return composed(x)

    def gated(
        self, function: str, x: Array, y: Array, composed: Callable[[Array], Array], words: tuple[int, ...]
    ) -> Array:
        return self.activation(function, x, composed, words) * y

    def gelu_backward(self, x: Array, dy: Array) -> Array:
        return dy * (special.ndtr(x) + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi))
