"""Where a Pallas kernel is lowered to, and the blocks that arrays are cut into for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import triton

Array = Any
LANES = 128  # of a TPU's vector registers: the last axis of every block is a multiple of them
SUBLANES = 8  # its other axis, of 32-bit words


@dataclass(frozen=True)
class Target:
    """One way of lowering.

    ordered: the blocks of a grid run one after the other, so that one may read what another has left, as on a TPU;
    else all at once, as on a GPU.  interpreted: as XLA operations, on any platform, slowly.
    """

    ordered: bool
    interpreted: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Of ``pallas_call``."""
        if self.interpreted:
            return {"interpret": True}
        return {} if self.ordered else {"compiler_params": triton.CompilerParams(num_warps=8, num_stages=2)}


INTERPRETED = Target(ordered=True, interpreted=True)
PLATFORMS = {"cpu": INTERPRETED, "tpu": Target(ordered=True), "cuda": Target(ordered=False)}


def launched(launch: Callable[..., Any], *operands: Array, target: Target | None = None) -> Any:
    """launch(target, *operands), the target that of the platform for which the computation is lowered, or given.

    Errors: NotImplementedError of JAX where it is lowered for another platform.
    """
    if target is not None:
        return launch(target, *operands)
    ways = {platform: partial(launch, one) for platform, one in PLATFORMS.items()}
    return lax.platform_dependent(*operands, **ways)


def padded(x: Array, multiples: tuple[int, ...], fill: Any = 0) -> Array:
    """x with each axis filled up at its end; x itself, no copy, where nothing is to be filled."""
    widths = [(0, -size % multiple) for size, multiple in zip(x.shape, multiples, strict=True)]
    return jnp.pad(x, widths, constant_values=fill) if any(after for _, after in widths) else x


def block_size(size: int, smallest: int, largest: int) -> int:
    """The power of two, or ``largest``, of an axis's blocks: no more than it takes to hold all of it."""
    block = smallest
    while block < min(size, largest):
        block *= 2
    return block
