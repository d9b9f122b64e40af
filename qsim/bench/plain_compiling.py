"""The plain bfloat16 step compiled ahead of time; run as ``qsim.planning.compiling`` is, in a process of its own."""

from __future__ import annotations

import json
import sys
from typing import Any

from qsim.bench.plain_step import PlainStep
from qsim.config import from_json
from qsim.mesh import Mesh
from qsim.planning.compiling import AbsentDevices, compiled_in_time, inputs, topology_of, traffic_of
from qsim.planning.hlo import Program
from qsim.policy import parse_policy

Row = dict[str, Any]


def answer(request: Row) -> Row:
    config, policy, topology = from_json(request["config"]), parse_policy("fp32"), topology_of(request)
    devices = AbsentDevices(config, policy, Mesh(), topology)
    state, batch, scalars, _ = inputs(config, policy)
    step = PlainStep(config, dtype="bfloat16")
    given = devices.place(state, "state"), devices.place(batch, "batch"), scalars
    found, row = compiled_in_time(lambda: step.lowered(*given))
    return row | {"traffic": traffic_of(Program(found.as_text()), topology)}


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
