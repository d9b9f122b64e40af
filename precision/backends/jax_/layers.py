"""Whole layers as single kernels of the Numba back end, inside jitted JAX on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jax import lax

from precision.backends import get_backend
from precision.backends.jax_ import foreign, gemm
from precision.backends.jax_.rounding import on_cpu
from precision.backends.jax_.structure import varying_together

Array = Any
Fused = Callable[..., tuple[Array, ...]]


def fused_layer(name: str) -> Fused | None:
    """(words, composed, *operands, sizes) -> the results of composed(*operands), by a kernel where it is lowered for
    a CPU; None on a host that computes elsewhere.

    words: the constants and roundings of the kernel; sizes: of letters of its record that no operand has.
    """
    return partial(layer, name) if on_cpu() else None


def layer(
    name: str, words: Sequence[int], composed: Fused, *operands: Array, sizes: Mapping[str, int] | None = None
) -> tuple[Array, ...]:
    """The results of composed(*operands), by the kernel of that name where it is lowered for a CPU."""
    layers = get_backend("numba").layers
    bound = layers.UNBOUND | dict(sizes or {})

    def by_kernel(*x: Array) -> tuple[Array, ...]:
        return foreign.call(layers.LAYERS[name], np.array(words, np.int64), *x, sizes=bound)

    return lax.platform_dependent(
        *varying_together(*operands), default=composed, **dict.fromkeys(gemm.FOREIGN_PLATFORMS, by_kernel)
    )
