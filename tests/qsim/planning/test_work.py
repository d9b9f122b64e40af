"""Operations and time of a step: against the products that a step computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_runs import small_config

from qsim.config import RunConfig, preset
from qsim.planning.work import (
    operations_of_a_step,
    operations_of_a_token,
    statistics_interval,
    step_seconds,
    values_of_a_token,
)
from qsim.policy import POLICIES
from qsim.position import inputs_of, start
from qsim.recorders import Recorder
from qsim.site import Site
from qsim.sites import Calculator
from qsim.step import training_step


class CountingSite(Site):
    def matmul(self, a: Any, b: Any, key: Any = None) -> Any:
        if a.ndim == 3:
            self._calculator.operations += 2 * a.size * b.shape[2]  # type: ignore[attr-defined]
        return super().matmul(a, b, key)


class Counting(Calculator):
    site_type = CountingSite
    operations = 0


def operations_of_products(config: RunConfig) -> int:
    policy = POLICIES["fp32"]
    ar, position = Counting(policy, "numpy"), start(config, policy)
    tokens = np.zeros((2, config.data.batch_size, config.model.length), np.int32)
    given = inputs_of(config, policy, position, tuple(tokens))
    training_step(ar, config, position.state, given.batch, given.scalars, given.keys)
    return ar.operations


def test_a_step_multiplies_so_much() -> None:
    """Every product of the step, forward and backward, at 2 m k n."""
    for changes in ({}, {"model.layers": 3, "model.length": 8, "data.accumulation": 2}):
        config = small_config(**changes)
        assert operations_of_products(config) == operations_of_a_step(config)


@pytest.mark.parametrize("name", ["125m", "410m", "1b", "6b", "13b", "52b"])
def test_a_token_takes_six_a_parameter_and_attention(name: str) -> None:
    """All parameters but the tables that are looked up, gains and biases, which multiply no matrix."""
    model = preset(name).model
    idle = (model.vocabulary + model.length + 2) * model.hidden + 13 * model.layers * model.hidden
    attention = 12 * model.layers * model.hidden * model.length
    assert operations_of_a_token(model) == 6 * (model.parameters - idle) + attention


@pytest.mark.parametrize("changes", [{}, {"model.layers": 3, "model.hidden": 64, "model.length": 64}])
def test_a_step_counts_so_many_values_a_token(changes: dict[str, Any]) -> None:
    config, policy, recorder = small_config(**changes), POLICIES["bf16"], Recorder()
    ar, position = Calculator(policy, "numpy", recorder), start(config, policy)
    tokens = np.zeros((2, config.data.batch_size, config.model.length), np.int32)
    given = inputs_of(config, policy, position, tuple(tokens))
    training_step(ar, config, position.state, given.batch, given.scalars, given.keys)
    sizes = {key: int(size) for key, (size, *_) in recorder.results(ar.backend).items()}
    found = sum(size for key, size in sizes.items() if not key.endswith(("wgrad", "weights", "loss.fprop")))
    assert found == values_of_a_token(config.model) * tokens[0].size


def test_statistics_are_kept_the_more_seldom_the_more_they_cost() -> None:
    """By hand, 16384 operations a value: 410m 24 (47 1024 + 4 16 2048) + 4 1024 + 2 51200 values a token, in
    2.73e9 operations: 26 steps; 52b in 3.25e11: 2.9."""
    assert statistics_interval(preset("410m").model) == 500
    assert statistics_interval(preset("52b").model) == 50


def test_time() -> None:
    """2 devices of 1 TFLOP/s at half their peak make 10^12 operations a second."""
    config = small_config()
    assert step_seconds(config, 2, 1.0, 0.5) == pytest.approx(operations_of_a_step(config) / 1e12, rel=1e-12)
