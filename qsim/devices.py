"""Where a run computes: one device, a mesh of them, several processes; how arrays get there and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np

from precision.backends import get_backend
from precision.quantization.scheme import MatmulScheme, QScheme
from qsim.config import ConfigError, RunConfig
from qsim.data import Batch
from qsim.delayed_scaling import PART, first_histories
from qsim.executors import on_hardware, refuse_identity
from qsim.memory import GIB, counted
from qsim.mesh import Mesh
from qsim.model import Part, parameter_shapes
from qsim.policy import Arithmetic
from qsim.sharding import DATA, MODEL, Layout, Shards

Array = Any
# State: parameters and moments by name.  Batch: arrays of rows.  Same: whatever every device holds whole.
Kind = Literal["state", "parameters", "batch", "same"]
Kinds = Any  # a kind, or dicts and tuples of kinds
STATE = ("parameters", "first", "second")
_ALONG_K = ("vector", "group")


def whole(name: str, shape: tuple[int, ...], part: Callable[[Part], np.ndarray]) -> np.ndarray:
    """An array of its only part, as ``OneDevice.make``."""
    del name
    return part(tuple((0, size) for size in shape))


class OneDevice:
    """Everything where the executor puts it."""

    shards = Shards()
    writes = True  # whether this process keeps the run folder
    process, processes = 0, 1  # which of how many this is

    def __init__(self, executor: str) -> None:
        self._backend = get_backend(executor)

    def compiled(
        self, function: Callable, inputs: Sequence[Kind], outputs: Kinds, donated: tuple[int, ...] = ()
    ) -> Callable:
        """The function, compiled where that compiles; there results may take the memory of ``donated`` arguments."""
        del inputs, outputs
        return self._backend.jit(function, donated)

    def place(self, value: Any, kind: Kind, shared_parts: int = 1) -> Any:
        """Host arrays as the compiled function takes them; ``value`` a tree as the kind says.

        shared_parts: of a batch, as ``Shards`` has them.
        """
        del kind, shared_parts
        return value

    def make(self, name: str, shape: tuple[int, ...], part: Callable[[Part], np.ndarray]) -> Array:
        """An array laid out as a parameter, of the parts that the devices of this process hold and no others.

        part: gives what lies between bounds along each axis.
        """
        return whole(name, shape, part)

    def batch(
        self, rows: Callable[[np.ndarray], Batch], shape: tuple[int, int], shared_parts: int = 1
    ) -> tuple[Array, Array]:
        """Tokens and targets (B, T), of which ``rows`` gives those that the devices of this process hold.

        shared_parts: as ``Shards`` has them.
        """
        return rows(np.arange(shape[0]))

    def sharding(self, part: str, name: str) -> Any:
        """How an array of a part of a state lies on the devices; None for what is whole on the host."""
        return None

    def on_host(self, tree: Mapping[str, Array]) -> dict[str, np.ndarray]:
        """Whole arrays by name, in every process: all of them must ask."""
        return {name: np.asarray(x) for name, x in tree.items()}

    def largest_of_processes(self, number: int) -> int:
        """The largest of the numbers that the processes name: all of them must ask."""
        return number


class MeshDevices:
    """A mesh of JAX devices, of this process or of several; of a ``topology`` that is not here, to compile for."""

    def __init__(self, config: RunConfig, policy: Arithmetic, mesh: Mesh, topology: Any = None) -> None:
        self._jax = get_backend("jax").devices
        self._mesh = self._jax.make_mesh({DATA: mesh.data, MODEL: mesh.model}, topology)
        self.shards = Shards.of(mesh.data, mesh.model, parameter_shapes(config.model), config.model.heads)
        self.process, self.processes = self._jax.process_index(), self._jax.process_count()
        self.writes = self.process == 0
        self._histories = dict.fromkeys(first_histories(policy, config.model.layers), ())

    def compiled(
        self, function: Callable, inputs: Sequence[Kind], outputs: Kinds, donated: tuple[int, ...] = ()
    ) -> Callable:
        """The function as every device runs it on its own parts."""
        layouts = tuple(map(self._layout, inputs)), self._layouts(outputs)
        return self._jax.compiled(function, self._mesh, *layouts, donated)

    def _layouts(self, kinds: Kinds) -> Any:
        if isinstance(kinds, str):
            return self._layout(kinds)
        if isinstance(kinds, dict):
            return {name: self._layouts(kind) for name, kind in kinds.items()}
        return tuple(map(self._layouts, kinds))

    def _layout(self, kind: str) -> Any:
        if kind == "state":
            layouts = {part: dict(self.shards.layouts) for part in STATE}
            return layouts | ({PART: self._histories} if self._histories else {})
        return {"parameters": dict(self.shards.layouts), "batch": (DATA,), "same": ()}[kind]

    def place(self, value: Any, kind: Kind, shared_parts: int = 1) -> Any:
        if kind == "state":
            return {part: self.place(tree, "parameters") for part, tree in value.items()}
        if kind == "parameters":
            return {name: self._place(x, self.shards.layouts.get(name, ())) for name, x in value.items()}
        if kind == "batch":
            shards = replace(self.shards, shared_parts=shared_parts)
            return tuple(self._place(shards.shared_out(x), (DATA,)) if _is_host(x) else x for x in value)
        return value

    def _place(self, x: Array, layout: Layout) -> Array:
        return self._jax.place(x, self._mesh, layout) if _is_host(x) else x

    def make(self, name: str, shape: tuple[int, ...], part: Callable[[Part], np.ndarray]) -> Array:
        return self._jax.make(shape, self._mesh, self.shards.layouts.get(name, ()), part)

    def batch(
        self, rows: Callable[[np.ndarray], Batch], shape: tuple[int, int], shared_parts: int = 1
    ) -> tuple[Array, Array]:
        order = replace(self.shards, shared_parts=shared_parts).shared_out(np.arange(shape[0]))
        read = cache(lambda own: rows(order[slice(*own)]))  # tokens and targets come together
        tokens = self._jax.make(shape, self._mesh, (DATA,), lambda part: read(part[0])[0])
        return tokens, self._jax.make(shape, self._mesh, (DATA,), lambda part: read(part[0])[1])

    def sharding(self, part: str, name: str) -> Any:
        return self._jax.sharding(self._mesh, self.shards.layouts[name]) if part in STATE else None

    def on_host(self, tree: Mapping[str, Array]) -> dict[str, np.ndarray]:
        return {name: self._jax.on_host(x) for name, x in sorted(tree.items())}

    def largest_of_processes(self, number: int) -> int:
        return self._jax.largest_of_processes(number)


def _is_host(x: Array) -> bool:
    return isinstance(x, np.ndarray)


Devices = OneDevice | MeshDevices


def find_devices(config: RunConfig, policy: Arithmetic, executor: str, mesh: Mesh | None) -> Devices:
    """What a run is to compute on; the bits are the same wherever that is.

    Errors: ConfigError where the mesh does not fit the run, or there are no such devices.
    """
    try:
        refuse_identity(policy, executor)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if mesh is None or mesh.count == 1:
        mesh = Mesh()
    else:
        check_mesh(config, policy, executor, mesh)
    if executor == "jax":
        limit = get_backend("jax").devices.memory_limit()
        check_memory(config, policy, mesh, limit, hardware=on_hardware(policy, executor))
    return OneDevice(executor) if mesh.count == 1 else MeshDevices(config, policy, mesh)


def check_mesh(config: RunConfig, policy: Arithmetic, executor: str, mesh: Mesh) -> None:
    """ConfigError where the mesh does not fit the run."""
    if executor != "jax":
        raise ConfigError(
            f"executor {executor} computes on one device; use --executor jax for a mesh of {mesh.count}"
        )
    check_division(config, policy, mesh)
    available = get_backend("jax").devices.device_count()
    if mesh.count > available:
        raise ConfigError(
            f"mesh {mesh} needs {mesh.count} devices and JAX has {available}; choose a smaller one, or divide a CPU "
            f"by XLA_FLAGS=--xla_force_host_platform_device_count={mesh.count}"
        )


def check_division(config: RunConfig, policy: Arithmetic, mesh: Mesh) -> None:
    """ConfigError where the mesh does not divide the model, the batch, or what scales are of."""
    _check_divides(config, mesh)
    _check_schemes(config, policy, mesh)


def check_memory(config: RunConfig, policy: Arithmetic, mesh: Mesh, limit: int | None, *, hardware: bool) -> None:
    """ConfigError where a step has to hold more than ``limit`` bytes of a device, by ``qsim.memory.counted``."""
    needed = sum(counted(config, policy, mesh=mesh, hardware=hardware).values())
    if limit is not None and needed > limit:
        raise ConfigError(
            f"a step of {config.model.parameters:,} parameters needs {needed / GIB:.2f} GiB of each device of mesh "
            f"{mesh} and a device has {limit / GIB:.2f} GiB; use more devices, a larger data.accumulation (now "
            f"{config.data.accumulation})" + ("" if config.model.recompute else ", or model.recompute true")
        )


def _check_divides(config: RunConfig, mesh: Mesh) -> None:
    model, chunks = config.model, config.data.reduction_chunks
    for axis, size, name, value in (
        (DATA, mesh.data, "data.reduction_chunks / data.accumulation", chunks // config.data.accumulation),
        (MODEL, mesh.model, "model.heads", model.heads),
        (MODEL, mesh.model, "model.vocabulary", model.vocabulary),
    ):
        if value % size:
            raise ConfigError(f"{axis}={size} of the mesh does not divide {name} {value}; choose a divisor of it")


def _check_schemes(config: RunConfig, policy: Arithmetic, mesh: Mesh) -> None:
    """Scales and outlier columns of integers must be those of whole vectors that one device holds."""
    for where, _, direction, row in policy.rows():
        place, scheme = f"{where} of policy {policy.name}", row.scheme(direction)
        if row.scaling == "blocks" and mesh.model > 1 and config.model.hidden % (row.block * mesh.model):
            raise ConfigError(
                f"{place} has scales of {row.block} columns of weights, which model={mesh.model} would cut; use a "
                f"model.hidden that is a multiple of {row.block * mesh.model}, or data={mesh.count}"
            )
        if scheme is not None and not _is_of_vectors(scheme):
            raise ConfigError(
                f"{place} is quantized by {scheme.name}, whose scales or outliers span the rows of several devices; "
                "use one device"
            )


def _is_of_vectors(scheme: MatmulScheme) -> bool:
    schemes = (scheme.x, scheme.w)
    return scheme.threshold is None and all(
        isinstance(one, QScheme) and one.granularity in _ALONG_K for one in schemes
    )
