"""Operations of a training step, and how long a run of them takes."""

from __future__ import annotations

from qsim.config import ModelConfig, RunConfig

DAY = 86_400
_COUNTING = 2 * 64 * 128  # operations by which a value finds its place in a table of significands
_INTERVALS = (25, 50, 100, 200, 500, 1000)
_SHARE = 0.1  # of a run's time


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


def values_of_a_token(model: ModelConfig) -> int:
    """Values that a step counts a token, forward and backward: L (47 h + 4 A T) + 4 h + 2 V.

    Weight gradients and parameters, of which a step has as many for any number of tokens, left out.
    """
    of_layer = 47 * model.hidden + 4 * model.heads * model.length
    return model.layers * of_layer + 4 * model.hidden + 2 * model.vocabulary


def statistics_in_steps(model: ModelConfig) -> float:
    """Operations of a step's tables of significands, by those of the step."""
    return _COUNTING * values_of_a_token(model) / operations_of_a_token(model)


def statistics_interval(model: ModelConfig) -> int:
    """Steps from one that keeps statistics to the next, so that the tables' operations are at most a tenth of all."""
    of_step = statistics_in_steps(model)
    return next((every for every in _INTERVALS if of_step / every <= _SHARE), _INTERVALS[-1])
