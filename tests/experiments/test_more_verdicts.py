"""Rules that are not of one comparison over all variants: each of their verdicts on rows constructed for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from constructed_rows import SMALL, constructed

from experiments import accumulators, early_checkpoints, finetune, fp16_on_tpu, learning_rate_decay, scale
from experiments.comparable import comparable, part
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD
from experiments.results import Results

EARLY = [variant.label for variant in early_checkpoints.variants(SMALL)]
ASCENDING = {label: 0.1 + 0.2 * number for number, label in enumerate(EARLY)}
LADDER = [scale.label(one, scale.GOOD) for one in scale.PARTS]
NOTHING = float("nan")


def with_first_step(found: Results, degradations: dict[str, float]) -> Results:
    """Degradation at the first measured step in place of that of the end."""
    experiment = early_checkpoints.EXPERIMENT
    other = constructed(experiment, degradations)
    first = str(found.steps[0])
    for label, rows in found.rows.items():
        for row, given in zip(rows, other.rows[label], strict=True):
            row["checkpoints"][first] = given["checkpoints"][first]
    return found


def test_every_training_counts_once_in_the_order() -> None:
    variants = early_checkpoints.variants(SMALL)
    keys = {variant.training(SMALL, 0).key("") for variant in variants}
    assert (len(variants), len(keys)) == (11, 11)
    assert variants[0].label == early_checkpoints.CONTROL


@pytest.mark.parametrize(
    ("first", "outcome", "words"),
    [
        (ASCENDING, REPRODUCED, "rank correlation of step 10 with step 20 over 11 variants: +1.000"),
        ({label: -percent for label, percent in ASCENDING.items()}, NOT_REPRODUCED, "-1.000"),
        ({label: (7 * number) % 11 for number, label in enumerate(EARLY)}, UNTOLD, "rank correlation of step 10"),
    ],
)
def test_early_checkpoints(first: dict[str, float], outcome: str, words: str) -> None:
    experiment = early_checkpoints.EXPERIMENT
    verdict = experiment.judge(with_first_step(constructed(experiment, ASCENDING, noise=0.0001), first))
    assert verdict.outcome == outcome
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("degradations", "more", "words"),
    [
        ({}, {"noise": 0.1}, "order variants by"),
        (ASCENDING, {"seeds": 2}, "2 seed(s)"),
        (ASCENDING, {"pre": dict.fromkeys(EARLY[1:7], 3.5)}, "5 variants can be compared"),
    ],
)
def test_no_order_is_told(degradations: dict[str, float], more: dict[str, Any], words: str) -> None:
    experiment = early_checkpoints.EXPERIMENT
    verdict = experiment.judge(constructed(experiment, degradations, **more))
    assert verdict.outcome == UNTOLD
    assert words in verdict.reason


def test_dropout_of_0_8_is_in_the_order_and_others_that_lie_apart_are_not() -> None:
    apart = {"dropout 0.8": 3.9, "dropout 0.4": 3.3, "fp16, decay 0.01": NOTHING}
    found = constructed(early_checkpoints.EXPERIMENT, ASCENDING, pre=apart)
    assert set(EARLY) - set(early_checkpoints.judged(found)) == {"dropout 0.4", "fp16, decay 0.01"}


@pytest.mark.parametrize(
    ("largest", "more", "outcome"),
    [
        (0.12, {}, REPRODUCED),
        (-1.0, {}, REPRODUCED),
        (0.5, {}, NOT_REPRODUCED),
        (0.16, {}, UNTOLD),
        (0.12, {"seeds": 2}, UNTOLD),
        (0.12, {"pre": {LADDER[0]: 4.5}}, UNTOLD),
    ],
)
def test_scale(largest: float, more: dict[str, Any], outcome: str) -> None:
    """The smallest degrades by 0.1 %, 0.06 points less than the limit."""
    found = constructed(scale.EXPERIMENT, {LADDER[0]: 0.1, LADDER[-1]: largest}, **more)
    assert scale.EXPERIMENT.judge(found).outcome == outcome


def test_a_ladder_has_the_preset_on_top() -> None:
    found = [variant.training(SMALL, 0).config.model for variant in scale.variants(SMALL)[:4]]
    assert [(one.layers, one.hidden, one.heads) for one in found] == [(1, 32, 1), (2, 64, 2), (3, 96, 3), (4, 128, 4)]
    assert found[-1] == SMALL.config.model


@pytest.mark.parametrize(
    ("degradations", "more", "outcome", "words"),
    [
        ({"fp16, decay 0.01": 1.0, "fp16, decay 0.01, then its own": 1.0}, {}, REPRODUCED, "its own minus"),
        ({"fp16, decay 0.01": 1.0, "fp16, decay 0.01, then good": 1.0}, {}, NOT_REPRODUCED, "its own minus"),
        ({"fp16, decay 0.01": 1.0}, {"noise": 0.0005}, NOT_REPRODUCED, "its own minus"),
        ({"good": 1.0}, {}, UNTOLD, "there is nothing to repair"),
        ({"fp16, decay 0.01": 1.0}, {"seeds": 2}, UNTOLD, "2 seed(s)"),
    ],
)
def test_finetune(degradations: dict[str, float], more: dict[str, Any], outcome: str, words: str) -> None:
    verdict = finetune.EXPERIMENT.judge(constructed(finetune.EXPERIMENT, degradations, **more))
    assert verdict.outcome == outcome
    assert words in verdict.reason


def test_finetuning_starts_from_the_rows_of_others() -> None:
    starts = {v.label: v.start.label for v in finetune.VARIANTS if v.start is not None}
    assert len(starts) == 5
    assert all(label.startswith(start) for label, start in starts.items())


PURE = "all of it in fp16"


@pytest.mark.parametrize(
    ("degradations", "more", "outcome", "words"),
    [
        ({"sums in fp16": 1.7}, {}, REPRODUCED, "sums in fp16 minus bf16"),
        ({}, {"noise": 0.0005}, NOT_REPRODUCED, "none degrades more"),
        ({}, {"noise": 0.1}, UNTOLD, "minus bf16"),
        ({PURE: 1.7}, {"pre": {PURE: NOTHING}, "noise": 0.0005}, NOT_REPRODUCED, "not comparable: all of it in fp16"),
        ({"sums in fp16": 1.7}, {"pre": {"fp16, sums in float32": 3.1}}, UNTOLD, "+3.3 % from bf16"),
        ({"sums in fp16": 1.7}, {"seeds": 2}, UNTOLD, "2 seed(s)"),
    ],
)
def test_fp16_on_tpu(degradations: dict[str, float], more: dict[str, Any], outcome: str, words: str) -> None:
    verdict = fp16_on_tpu.EXPERIMENT.judge(constructed(fp16_on_tpu.EXPERIMENT, degradations, **more))
    assert verdict.outcome == outcome
    assert words in verdict.reason


def spread_by_seed(found: Results, by: float) -> Results:
    """Losses of all variants higher by so much in every further seed, before quantization and after."""
    for rows in found.rows.values():
        for seed, row in enumerate(rows):
            for checkpoint in row["checkpoints"].values():
                for scheme, losses in checkpoint["losses"].items():
                    more = seed * by * (1.0 if scheme == "pre" else 1.1)
                    checkpoint["losses"][scheme] = list(np.array(losses) + more)
    return found


@pytest.mark.parametrize(
    ("h100", "pre", "spread", "outcome"),
    [
        (0.0, 3.0, 0.05, REPRODUCED),
        (2.0, 3.0, 0.05, NOT_REPRODUCED),
        (0.0, 3.05, 0.0, NOT_REPRODUCED),
        (0.0, 3.5, 0.05, UNTOLD),
    ],
)
def test_accumulators(h100: float, pre: float, spread: float, outcome: str) -> None:
    found = constructed(accumulators.EXPERIMENT, {"bf16, H100": h100}, pre={"bf16, H100": pre})
    assert accumulators.EXPERIMENT.judge(spread_by_seed(found, spread)).outcome == outcome


def test_accumulators_of_noise_tell_nothing() -> None:
    experiment = accumulators.EXPERIMENT
    assert experiment.judge(constructed(experiment, {}, noise=0.1)).outcome == UNTOLD
    assert experiment.judge(constructed(experiment, {}, seeds=2)).outcome == UNTOLD


def test_a_constant_rate_may_end_higher() -> None:
    experiment = learning_rate_decay.EXPERIMENT
    degradations = {learning_rate_decay.COSINE: 0.8, learning_rate_decay.STABLE: 0.9}
    found = constructed(experiment, degradations, pre={learning_rate_decay.CONSTANT: 3.5})
    assert experiment.judge(found).outcome == REPRODUCED
    highest, tenth = SMALL.config.optimizer.learning_rate, SMALL.config.steps // 10
    assert learning_rate_decay.rates(found, learning_rate_decay.CONSTANT)[-1] == highest
    cosine, stable = (learning_rate_decay.rates(found, name) for name in learning_rate_decay.LABELS[:2])
    assert cosine[-1] == pytest.approx(0.1 * highest)
    assert stable[-tenth - 1] == highest > stable[-tenth]


def test_a_part_of_results() -> None:
    found = constructed(fp16_on_tpu.EXPERIMENT, {}, pre={PURE: NOTHING})
    assert [v.control for v in part(found, ["sums in fp16", PURE]).variants] == [None, None]
    assert not comparable(found, PURE)
    assert comparable(found, "sums in fp16")
