"""A run planned: parameters, bytes of a device, operations, days."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from qsim.config import RunConfig, as_json, preset
from qsim.planning import work
from qsim.planning.choosing import Way
from qsim.planning.machines import Machine
from qsim.policy import Arithmetic

PRESETS = ("125m", "410m", "1b", "6b", "13b", "52b")
DERIVED = ("410m", "6b", "13b", "52b")  # the study names these models; their shapes are inferred from their sizes
MACHINES = {"125m": "h100-1", "410m": "v4-8", "1b": "v4-32", "6b": "v4-128", "13b": "v4-512", "52b": "v4-2048"}
UTILISATION = 0.4


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run on a machine; utilisation: of its peak, by the model's own operations."""

    way: Way
    policy: Arithmetic
    machine: Machine
    utilisation: float

    @property
    def config(self) -> RunConfig:
        return self.way.config

    @property
    def step_seconds(self) -> float:
        return work.step_seconds(self.config, self.way.mesh.count, self.machine.chip.tflops, self.utilisation)

    @property
    def days(self) -> float:
        return self.step_seconds * self.config.steps / work.DAY

    @property
    def command(self) -> str:
        """What trains it, on the machine."""
        begun, config = preset(self.config.preset), self.config
        changed = {
            f"{record}.{key}": value
            for record in ("model", "data")
            for key, value in as_json(config)[record].items()
            if value != as_json(begun)[record][key]
        }
        every = work.statistics_interval(config.model)
        if every > config.record.statistics_every:
            changed["record.statistics_every"] = every
        words = [f"qsim train --preset {config.preset} --policy {self.policy.name} --executor jax"]
        if self.way.mesh.count in self.machine.chip.sizes:
            words.append(f"--machine {self.machine}")
        words += [f"--mesh {self.way.mesh} --checkpoints orbax"] if self.way.mesh.count > 1 else []
        words += ["--distributed"] if self.way.mesh.count > self.machine.chip.of_host else []
        words += [f"--{key} {str(value).lower()}" for key, value in changed.items()]
        return " ".join([*words, "--text PATH --out RUN"])

    def as_json(self) -> dict[str, Any]:
        config, chip = self.config, self.machine.chip
        return {
            "preset": config.preset,
            "derived": config.preset in DERIVED,
            "parameters": config.model.parameters,
            "policy": self.policy.name,
            "machine": str(self.machine),
            "devices": self.way.mesh.count,
            "mesh": str(self.way.mesh),
            "batch": config.data.batch_size,
            "sequence": config.model.length,
            "reduction_chunks": config.data.reduction_chunks,
            "accumulation": config.data.accumulation,
            "recompute": config.model.recompute,
            "bytes": self.way.held,
            "bytes_of_a_device": self.way.bytes,
            "memory_of_a_device": chip.memory,
            "operations_of_a_step": work.operations_of_a_step(config),
            "tflops_of_a_device": chip.tflops,
            "utilisation": self.utilisation,
            "steps": config.steps,
            "statistics_every": work.statistics_interval(config.model),
            # elsewhere no matrix unit takes part
            "statistics_in_steps": work.statistics_in_steps(config.model) if chip.platform == "tpu" else None,
            "seconds_of_a_step": self.step_seconds,
            "days": self.days,
            "command": self.command,
        }


def tokens_of_a_step(config: RunConfig) -> int:
    return math.prod((config.data.batch_size, config.model.length))
