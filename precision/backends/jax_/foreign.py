"""Numba kernels inside jitted JAX, as XLA foreign functions on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.sharding import NamedSharding, PartitionSpec

from precision.backends.jax_.structure import varying_together

Array = Any


def call(
    kernel: Any, words: np.ndarray, *operands: Array, sizes: Mapping[str, int] | None = None
) -> tuple[Array, ...]:
    """The results of a kernel of the Numba back end (its record ``Foreign``), operands arrays or tracers.

        results = kernel(*inputs, *results, words), the first results beginning as the last operands

    Shapes: by the letters of the record; ``sizes`` gives those that no operand has.  words: int64 (n,), constants.
    Under ``vmap`` a mapped axis becomes part of an axis that all results have, or, where there is none, one call a
    value; under ``shard_map`` every result varies as all operands together.  There is no derivative.
    Threads: all of Numba's where there is one CPU device and the product of all sizes is worth it, else one, because
    several devices call at once.
    Only for computations lowered for a CPU (elsewhere XLA knows no such function), in the process that traced them.
    Errors: TypeError where operands are not the record's; XLA's INVALID_ARGUMENT from the function itself.
    """
    bound = kernel.bound(operands, sizes or {})
    operands = varying_together(*operands)
    run = custom_vmap(lambda *x: _call(kernel, words, bound, x))
    run.def_vmap(lambda size, mapped, *x: _mapped(kernel, words, bound, size, mapped, x))
    return run(*operands)


def _call(kernel: Any, words: np.ndarray, bound: dict[str, int], operands: tuple[Array, ...]) -> tuple[Array, ...]:
    kind = jax.typeof(operands[0])
    whole = None if kind.sharding.mesh.empty else NamedSharding(kind.sharding.mesh, PartitionSpec())
    like = partial(jax.ShapeDtypeStruct, sharding=whole, manual_axis_type=kind.manual_axis_type)
    results = tuple(like([bound[letter] for letter in one.axes], one.dtype) for one in kernel.results)
    parallel = jax.local_device_count(backend="cpu") == 1 and kernel.is_worth_threads(bound)
    inputs = len(operands) - kernel.starts
    in_place = {inputs + i: i for i in range(kernel.starts)}
    target = _registered(kernel, parallel)
    return jax.ffi.ffi_call(target, results, vmap_method="sequential", input_output_aliases=in_place)(
        *operands, words=words
    )


@cache
def _registered(kernel: Any, parallel: bool) -> str:
    """The name under which XLA knows the function, compiled and registered on first use."""
    name, address = kernel.handler(parallel=parallel)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(ctypes.c_void_p(address)), platform="cpu", api_version=1)
    return name


def _mapped(
    kernel: Any, words: np.ndarray, bound: dict[str, int], size: int, mapped: list[bool], operands: tuple[Array, ...]
) -> tuple[tuple[Array, ...], tuple[bool, ...]]:
    """The call over a leading axis of the mapped operands.  -> results, all of them mapped"""
    everywhere = (True,) * len(kernel.results)
    letter = _letter(kernel, mapped)
    if letter is None:
        whole = [x if m else jnp.broadcast_to(x, (size, *x.shape)) for m, x in zip(mapped, operands, strict=True)]
        return jax.lax.map(lambda x: call(kernel, words, *x, sizes=bound), tuple(whole)), everywhere
    folded = []
    for one, is_mapped, x in zip(kernel.operands, mapped, operands, strict=True):
        if letter in one.axes:
            x = x if is_mapped else jnp.broadcast_to(x, (size, *x.shape))
            place = one.axes.index(letter)
            shape = [bound[axis] * (size if axis == letter else 1) for axis in one.axes]
            x = jnp.moveaxis(x, 0, place).reshape(shape)
        folded.append(x)
    results = call(kernel, words, *folded, sizes=bound | {letter: bound[letter] * size})
    return tuple(
        _unfolded(x, one.axes.index(letter), size) for one, x in zip(kernel.results, results, strict=True)
    ), everywhere


def _unfolded(x: Array, place: int, size: int) -> Array:
    """An axis (V L) taken apart, V in front."""
    shape = (*x.shape[:place], size, x.shape[place] // size, *x.shape[place + 1 :])
    return jnp.moveaxis(x.reshape(shape), place, 0)


def _letter(kernel: Any, mapped: list[bool]) -> str | None:
    """The axis that takes up a mapped one: all results and all mapped operands have it, and the fewest others."""
    having = [one.axes for one, m in zip(kernel.operands, mapped, strict=True) if m]
    having += [one.axes for one in kernel.results]
    others = [one.axes for one, m in zip(kernel.operands, mapped, strict=True) if not m]
    shared = [letter for letter in kernel.results[0].axes if all(letter in axes for axes in having)]
    return min(shared, key=lambda letter: sum(letter in axes for axes in others), default=None)
