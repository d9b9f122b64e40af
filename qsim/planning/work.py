"""Operations of a training step, and how long a run of them takes."""

from __future__ import annotations

from qsim.config import ModelConfig, RunConfig

DAY = 86_400


def operations_of_a_token(model: ModelConfig) -> int:
    """Floating-point operations, forward and backward: 6 N + 12 L h T.

    N counts the parameters that multiply (weights of blocks and logits), 12 L h T the products of attention, masked
    ones included: the model's own, none that are computed again (Chowdhery et al. 2022, 2204.02311, appendix B).
    """
    weights = model.layers * 12 * model.hidden**2 + model.vocabulary * model.hidden
    return 6 * weights + 12 * model.layers * model.hidden * model.length


def operations_of_a_step(config: RunConfig) -> int:
    return operations_of_a_token(config.model) * config.data.batch_size * config.model.length


def step_seconds(config: RunConfig, devices: int, tflops: float, utilisation: float) -> float:
    """operations / (devices x peak x utilisation), utilisation of the model's own operations."""
    return operations_of_a_step(config) / (devices * tflops * 1e12 * utilisation)
