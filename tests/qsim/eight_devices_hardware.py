"""Run by ``test_hardware``: native steps in hardware arithmetic on meshes of eight devices, against one device."""

from __future__ import annotations

import numpy as np

from qsim.bench.train import Training
from qsim.config import DataConfig, ModelConfig, RunConfig
from qsim.devices import find_devices
from qsim.mesh import parse_mesh
from qsim.policy import parse_policy
from qsim.step import Step

CONFIG = RunConfig(
    model=ModelConfig(layers=2, hidden=16, heads=2, length=8, vocabulary=32, dropout=0.1),
    data=DataConfig(batch_size=8),
)
STEPS = 3


def losses(policy: str, mesh: str | None) -> np.ndarray:
    arithmetic = parse_policy(policy)
    devices = find_devices(CONFIG, arithmetic, "jax", None if mesh is None else parse_mesh(mesh))
    training = Training(CONFIG, arithmetic, Step(CONFIG, arithmetic, "jax", devices=devices, hardware=True))
    for _ in range(STEPS):
        training()
    return np.array(training.losses)


apart = np.abs(losses("native-bf16", "data=4,model=2") - losses("native-bf16", None)).max()
assert apart <= 1e-3, f"eight devices are {apart} away from one"
