"""Paired figures against their definitions."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from refusals import refused

from qsim.evaluation import Evaluation, EvaluationError, Item, Task, TaskScore, TextScore, compare
from qsim.evaluation.comparison import (
    BLOCK,
    CONFIDENCE,
    RESAMPLES,
    delta_loss_of_text,
    mcnemar,
    mean_interval,
)
from qsim.evaluation.items import Answer


def scored(name: str, right: list[int], losses: list[float] | None = None) -> TaskScore:
    items = tuple(Item(name=str(i), pairs=(), gold=(0,)) for i in range(len(right)))
    answers = tuple(
        Answer(name=str(i), log_likelihoods=(-loss,), loss=loss, right={"acc": bool(r)}, finite=True)
        for i, (r, loss) in enumerate(zip(right, losses or [1.0] * len(right), strict=True))
    )
    return TaskScore(task=Task(name=name, items=items, metrics=("acc",)), answers=answers)


def evaluation(name: str, *tasks: TaskScore, losses: np.ndarray | None = None) -> Evaluation:
    text = None if losses is None else TextScore(losses=losses, length=8, stride=8)
    return Evaluation(name=name, text=text, tasks=tasks)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (5, 5), (9, 2), (0, 12), (30, 17)])
def test_mcnemar_is_the_binomial_test(lost: int, gained: int) -> None:
    n, most = lost + gained, max(lost, gained)
    tail = sum(comb(n, k) for k in range(most, n + 1)) / 2**n
    assert mcnemar(lost, gained) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(gained, lost) == pytest.approx(mcnemar(lost, gained))


def test_intervals_are_those_of_means_resampled() -> None:
    values = np.random.default_rng(5).normal(0.2, 1, 80)
    found = mean_interval(values)
    assert found == mean_interval(values)
    rng = np.random.default_rng(1)
    means = values[rng.integers(0, 80, (20_000, 80))].mean(axis=1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    assert found.value == values.mean()
    noise = 4 * means.std() / np.sqrt(RESAMPLES * tail / 100)
    assert found.low == pytest.approx(low, abs=noise)
    assert found.high == pytest.approx(high, abs=noise)


def test_losses_of_text_are_resampled_by_blocks() -> None:
    """Of tokens that all go with their block, as many are independent as there are blocks."""
    rng = np.random.default_rng(2)
    blocks = rng.normal(0.1, 1, 40)
    post = np.repeat(blocks, BLOCK)
    found = delta_loss_of_text(np.zeros_like(post), post)
    assert found.value == pytest.approx(blocks.mean())
    assert found.low is not None
    assert found.high is not None
    width, expected = found.high - found.low, 2 * 1.96 * blocks.std() / np.sqrt(40)
    assert width == pytest.approx(expected, rel=0.15)


def test_the_last_block_counts_as_what_it_is() -> None:
    pre, post = np.zeros(BLOCK + 1), np.append(np.zeros(BLOCK), 65.0)
    assert delta_loss_of_text(pre, post).value == 1.0


@pytest.mark.parametrize("count", [1, BLOCK])
def test_too_little_for_an_interval(count: int) -> None:
    found = delta_loss_of_text(np.zeros(count), np.ones(count))
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_what_did_not_change() -> None:
    found = mean_interval(np.zeros(10))
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_nan_has_no_interval() -> None:
    found = mean_interval(np.array([1.0, np.nan, 2.0]))
    assert np.isnan(found.value)
    assert found.low is None


def test_a_comparison() -> None:
    a = scored("a", [1, 1, 1, 1, 0, 0, 0, 0], [1.0] * 8)
    b = scored("a", [1, 1, 0, 0, 1, 0, 0, 0], [1.5] * 8)
    c, d = scored("c", [1, 1, 0]), scored("c", [1, 1, 1])
    found = compare(evaluation("pre", a, c), evaluation("int8", b, d))
    first = found.tasks[0]
    assert (first.task, first.metric, first.pre, first.post, first.change) == ("a", "acc", 0.5, 0.375, -0.25)
    assert (first.lost, first.gained, first.p_value) == (2, 1, 1.0)
    assert (first.delta_loss.value, first.delta_loss.low, first.delta_loss.high) == (0.5, 0.5, 0.5)
    assert found.tasks[1].change == pytest.approx(0.5)
    assert found.degradation is not None
    assert found.degradation.value == pytest.approx((-0.25 + 0.5) / 2)
    assert found.degradation.low is not None
    assert found.degradation.low < 0.125 < found.degradation.high
    assert found.delta_loss is None


def test_tasks_of_which_nothing_was_right_are_left_out() -> None:
    none, some = scored("none", [0, 0, 0]), scored("some", [1, 0, 1, 1])
    worse, more = scored("some", [1, 0, 0, 0]), scored("none", [1, 0, 0])
    found = compare(evaluation("pre", none, some), evaluation("post", more, worse))
    assert found.tasks[0].change is None
    assert found.degradation is not None
    assert found.degradation.value == pytest.approx(-2 / 3)
    alone = compare(evaluation("pre", none), evaluation("post", more))
    assert alone.degradation is None


def test_only_the_same_is_compared() -> None:
    a, b, losses = scored("a", [1, 0]), scored("b", [1, 0]), np.ones(3)
    for other in (evaluation("post", b), evaluation("post"), evaluation("post", a, losses=losses)):
        with refused(EvaluationError, "pre and post were not asked the same"):
            compare(evaluation("pre", a), other)
    with refused(EvaluationError, "losses of 3 and of 4 tokens"):
        compare(evaluation("pre", losses=losses), evaluation("post", losses=np.ones(4)))
