"""An update of drawn parameters, and what a step counts of it, on any back end."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from qsim.config import OptimizerConfig
from qsim.draws import write_back_keys
from qsim.optimizer import adamw, step_scalars
from qsim.policy import Arithmetic
from qsim.sites import Calculator
from qsim.swallowed import Update, as_json
from qsim.tensor_counts import count_tensors, sizes, updates

SHAPES = {"logits.weight": (40, 30), "blocks.qkv.weight": (2, 20, 30), "blocks.qkv.bias": (2, 30)}


def tensors_counted(
    policy: Arithmetic, config: OptimizerConfig, update: Update, gradients: dict[str, Any], backend: str = "numpy"
) -> dict[str, Any]:
    """As a step counts, on JAX under jit."""

    def count(before: Any, after: Any, scalars: Any, keys: Any, gradients: Any) -> dict[str, Any]:
        found = Update(before=before, after=after, scalars=scalars, keys=keys)
        return count_tensors(Calculator(policy, backend), config, found, gradients)

    run = jax.jit(count) if backend == "jax" else count
    return run(update.before, update.after, update.scalars, update.keys, gradients)


def swallowed(
    policy: Arithmetic, config: OptimizerConfig, update: Update, backend: str = "numpy"
) -> dict[str, dict[str, Any]]:
    """What a run keeps of an update, by tensor."""
    counts = tensors_counted(policy, config, update, update.before, backend)
    return as_json(policy, sizes(update.before), updates(counts))


def drawn_update(policy: Arithmetic, config: OptimizerConfig, *, scale: float = 1.0) -> Update:
    """The tenth update of drawn parameters by drawn gradients of every size, as ``adamw`` makes it."""
    rng = np.random.default_rng(3)
    ar = Calculator(policy, "numpy")
    keys = write_back_keys(policy, SHAPES, 5, 8)
    ar.draw_from(keys)

    def draw() -> dict[str, np.ndarray]:
        sizes = {name: 10.0 ** rng.integers(-9, 1, shape) for name, shape in SHAPES.items()}
        return {name: (rng.standard_normal(x.shape) * x).astype(np.float32) for name, x in sizes.items()}

    before = ar.working_copy(draw()) if not policy.has_master else draw()
    gradients, first = draw(), draw()
    state = {
        "parameters": before,
        "first": {name: np.float32(scale) * x for name, x in first.items()},
        "second": {name: np.float32(scale) * np.square(x) for name, x in first.items()},
    }
    gradients = {name: np.float32(scale) * g for name, g in gradients.items()}
    scalars = step_scalars(config, 10, 20, 9, 1.0)
    after = adamw(ar, config, state, gradients, scalars, np.float32(1))
    return Update(before=before, after=after, scalars=scalars, keys=keys)
