"""Run by ``planning/test_compiling``: bytes that a step holds on meshes of eight CPU devices, over those counted."""

from __future__ import annotations

import json

from qsim.config import DataConfig, ModelConfig, RunConfig, override_all
from qsim.memory import counted
from qsim.mesh import parse_mesh
from qsim.planning.compiling import compiled
from qsim.policy import parse_policy

CONFIG = RunConfig(
    model=ModelConfig(layers=4, hidden=64, heads=4, length=64, vocabulary=256),
    data=DataConfig(batch_size=16, reduction_chunks=16),
)
CASES = (
    ("data=1", {}),
    ("data=8", {}),
    ("data=4,model=2", {"model.recompute": True}),
    ("data=2,model=4", {"data.accumulation": 4}),
    ("data=4,model=2", {"data.accumulation": 2, "model.recompute": True}),
)
POLICY = parse_policy("native-bf16")

ratios = {}
for mesh, changes in CASES:
    config = override_all(CONFIG, changes.items())
    _, _, row = compiled(config, POLICY, parse_mesh(mesh))
    needed = sum(counted(config, POLICY, mesh=parse_mesh(mesh), hardware=True).values())
    ratios[f"{mesh} {changes}"] = row["bytes"]["held"] / needed
print(json.dumps(ratios))
