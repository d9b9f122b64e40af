"""Run by ``planning/test_compiling`` with a topology: a step for it without one of its roundings, what is found.

In its place stands XLA's own conversion, which it may take away.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from precision.backends import get_backend
from precision.backends.jax_ import hardware
from qsim.config import DataConfig, ModelConfig, RunConfig
from qsim.mesh import Mesh
from qsim.planning.checks import check
from qsim.planning.compiling import compiled
from qsim.planning.hlo import Program
from qsim.planning.topologies import described
from qsim.policy import parse_policy

CONFIG = RunConfig(
    model=ModelConfig(layers=1, hidden=128, heads=2, length=128, vocabulary=256),
    data=DataConfig(batch_size=4, reduction_chunks=4),
)
plain, met = hardware.round_to, []


def round_to(x: Any, fmt: Any, *how: Any) -> Any:
    """The first product as wide as the MLP is not rounded."""
    if x.shape[-1:] == (4 * CONFIG.model.hidden,) and x.ndim == 2 and len(x) > 1 and not met:
        met.append(x)
        return x.astype("bfloat16")
    return plain(x, fmt, *how)


topology = described(sys.argv[1])
get_backend("jax").devices.compile_for(topology.platform)
hardware.round_to = round_to  # type: ignore[assignment]
step, found, _ = compiled(CONFIG, parse_policy("native-bf16"), Mesh(data=4), topology)
print(json.dumps(check(step, Program(found.as_text()))["faults"]))
