"""Computations over several devices: a mesh, arrays laid out on it, and what moves between its devices.

Inside a computation floats only move, by ``gather`` and ``exchange``; what is summed over devices is integers, so
that the order of no rounding depends on the mesh.  A layout is a tuple that names, for each axis of an array, the
axis of the mesh that it is split over, or None; axes left out at the end are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from precision.backends.jax_.arithmetic import unknown_zero
from precision.backends.jax_.platforms import Topology as Topology
from precision.backends.jax_.platforms import compile_for as compile_for
from precision.backends.jax_.platforms import platform as platform
from precision.backends.jax_.rounding import from_bits, on_cpu, to_bits

Array = Any
Layout = tuple[str | None, ...]
Part = tuple[tuple[int, int], ...]  # of an array: from where to where along each axis


def join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Make this process one of several that compute together, before anything else asks for a device.

    All None: what the cluster that runs the job says of itself.
    Errors: ValueError where there is no such cluster; RuntimeError where the others do not answer.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from the caller
    jax.distributed.initialize(coordinator_address=coordinator, num_processes=processes, process_id=process)


def process_index() -> int:
    return jax.process_index()


def process_count() -> int:
    return jax.process_count()


def device_count() -> int:
    """Devices of all processes."""
    return jax.device_count()


def kinds() -> list[str]:
    """What each device of all processes is called."""
    return [device.device_kind for device in jax.devices()]


def memory_limit() -> int | None:
    """Bytes that every device of this process lets a computation have; None where one does not say."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    said = [limit for limit in limits if limit is not None]
    return min(said) if len(said) == len(limits) else None


def make_mesh(sizes: Mapping[str, int], topology: Topology | None = None) -> Mesh:
    """The first devices there are, in a grid of named axes; or those of a ``topology`` that is not here.

    Errors: ValueError where they are too few.
    """
    devices = jax.devices() if topology is None else topology.devices()
    needed = int(np.prod(list(sizes.values())))
    if needed > len(devices):
        raise ValueError(f"a mesh of {needed} devices needs more than the {len(devices)} there are")
    kinds = (AxisType.Auto,) * len(sizes)
    # an axis of the mesh may be a part of one of the torus, as 4 of 8 x 8 x 16
    grid = mesh_utils.create_device_mesh(tuple(sizes.values()), devices[:needed], allow_split_physical_axes=True)
    return Mesh(grid, tuple(sizes), axis_types=kinds)


# Outside a computation


def compiled(function: Callable, mesh: Mesh, inputs: Any, outputs: Any, donated: tuple[int, ...] = ()) -> Callable:
    """function as every device runs it on its own parts, under jit; ``inputs``, ``outputs``: layouts, or trees.

    donated: arguments whose memory results may take; they are then gone.
    """
    # what is replicated is so by construction: XLA is asked neither to check nor to sum
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=_specs(inputs), out_specs=_specs(outputs), check_vma=False
    )  # fmt: skip
    return jax.jit(mapped, donate_argnums=donated)


def _specs(layouts: Any) -> Any:
    return jax.tree.map(lambda layout: PartitionSpec(*layout), layouts, is_leaf=_is_layout)


def _is_layout(x: Any) -> bool:
    return isinstance(x, tuple) and all(axis is None or isinstance(axis, str) for axis in x)


def place(x: np.ndarray, mesh: Mesh, layout: Layout) -> jax.Array:
    """A host array, the same in every process, spread over the mesh; a process copies its own parts alone."""
    return jax.make_array_from_callback(x.shape, sharding(mesh, layout), lambda part: x[part])


def sharding(mesh: Mesh, layout: Layout) -> NamedSharding:
    """How an array of that layout lies on the mesh."""
    return NamedSharding(mesh, PartitionSpec(*layout))


def make(shape: tuple[int, ...], mesh: Mesh, layout: Layout, part: Callable[[Part], np.ndarray]) -> jax.Array:
    """An array spread over the mesh, ``part`` asked for what lies between bounds along each axis, in turn.

    Only parts of this process's own devices are asked for, each once however many devices hold it, and a device has
    its part before the next is made: the host holds one at a time.
    """
    placed = sharding(mesh, layout)
    holders: dict[Part, list[Any]] = {}
    for device, where in placed.addressable_devices_indices_map(shape).items():
        bounds = tuple(axis.indices(size)[:2] for axis, size in zip(where, shape, strict=True))
        holders.setdefault(bounds, []).append(device)
    held: dict[Any, jax.Array] = {}
    for bounds, devices in holders.items():
        values = part(bounds)
        held |= {device: jax.device_put(values, device) for device in devices}
        jax.block_until_ready([held[device] for device in devices])
    arrays = [held[device] for device in placed.addressable_devices_indices_map(shape)]
    return jax.make_array_from_single_device_arrays(shape, placed, arrays)


def shaped(shape: tuple[int, ...], dtype: Any, mesh: Mesh, layout: Layout) -> jax.ShapeDtypeStruct:
    """An array so spread over the mesh, without its values."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(mesh, layout))


def on_host(x: jax.Array | np.ndarray) -> np.ndarray:
    """The whole array in every process; all of them must ask for it."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        whole = NamedSharding(x.sharding.mesh, PartitionSpec())
        x = jax.jit(_same, out_shardings=whole)(x)
    return np.asarray(x)


def largest_of_processes(number: int) -> int:
    """The largest of the int32 that the processes name; all of them must ask."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def _same(x: Array) -> Array:
    """Compiled once a shape, because it is one function."""
    return x


# Inside


class Turns:
    """One computation's movements between devices, one after another and everywhere in the same order.

    XLA starts whatever has its operands, on a CPU with few threads for all devices: two that start such operations in
    different orders wait for each other for ever.  So each operand depends on a word of what came before, through a
    zero that the compiler cannot see.  Other platforms run what they move in one order, that of the program.
    """

    def __init__(self) -> None:
        self._last: Array | None = None

    def take(self, move: Callable[[Array], Array], x: Array) -> Array:
        """move(x), in its turn."""
        y = move(self.after(x))
        self.begin_after(y)
        return y

    def after(self, x: Array) -> Array:
        """x, to be had when all that moved so far has arrived."""
        if self._last is None or not on_cpu():
            return x
        zero = unknown_zero(self._last)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x ^ zero.astype(x.dtype)
        word = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
        return lax.bitcast_convert_type(lax.bitcast_convert_type(x, word) ^ zero.astype(word), x.dtype)

    def begin_after(self, x: Array) -> None:
        """What moves next moves after x is there."""
        first = x.reshape(-1)[:1].reshape(())
        self._last = to_bits(first) if jnp.issubdtype(x.dtype, jnp.floating) else first.astype(jnp.uint32)


def index(axis: str) -> Array:
    """Place of this device along an axis of the mesh, int32."""
    return lax.axis_index(axis)


def gather(x: Array, mesh_axis: str, axis: int) -> Array:
    """The parts of all devices along a mesh axis, joined along an axis."""
    return _as_it_is(lambda x: lax.all_gather(x, mesh_axis, axis=axis % x.ndim, tiled=True), x)


def exchange(x: Array, mesh_axis: str, apart: int, together: int) -> Array:
    """Split along the axis ``apart``, each device receiving its part of all devices, joined along ``together``."""
    return _as_it_is(lambda x: lax.all_to_all(x, mesh_axis, apart % x.ndim, together % x.ndim, tiled=True), x)


def _as_it_is(move: Callable[[Array], Array], x: Array) -> Array:
    """move(x), of floats of 16 bits on a TPU their words: its compiler would widen them before, not after."""
    if platform() != "tpu" or x.dtype not in (jnp.bfloat16, jnp.float16):
        return move(x)
    return lax.bitcast_convert_type(move(lax.bitcast_convert_type(x, jnp.uint16)), x.dtype)


def own_part(x: Array, mesh_axis: str, axis: int) -> Array:
    """This device's part of an array that all hold."""
    size = x.shape[axis] // lax.axis_size(mesh_axis)
    return lax.dynamic_slice_in_dim(x, index(mesh_axis) * size, size, axis % x.ndim)


def integer_sum(x: Array, mesh_axes: tuple[str, ...]) -> Array:
    """Sum over devices.  TypeError for floats, whose sum would depend on the order."""
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"sums over devices are for integers, not for {x.dtype}; gather, then sum in a stated order")
    return lax.psum(x, mesh_axes)


def largest(x: Array, mesh_axes: tuple[str, ...]) -> Array:
    """The largest of the magnitudes of all devices, by integer order."""
    return from_bits(largest_word(to_bits(x), mesh_axes))


def largest_word(x: Array, mesh_axes: tuple[str, ...]) -> Array:
    """The largest unsigned word of all devices."""
    return lax.pmax(x, mesh_axes)


def everywhere(flag: Array, mesh_axes: tuple[str, ...]) -> Array:
    """Whether a flag, int32 0 or 1, holds on every device."""
    return lax.pmin(flag, mesh_axes) == 1
