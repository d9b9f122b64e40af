"""Verdicts on mechanism metrics, methods and bytes, on rows constructed for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from constructed_rows import constructed

from experiments import activations, early_checkpoints, latency_memory, methods, outlier_dimensions, weights
from experiments.early_checkpoints import CONTROL
from experiments.experiment import Experiment
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD
from experiments.quantizing import INT8, INT8_WEIGHTS, LLM_INT8, SMOOTHQUANT, TENSORWISE
from experiments.statistics import change_of_scores, rank_correlation

FP16 = "fp16, decay 0.1"
WIDER = dict.fromkeys(("rmse", "std", "std_gain", "spectral_norm", "weight_std"), 0.2)


@pytest.mark.parametrize("experiment", [activations.EXPERIMENT, weights.EXPERIMENT], ids=lambda one: one.name)
@pytest.mark.parametrize(
    ("metrics", "more", "outcome"),
    [
        ({FP16: WIDER}, {}, REPRODUCED),
        ({}, {}, NOT_REPRODUCED),
        ({FP16: WIDER}, {"seeds": 2}, UNTOLD),
        ({FP16: WIDER}, {"pre": {FP16: 4.5}}, UNTOLD),
    ],
)
def test_wider_in_fp16(experiment: Experiment, metrics: dict[str, Any], more: dict[str, Any], outcome: str) -> None:
    assert experiment.judge(constructed(experiment, {}, metrics=metrics, **more)).outcome == outcome


@pytest.mark.parametrize(
    ("schemes", "outcome", "words"),
    [
        ({TENSORWISE: 1.0}, REPRODUCED, TENSORWISE),
        ({INT8: 1.0}, NOT_REPRODUCED, LLM_INT8),
        ({TENSORWISE: 1.0, SMOOTHQUANT: -0.5}, NOT_REPRODUCED, SMOOTHQUANT),
        ({TENSORWISE: -1.0}, NOT_REPRODUCED, TENSORWISE),
    ],
)
def test_methods(schemes: dict[str, float], outcome: str, words: str) -> None:
    experiment = methods.EXPERIMENT
    verdict = experiment.judge(constructed(experiment, {}, schemes=schemes))
    assert verdict.outcome == outcome
    assert words in verdict.reason


def rising(sign: int) -> tuple[dict[str, float], dict[str, int]]:
    """Degradations, and outlier dimensions that rise with them, or in no order of theirs."""
    experiment = outlier_dimensions.EXPERIMENT
    labels = list(constructed(experiment, {}).labels)
    degradations = {label: 0.2 * number for number, label in enumerate(labels)}
    counts = [number if sign else (7 * number) % len(labels) for number in range(len(labels))]
    return degradations, dict(zip(labels, counts, strict=True))


@pytest.mark.parametrize(("sign", "outcome"), [(1, NOT_REPRODUCED), (0, REPRODUCED)])
def test_outliers_that_tell_and_do_not(sign: int, outcome: str) -> None:
    degradations, outliers = rising(sign)
    found = constructed(outlier_dimensions.EXPERIMENT, degradations, outliers=outliers)
    assert outlier_dimensions.EXPERIMENT.judge(found).outcome == outcome


@pytest.mark.parametrize("more", [{"seeds": 2}, {"pre": {CONTROL: 4.5}}, {}])
def test_outliers_of_which_nothing_is_told(more: dict[str, Any]) -> None:
    degradations, _ = rising(1)
    assert (
        outlier_dimensions.EXPERIMENT.judge(constructed(outlier_dimensions.EXPERIMENT, degradations, **more)).outcome
        == UNTOLD
    )
    assert early_checkpoints.CONTROL in constructed(outlier_dimensions.EXPERIMENT, {}).labels


def timed(executor: str, int8: float, llm: float, alone: tuple[float, float]) -> dict[str, Any]:
    def row(method: str, batch: int, times: float) -> dict[str, Any]:
        return {"batch": batch, "executor": executor, "method": method, "times as fast as fp16": times}

    rows = [row(INT8, batch, int8) for batch in (1, 16)] + [row(LLM_INT8, 16, llm)]
    return {"latency": [*rows, row(INT8_WEIGHTS, 1, alone[0]), row(INT8_WEIGHTS, 16, alone[1])], "memory": []}


@pytest.mark.parametrize(
    ("tables", "outcome"),
    [
        (timed("jax", 1.4, 0.9, (1.5, 0.9)), REPRODUCED),
        (timed("jax", 1.1, 0.9, (1.5, 0.9)), NOT_REPRODUCED),
        (timed("jax", 1.4, 1.5, (1.5, 0.9)), NOT_REPRODUCED),
        (timed("jax", 1.4, 0.9, (0.9, 1.5)), NOT_REPRODUCED),
        (timed("numba", 1.4, 0.9, (1.5, 0.9)), UNTOLD),
    ],
)
def test_latency(tables: dict[str, Any], outcome: str) -> None:
    assert latency_memory.judge(tables).outcome == outcome


def test_bytes_of_the_papers_sizes() -> None:
    """Of 52B: one byte a linear weight, 12 h^2 a block, two of the rest; scales are some 0.01 %."""
    (row,) = [row for row in latency_memory.of_paper() if (row["size"], row["method"]) == ("52B", INT8)]
    linear = 64 * 12 * 8192**2
    assert row["saved"] == pytest.approx(linear / row["bytes in 16 bits"], abs=1e-3)


def test_change_of_scores() -> None:
    pre, post = np.array([[1, 1, 1, 0]] * 3), np.array([[1, 1, 0, 0]] * 3)
    nothing = np.zeros((3, 5), int)
    found = change_of_scores([(pre, post), (pre, pre), (nothing, nothing)])
    assert found is not None
    assert found.mean == pytest.approx(-100 / 6)
    assert change_of_scores([(nothing, nothing)]) is None


def test_rank_correlation() -> None:
    x = np.arange(8.0)[:, None] + np.zeros((8, 3))
    found = rank_correlation(x, x**2)
    assert found is not None
    assert (found.mean, found.low) == (pytest.approx(1), pytest.approx(1))
    assert rank_correlation(x, np.ones_like(x)) is None


@pytest.mark.parametrize("experiment", [activations.EXPERIMENT, weights.EXPERIMENT], ids=lambda one: one.name)
def test_a_model_that_diverged_is_drawn_around(experiment: Experiment) -> None:
    found = constructed(experiment, {}, pre={FP16: np.nan})
    for row in found.rows[FP16]:
        row["checkpoints"]["20"] |= {"layers": [], "weights": [], "gains": []}
    assert experiment.judge(found).outcome == UNTOLD
    experiment.draw(found)
    assert experiment.table(found)
