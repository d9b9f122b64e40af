"""The arithmetic of the sites with every rounding the identity: float64 throughout.  For tests alone."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special

from precision.backends.numpy_ import scan
from precision.random_bits import random_bits
from qsim.sharding import ONE_DEVICE


class IdentitySite:
    """The operations of ``qsim.sites.Site`` in float64."""

    add = staticmethod(np.add)
    subtract = staticmethod(np.subtract)
    multiply = staticmethod(np.multiply)
    divide = staticmethod(np.divide)
    square_root = staticmethod(np.sqrt)
    exp = staticmethod(np.exp)
    log = staticmethod(np.log)

    def matmul(self, a: Any, b: Any, key: None = None, counter: int = 0) -> Any:
        del key, counter
        return np.matmul(a, b)

    def sum(self, x: Any, axis: int = -1) -> Any:
        return np.sum(x, axis=axis)

    def max(self, x: Any, mask: Any = None) -> Any:
        return np.max(x if mask is None else np.where(mask, x, -np.inf), axis=-1, keepdims=True)

    def scalar(self, value: float) -> Any:
        return np.float64(value)

    def scatter_add_rows(self, indices: Any, rows: Any, size: int) -> Any:
        out = np.zeros((len(rows), size, rows.shape[2]))
        for chunk in range(len(rows)):
            np.add.at(out[chunk], indices[chunk], rows[chunk])
        return out

    def output(self, x: Any) -> Any:
        return x

    def narrowed(self, x: Any) -> Any:
        return x

    def gelu(self, x: Any) -> Any:
        return x * special.ndtr(x)

    def gelu_gradient(self, x: Any) -> Any:
        return special.ndtr(x) + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


class IdentityCalculator:
    """``qsim.sites.Calculator`` for the layers, in float64."""

    xp = np
    shards = ONE_DEVICE
    scan = staticmethod(scan)
    unrecorded = staticmethod(nullcontext)

    def at(self, site: str, direction: str) -> IdentitySite:
        del site, direction
        return self.float32

    def stage(self, name: str) -> IdentitySite:
        del name
        return self.float32

    @cached_property
    def float32(self) -> IdentitySite:
        return IdentitySite()

    def random_words(self, key: Any, shape: tuple[int, ...]) -> Any:
        return random_bits((int(key[0]), int(key[1])), np.arange(np.prod(shape), dtype=np.uint64).reshape(shape))
