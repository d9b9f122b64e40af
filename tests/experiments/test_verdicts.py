"""Every experiment's rule gives each of the three verdicts, on rows constructed for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from constructed_rows import SMALL, constructed

from experiments import (
    dropout,
    formats,
    gradient_clipping,
    half_precision,
    int4,
    layernorm_precision,
    learning_rate_decay,
    positions,
    underflow,
    weight_decay,
)
from experiments.catalogue import TRAINED, experiments_named
from experiments.experiment import Experiment
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD

LOSSY = {underflow.MOST: {"gradients_underflowed": 500}}
AS_CLAIMED: dict[str, tuple[Experiment, dict[str, float], dict[str, Any]]] = {
    "half_precision": (
        half_precision.EXPERIMENT,
        {"fp16, decay 0.1": 0.5, "fp16, decay 0.01": 1.7, "bf16, decay 0.1": 0.1, "bf16, decay 0.01": 0.2},
        {},
    ),
    "weight_decay": (
        weight_decay.EXPERIMENT,
        {weight_decay.label(d, clip): 0.1 / d**0.4 for d in weight_decay.DECAYS for clip, _ in weight_decay.CLIPS},
        {},
    ),
    "underflow": (
        underflow.EXPERIMENT,
        {underflow.MOST: 1.0, underflow.LEAST: 0.2, "bf16": 0.1},
        {"training": LOSSY},
    ),
    "gradient_clipping": (
        gradient_clipping.EXPERIMENT,
        {"decay 0.001, no clipping": 1.4, "decay 0.001, clipped at 1": 0.6, "decay 0.1, no clipping": 0.1},
        {},
    ),
    "dropout": (dropout.EXPERIMENT, {f"dropout {p:g}": 0.1 + p for p in dropout.RATES}, {}),
    "learning_rate_decay": (
        learning_rate_decay.EXPERIMENT,
        {learning_rate_decay.COSINE: 0.8, learning_rate_decay.STABLE: 0.9, learning_rate_decay.CONSTANT: 0.2},
        {},
    ),
    "formats": (formats.EXPERIMENT, {formats.BF16: 0.5, "fp16": 0.7, formats.INTEGERS: 0.1}, {}),
    "int4": (int4.EXPERIMENT, {int4.GOOD: 3.6, **dict.fromkeys(int4.OTHERS, 18.7)}, {}),
}


OF_OTHER_RULES = {  # whose claims are not that A degrades more than B, or not of all variants at once
    "positions",
    "layernorm_precision",
    "early_checkpoints",
    "scale",
    "finetune",
    "fp16_on_tpu",
    "accumulators",
    "activations",
    "weights",
    "methods",
    "outlier_dimensions",
}
OWN_TABLES = ("activations", "weights", "methods", "outlier_dimensions")  # whose lines are no variants with losses


def test_every_experiment_is_here() -> None:
    assert set(AS_CLAIMED) | OF_OTHER_RULES == set(TRAINED)


@pytest.mark.parametrize("name", AS_CLAIMED)
def test_what_the_paper_says_is_reproduced(name: str) -> None:
    experiment, degradations, more = AS_CLAIMED[name]
    verdict = experiment.judge(constructed(experiment, degradations, **more))
    assert verdict.outcome == REPRODUCED
    assert "points" in verdict.reason


@pytest.mark.parametrize("name", AS_CLAIMED)
def test_the_contrary_is_not(name: str) -> None:
    experiment, degradations, more = AS_CLAIMED[name]
    contrary = {label: -percent for label, percent in degradations.items()}
    assert experiment.judge(constructed(experiment, contrary, **more)).outcome == NOT_REPRODUCED


@pytest.mark.parametrize("name", AS_CLAIMED)
def test_nor_is_a_null_that_is_resolved(name: str) -> None:
    experiment, _, more = AS_CLAIMED[name]
    verdict = experiment.judge(constructed(experiment, {}, noise=0.0005, **more))
    assert verdict.outcome == NOT_REPRODUCED


@pytest.mark.parametrize("name", AS_CLAIMED)
def test_noise_tells_nothing(name: str) -> None:
    experiment, _, more = AS_CLAIMED[name]
    assert experiment.judge(constructed(experiment, {}, noise=0.1, **more)).outcome == UNTOLD


@pytest.mark.parametrize("name", AS_CLAIMED)
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"seeds": 2}, "2 seed(s)"),
        ({"pre": 4.01}, "learned too little"),
        ({"pre": float("nan")}, "is no number"),
        ({"pre": 3.07}, "+2.3 % from"),
    ],
)
def test_nothing_is_told_where_models_are_not_comparable(name: str, more: dict[str, Any], words: str) -> None:
    experiment, degradations, given = AS_CLAIMED[name]
    if "pre" in more:
        controlled = next(variant.label for variant in experiment.at(SMALL) if variant.control)
        more = {"pre": {controlled: more["pre"]}}
    verdict = experiment.judge(constructed(experiment, degradations, **given, **more))
    assert verdict.outcome == UNTOLD
    assert words in verdict.reason


def test_underflow_is_not_told_where_nothing_underflows() -> None:
    experiment, degradations, _ = AS_CLAIMED["underflow"]
    verdict = experiment.judge(constructed(experiment, degradations))
    assert verdict.outcome == UNTOLD
    assert "loses 0.0e+00 of gradients" in verdict.reason


def test_underflow_says_which_of_the_comparable_lost_most() -> None:
    experiment, degradations, _ = AS_CLAIMED["underflow"]
    kept, flushed = "fp16, kept, no scale", "fp16, flushed, static scale"
    lossy = LOSSY | {kept: {"gradients_underflowed": 100}, flushed: {"gradients_underflowed": 50}}
    found = experiment.judge(constructed(experiment, degradations, training=lossy, pre={underflow.MOST: 9.0}))
    assert found.outcome == UNTOLD
    assert f"{kept}, most of those comparable, loses " in found.reason
    assert f"{kept} minus bf16: " in found.reason
    assert "most of those" not in experiment.judge(constructed(experiment, degradations, training=LOSSY)).reason


def test_dropout_of_0_8_may_learn_less() -> None:
    experiment, degradations, _ = AS_CLAIMED["dropout"]
    apart, nothing = (
        experiment.judge(constructed(experiment, degradations, pre={dropout.EXCEPTED: loss})) for loss in (3.9, 4.5)
    )
    assert apart.outcome == REPRODUCED
    assert nothing.outcome == UNTOLD
    assert f"{dropout.EXCEPTED} learned too little" in nothing.reason


@pytest.mark.parametrize(
    ("alibi", "more", "outcome"),
    [
        (0.03, {"noise": 0.0001}, REPRODUCED),
        (0.2, {"noise": 0.0001}, NOT_REPRODUCED),
        (0.06, {}, UNTOLD),
        (0.0, {"seeds": 2}, UNTOLD),
        (0.0, {"pre": {"alibi": 2.9}}, UNTOLD),
    ],
)
def test_positions(alibi: float, more: dict[str, Any], outcome: str) -> None:
    experiment = positions.EXPERIMENT
    assert experiment.judge(constructed(experiment, {"alibi": alibi}, **more)).outcome == outcome


@pytest.mark.parametrize(
    ("pre", "seeds", "outcome"),
    [
        ({layernorm_precision.NARROW: float("nan")}, 3, REPRODUCED),
        ({layernorm_precision.NARROW: 4.5}, 3, REPRODUCED),
        ({layernorm_precision.NARROW: 3.02}, 3, NOT_REPRODUCED),
        ({layernorm_precision.NARROW: 3.5}, 3, UNTOLD),
        ({layernorm_precision.WIDE: 4.5}, 3, UNTOLD),
        ({layernorm_precision.NARROW: float("nan")}, 2, UNTOLD),
    ],
)
def test_layernorm(pre: dict[str, float], seeds: int, outcome: str) -> None:
    experiment = layernorm_precision.EXPERIMENT
    assert experiment.judge(constructed(experiment, {}, pre=pre, seeds=seeds)).outcome == outcome


@pytest.mark.parametrize("name", TRAINED)
def test_rule_and_claim_are_written_down_beforehand(name: str) -> None:
    module = __import__(f"experiments.{name}", fromlist=["EXPERIMENT"])
    assert "Claim:" in module.__doc__
    assert "Rule, written before it was run" in module.__doc__
    assert module.EXPERIMENT.name == name


@pytest.mark.parametrize("name", TRAINED)
def test_figure_and_table(name: str) -> None:
    (experiment,) = experiments_named([name])
    assert isinstance(experiment, Experiment)
    _, degradations, more = AS_CLAIMED.get(name, (experiment, {}, {}))
    results = constructed(experiment, degradations, **more)
    drawn, table = experiment.draw(results), experiment.table(results)
    assert all(axes.has_data() or axes.get_title() for axes in drawn.axes)
    if name in OWN_TABLES:
        assert table
        return
    assert [line["variant"] for line in table] == results.labels
    assert np.isfinite([float(line["loss"]) for line in table]).all()


def test_labels_are_unique_and_controls_exist() -> None:
    for experiment in experiments_named(TRAINED):
        assert isinstance(experiment, Experiment)
        variants = experiment.at(SMALL)
        labels = [variant.label for variant in variants]
        assert len(set(labels)) == len(labels)
        assert {variant.control for variant in variants} - {None} <= set(labels)
