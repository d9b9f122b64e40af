"""Models of others, given by --compare: analyzed and evaluated as our own are, on text that they can read."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from experiments.quantizing import INT8, PRE, Evaluation, how_of
from qsim.analysis import Analysis, analyze, windows
from qsim.importing import Model, open_model, own_format
from qsim.policy import parse_policy
from qsim.post_training import quantize_model

TOKENS = 1024  # of the embedded text, or of a run's own held-out part


@lru_cache(maxsize=8)
def analysis_of(path: Path) -> Analysis:
    model = open_model(path)
    tokens, words = windows(model, [], count=TOKENS)
    return analyze(model, tokens, policy=own_format(model), name=path.name, text=words)


@lru_cache(maxsize=8)
def degradation_of(path: Path) -> tuple[int, float, float, float]:
    """Parameters, mean losses before and after vector-wise INT8, and the increase in percent."""
    model = open_model(path)
    policy = parse_policy(own_format(model))
    tokens, _ = windows(model, [], count=TOKENS)
    used = {PRE: model, INT8: quantize_model(model, how_of(INT8, policy))}
    losses = []
    for one in used.values():
        evaluation = Evaluation(model=one, policy=policy, executor="numba")
        losses.append(float(evaluation.scored(tokens[:, :-1], tokens[:, 1:])[0].mean()))
    return parameters(model), losses[0], losses[1], 100 * (losses[1] / losses[0] - 1)


def parameters(model: Model) -> int:
    """Of all layers, and outside them."""
    layers = [model.layer(number) for number in range(model.config.layers)]
    return sum(int(np.size(w)) for part in (model.weights.outer(), *layers) for w in part.values())
