"""A step compiled in a process of its own, which a compiler may end."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qsim.config import ConfigError, RunConfig, as_json
from qsim.memory import GIB
from qsim.mesh import Mesh
from qsim.planning.machines import CHIPS
from qsim.planning.plan import Plan
from qsim.policy import Arithmetic

_COMPILERS = {
    "tpu": (("libtpu",), "XLA's library for TPUs"),
    "gpu": (("jax_cuda12_plugin", "jax_cuda13_plugin"), "XLA's compiler for NVIDIA GPUs"),
}
# the library for TPUs asks nobody for a machine and lets others load it, and JAX looks for none
_ALONE = (
    "env",
    "TPU_SKIP_MDS_QUERY=1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD=1",
    "JAX_PLATFORMS=cpu",
    "TF_CPP_MIN_LOG_LEVEL=3",
)


def compile_plan(plan: Plan, hlo: Path | None = None, *, statistics: bool = False) -> dict[str, Any]:
    """What ``compile_apart`` gives, and whether it ``passed``: no fault, and it fits a device.

    Errors: ConfigError where the machine's compiler is not here, and where it fails.
    """
    topology = plan.machine.topology
    if topology is None:
        raise ConfigError(
            f"there is no machine of {plan.machine.devices} devices of {plan.machine.chip.name} to compile for; "
            "name one, as in --machine v4-128 or h100-8"
        )
    found = compile_apart(plan.config, plan.policy, plan.way.mesh, topology, hlo, statistics=statistics)
    memory, held, faults = plan.machine.chip.memory, found["bytes"]["held"], found["checks"]["faults"]
    if held > memory:
        faults.append(f"the step holds {held / GIB:.2f} GiB of a device that has {memory / GIB:.2f} GiB")
    return {"topology": topology, **found, "passed": not faults}


def compile_apart(
    config: RunConfig,
    policy: Arithmetic,
    mesh: Mesh,
    topology: str | None,
    hlo: Path | None = None,
    *,
    statistics: bool = False,
) -> dict[str, Any]:
    """The answer of ``qsim.planning.compiling``, from a process of its own.

    topology: that of a ``Machine``; None for the CPU that this is.  hlo: a file for the optimised program.
    statistics: of the step that keeps them.
    Errors: ConfigError where the library is not installed, and where the compiler fails, with the last it said.
    """
    request = {
        "config": as_json(config),
        "policy": policy.as_json(),
        "mesh": str(mesh),
        "topology": topology,
        "hlo": None if hlo is None else str(hlo),
        "statistics": statistics,
    }
    return answer_of("qsim.planning.compiling", request)


def answer_of(module: str, request: dict[str, Any]) -> dict[str, Any]:
    """What a module that reads a request and prints an answer says, in a process of its own.

    Errors: ConfigError where the compiler for ``request["topology"]`` is not installed, and where it fails.
    """
    topology = request["topology"]
    if topology is not None:
        _check_installed(CHIPS[topology.partition(":")[0]].platform)
    command = [*_ALONE, sys.executable, "-m", module]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(_failure(done, topology))
    return json.loads(done.stdout.splitlines()[-1])


def _check_installed(platform: str) -> None:
    modules, what = _COMPILERS[platform]
    if not any(map(find_spec, modules)):
        raise ConfigError(f"{what} is not installed; pip install 'qsim-precision[{platform}]'")


def _failure(done: subprocess.CompletedProcess[str], topology: str | None) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "it said nothing")
    how = f"was ended by signal {-done.returncode}" if done.returncode < 0 else "failed"
    return f"the compiler for {topology or 'this CPU'} {how}: {said[:600]}"
