"""The training step compiled ahead of time, nothing of it allocated: what the compiler says, and what it made.

Run as ``python -m qsim.planning.compiling`` it reads a request in JSON and prints the answer: a compiler that ends
its process ends no other.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from precision.backends import get_backend
from qsim.arithmetic import from_json as policy_from_json
from qsim.atomic import write_atomically
from qsim.config import RunConfig
from qsim.config import from_json as config_from_json
from qsim.delayed_scaling import PART, first_histories
from qsim.devices import STATE, MeshDevices
from qsim.mesh import Mesh, parse_mesh
from qsim.model import parameter_shapes, step_keys
from qsim.optimizer import step_scalars
from qsim.planning.checks import check
from qsim.planning.hlo import Program
from qsim.planning.topologies import described
from qsim.planning.traffic import received, traffic
from qsim.policy import Arithmetic
from qsim.recorders import StackedRecorder
from qsim.sharding import DATA
from qsim.step import Step

Row = dict[str, Any]


class AbsentDevices(MeshDevices):
    """A mesh to compile for, whose arrays have shapes and places alone."""

    def place(self, value: Any, kind: Any, shared_parts: int = 1) -> Any:
        del shared_parts
        if kind == "state":
            return {part: self._shaped(tree) for part, tree in value.items()}
        if kind == "batch":
            return tuple(self._jax.shaped(x.shape, x.dtype, self._mesh, (DATA,)) for x in value)
        return value

    def _shaped(self, tree: dict[str, Any]) -> dict[str, Any]:
        layouts = self.shards.layouts
        return {
            name: self._jax.shaped(x.shape, x.dtype, self._mesh, layouts.get(name, ())) for name, x in tree.items()
        }


class _Shape:
    """Of a float32 array that is never made."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def inputs(config: RunConfig, policy: Arithmetic) -> tuple[Any, ...]:
    """State, batch, scalars and keys of the first step; of the state and the batch no values."""
    shapes = {name: _Shape(shape) for name, shape in parameter_shapes(config.model).items()}
    state: dict[str, Any] = dict.fromkeys(STATE, shapes)
    histories = first_histories(policy, config.model.layers)
    if histories:
        state[PART] = histories
    tokens = np.broadcast_to(np.int32(0), (config.data.batch_size, config.model.length))
    scalars = step_scalars(config.optimizer, 1, config.steps, 0, 1.0)
    return state, (tokens, tokens), scalars, step_keys(config.model, policy, config.seed, 1)


def compiled(
    config: RunConfig,
    policy: Arithmetic,
    mesh: Mesh,
    topology: Any = None,
    *,
    statistics: bool = False,
) -> tuple[Step, Any, Row]:
    """The step, JAX's compiled form of it and what the compiler says; for the devices here without a topology.

    topology: what ``topologies.described`` gives.
    statistics: the step that a run makes where it keeps them.

    What is said: see ``compiled_in_time``.
    """
    devices = AbsentDevices(config, policy, mesh, topology)
    step = Step(
        config, policy, "jax", StackedRecorder if statistics else None, devices,
        donates=True, hardware=not policy.promises_bits, counts_tensors=statistics,
    )  # fmt: skip
    return step, *compiled_in_time(lambda: step.lowered(*inputs(config, policy)))


def compiled_in_time(lower: Callable[[], Any]) -> tuple[Any, Row]:
    """JAX's compiled form of what ``lower`` gives, and what the compiler says of it.

    Bytes are those of one device: ``held`` arguments, results and temporaries, what results take over from the
    arguments counted once.  operations, bytes_moved: of one device, by the compiler's count, where it gives one.
    """
    began, work = time.perf_counter(), time.process_time()
    lowered = lower()
    traced = time.perf_counter()
    found = lowered.compile()
    ended = time.perf_counter()
    sizes, cost = found.memory_analysis(), found.cost_analysis() or {}
    memory = {
        name: int(getattr(sizes, f"{field}_size_in_bytes"))
        for name, field in (
            ("arguments", "argument"),
            ("results", "output"),
            ("temporaries", "temp"),
            ("shared", "alias"),
        )
    }
    memory["held"] = memory["arguments"] + memory["results"] + memory["temporaries"] - memory["shared"]
    row = {
        "seconds_to_trace": traced - began,
        "seconds_to_compile": ended - traced,
        "cpu_seconds": time.process_time() - work,
        "bytes": memory,
        "operations": cost.get("flops"),
        "bytes_moved": cost.get("bytes accessed"),
    }
    return found, row


def topology_of(request: Row) -> Any:
    """What to compile for, as ``described`` gives it; from now on all that is traced is for it.  None: this CPU."""
    if request["topology"] is None:
        return None
    topology = described(request["topology"])
    get_backend("jax").devices.compile_for(topology.platform)
    return topology


def traffic_of(program: Program, topology: Any) -> Row | None:
    """Kernels of a GPU's program, and the bytes that they move."""
    return vars(traffic(program)) if topology is not None and topology.platform == "gpu" else None


def answer(request: Row) -> Row:
    """What ``qsim plan --compile`` prints of one request."""
    config, policy = config_from_json(request["config"]), policy_from_json(request["policy"])
    mesh, topology = parse_mesh(request["mesh"]), topology_of(request)
    step, found, row = compiled(config, policy, mesh, topology, statistics=request["statistics"])
    text = found.as_text()
    if request["hlo"] is not None:
        write_atomically(Path(request["hlo"]), text.encode())
    program = Program(text)
    said = {"traffic": traffic_of(program, topology), "received": received(program)}
    return row | said | {"checks": check(step, program)}


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
