"""Learning rate by step, in float64 on the host: linear warm-up, then a schedule of the configuration."""

from __future__ import annotations

import math

from qsim.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of step t = 1 ... steps, with R = ``learning_rate``, W = ``warmup_steps``, f = ``final_fraction``.

    R t / W up to W, then R times the schedule's factor:

        constant: 1
        cosine:   f + (1 - f) (1 + cos(pi (t - W) / (S - W))) / 2
        wsd:      1 up to S - D, then f + (1 - f) (S - t) / D

    S is ``decay_steps``, or ``steps`` where that is None; after S the rate stays.  D is ``decay_fraction`` S, rounded
    to a whole number, at least 1 and at most S - W, so that the decay begins where the warm-up has ended.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    last = steps if config.decay_steps is None else config.decay_steps
    shape = _cosine if config.schedule == "cosine" else _stable_then_linear
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * shape(config, step, last))


def _cosine(config: OptimizerConfig, step: int, last: int) -> float:
    progress = (step - config.warmup_steps) / max(1, last - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _stable_then_linear(config: OptimizerConfig, step: int, last: int) -> float:
    decay = max(1, min(round(config.decay_fraction * last), last - config.warmup_steps))
    return min(1.0, max(0, last - step) / decay)
