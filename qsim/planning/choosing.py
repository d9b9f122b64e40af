"""Which mesh, how many parts of a batch and whether to recompute: the first way of a run on a machine that fits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from qsim.config import ConfigError, RunConfig, override_all
from qsim.devices import check_division
from qsim.memory import GIB, counted
from qsim.mesh import Mesh
from qsim.planning.machines import Machine
from qsim.policy import Arithmetic

ROOM = 0.8  # of a device's memory that may be spoken for: what is counted is not all that a compiler needs


@dataclass(frozen=True, kw_only=True)
class Way:
    """A run as it is spread over devices."""

    config: RunConfig
    mesh: Mesh
    held: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.held.values())


def choose(
    config: RunConfig,
    policy: Arithmetic,
    machine: Machine,
    *,
    mesh: Mesh | None = None,
    accumulation: int | None = None,
    recompute: bool | None = None,
    chunks: int | None = None,
) -> Way:
    """The first that fits of: few columns before many, activations kept before recomputed, few parts before many.

    What is given is not chosen.  chunks: ``data.reduction_chunks``; by default enough for devices and parts.
    Errors: ConfigError, with the figures of the way that needs least, where none fits; where the mesh that is given
    does not divide the model.
    """
    ways = list(_ways(config, policy, machine, mesh, accumulation, recompute, chunks))
    fitting = (way for way in ways if way.bytes <= ROOM * machine.chip.memory)
    least = min(ways, key=lambda way: way.bytes)
    chosen = next(fitting, least)
    if chosen.bytes > machine.chip.memory:
        raise ConfigError(
            f"{config.preset} of {config.model.parameters:,} parameters under {policy.name} needs at least "
            f"{chosen.bytes / GIB:.2f} GiB of each device, on mesh {chosen.mesh} in {_parts(chosen.config)}, and a "
            f"device of {machine} has {machine.chip.memory / GIB:.2f} GiB; name a larger machine"
        )
    return chosen


def _parts(config: RunConfig) -> str:
    n = config.data.accumulation
    return f"{n} part{'s' * (n > 1)} of the batch" + (", layers recomputed" if config.model.recompute else "")


def _ways(
    config: RunConfig,
    policy: Arithmetic,
    machine: Machine,
    mesh: Mesh | None,
    accumulation: int | None,
    recompute: bool | None,
    chunks: int | None,
) -> Iterator[Way]:
    """All of them, the preferred ones first; at least one, or ConfigError that says why not."""
    refused: ConfigError | None = None
    none = True
    meshes = list(_meshes(machine.devices)) if mesh is None else [mesh]
    kept = (False, True) if recompute is None else (recompute,)
    parts = _divisors(config.data.batch_size) if accumulation is None else [accumulation]
    for grid, again, number in product(meshes, kept, parts):
        try:
            one = _spread(config, grid, number, again, chunks)
            check_division(one, policy, grid)
        except ConfigError as error:
            refused = refused or error
            continue
        none = False
        held = counted(one, policy, mesh=grid, hardware=not policy.promises_bits)
        yield Way(config=one, mesh=grid, held=held)
    if none and refused is not None:
        raise refused


def _spread(config: RunConfig, mesh: Mesh, parts: int, recompute: bool, chunks: int | None) -> RunConfig:
    """The run with as many chunks as devices and parts want, at least those that it has."""
    wanted = math.lcm(config.data.reduction_chunks, mesh.data * parts) if chunks is None else chunks
    pairs = [("data.reduction_chunks", wanted), ("data.accumulation", parts), ("model.recompute", recompute)]
    return override_all(config, pairs)


def _meshes(devices: int) -> Iterator[Mesh]:
    for columns in _divisors(devices):
        yield Mesh(data=devices // columns, model=columns)


def _divisors(n: int) -> Sequence[int]:
    return [k for k in range(1, n + 1) if n % k == 0]
