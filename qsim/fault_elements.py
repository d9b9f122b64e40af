"""How much every site gives out in a step, found without computing it: a fault elsewhere is refused at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from precision.backends import get_backend
from qsim.capture import TensorRecorder
from qsim.config import ConfigError, RunConfig
from qsim.faults import Fault
from qsim.policy import Arithmetic
from qsim.position import inputs_of, start
from qsim.sites import Calculator
from qsim.step import training_step


def check_elements(faults: Iterable[Fault], config: RunConfig, policy: Arithmetic) -> None:
    """ConfigError for a fault whose element its site does not give out, or whose bit its format does not have."""
    found = list(faults)
    if not found or policy.identity:
        return
    given = elements(config, policy)
    for fault in found:
        size, bits = given.get(f"{fault.place}.{fault.direction}", (0, 0))
        if fault.element >= size:
            raise ConfigError(f"fault {fault} is of element {fault.element}; {fault.place} gives out {size:,}")
        if fault.bit is not None and fault.bit >= bits:
            raise ConfigError(f"fault {fault} flips bit {fault.bit} of {bits}; give 0 to {bits - 1}")


@lru_cache(maxsize=8)
def elements(config: RunConfig, policy: Arithmetic) -> dict[str, tuple[int, int]]:
    """By ``layer.N.site.pass``: values that it gives out in a step, and bits of their format; by tracing on JAX."""
    position = start(config, policy)
    shape = (config.data.batch_size, config.model.length)
    tokens = (np.zeros(shape, np.int32), np.zeros(shape, np.int32))
    given = inputs_of(config, policy, position, tokens)
    recorder = TensorRecorder()

    def step(state: Any, batch: Any) -> Any:
        ar = Calculator(policy, "jax", recorder)
        training_step(ar, config, state, batch, given.scalars, given.keys)
        return recorder.results(ar.backend)

    records = get_backend("jax").shapes_of(step, position.state, tokens)
    sizes = {key: sum(math.prod(x.shape) for x in pairs[1::2]) for key, pairs in records.items()}
    return {key: (size, recorder.formats[key].bits) for key, size in sizes.items()}
