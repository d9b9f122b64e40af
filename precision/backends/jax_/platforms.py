"""What XLA compiles for: the default device's platform, or that of a machine which is not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
from jax.experimental import topologies

_absent: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Devices that are not here, to compile for.

    name: ``CHIP:SHAPE``, of a TPU as libtpu has it (``v4:2x2x1``), of GPUs computers by devices of each
    (``h100:1x8``).
    target: of a GPU, the text of XLA's ``GpuTargetConfigProto``.
    """

    platform: Literal["tpu", "gpu"]
    name: str
    target: str = ""

    def devices(self) -> list[Any]:
        """As JAX has those that are here; RuntimeError or NotImplementedError where their compiler is not."""
        if self.platform == "gpu":
            shape = f"1x{self.name.partition(':')[2]}"  # which share one network
            options = {"target_config": self.target, "topology": shape}
            return list(topologies.get_topology_desc(platform="cuda", topology_name=self.name, **options).devices)
        # both cores of a TPU v4, as JAX has them
        joined = {"chip_config_name": "megacore"} if self.name.startswith("v4:") else {}
        return list(topologies.get_topology_desc(platform="tpu", topology_name=self.name, **joined).devices)


def platform() -> str:
    """``cpu``, ``gpu``, ``tpu``, ..."""
    return _absent[0] if _absent else jax.default_backend()


def compile_for(name: str) -> None:
    """From now on whatever this process traces is for that platform; for a process that computes nothing itself.

    Functions that were traced before keep what they were traced for: to be called before any is.
    """
    _absent[:] = [name]
