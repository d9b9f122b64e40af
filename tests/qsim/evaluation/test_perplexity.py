"""Strided perplexity against its definition, token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from stub_models import StubModel, drawn

from qsim.evaluation import EvaluationError, TextScore, perplexity
from qsim.evaluation.perplexity import windows

TOKENS = np.random.default_rng(1).integers(0, 17, 60).astype(np.int32)


def plain_losses(model: StubModel, tokens: np.ndarray, length: int, stride: int) -> np.ndarray:
    """Of each token from the first window that predicts it, in float64."""
    found = []
    for target in range(1, len(tokens)):
        start = 0
        while start + length < target:
            start += stride
        logits = model.row(tuple(map(int, tokens[start:target]))).astype(np.float64)
        found.append(math.log(np.exp(logits).sum()) - logits[tokens[target]])
    return np.array(found)


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (8, 1), (16, 5), (64, 64), (59, 7), (1, 1)])
def test_losses_are_those_of_the_definition(length: int, stride: int) -> None:
    model = StubModel(drawn(17), vocabulary=17)
    found = perplexity(model, TOKENS, length=length, stride=stride)
    np.testing.assert_allclose(found.losses, plain_losses(model, TOKENS, length, stride), rtol=1e-13)
    assert (found.length, found.stride) == (length, stride)
    assert found.perplexity == pytest.approx(math.exp(found.losses.mean()))


@settings(deadline=None)
@given(st.integers(2, 50), st.integers(1, 20), st.data())
def test_windows_predict_every_token_but_the_first_once(count: int, length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, length))
    tokens = np.arange(count, dtype=np.int32)
    found = list(windows(tokens, length, stride))
    assert np.concatenate([one.targets for one in found]).tolist() == list(range(1, count))
    for one in found:
        assert len(one.inputs) <= length
        assert one.inputs[-1] == one.targets[-1] - 1
        context = one.targets[0] - one.inputs[0]
        assert context >= min(length - stride + 1, one.targets[0])


def test_defaults_are_disjoint_windows_of_the_model() -> None:
    model = StubModel(drawn(17), vocabulary=17, length=10)
    found = perplexity(model, TOKENS)
    assert (found.length, found.stride) == (10, 10)
    assert sum(p.size for p in model.passes) <= 60


def test_bits_per_byte() -> None:
    score = TextScore(losses=np.array([math.log(2)] * 6), length=8, stride=8, bytes=3)
    assert score.bits_per_byte == 2
    assert TextScore(losses=score.losses, length=8, stride=8).bits_per_byte is None


def test_losses_beyond_float64_are_infinite_perplexity() -> None:
    assert TextScore(losses=np.array([1000.0]), length=8, stride=8).perplexity == np.inf


def test_nan_is_counted() -> None:
    def row(read: tuple[int, ...]) -> np.ndarray:
        return np.full(17, np.nan if read[-1] == 3 else 0, np.float32)

    found = perplexity(StubModel(row, vocabulary=17), TOKENS)
    assert found.not_finite == (TOKENS[:-1] == 3).sum() > 0
    assert math.isnan(found.loss)
    assert math.isnan(found.perplexity)


def test_what_is_refused() -> None:
    model = StubModel(drawn(17), vocabulary=17, length=10)
    with refused(EvaluationError, "the text has 1 tokens"):
        perplexity(model, TOKENS[:1])
    with refused(EvaluationError, "windows of 11 tokens", "1 to 10"):
        perplexity(model, TOKENS, length=11)
    with refused(EvaluationError, "a stride of 9 tokens", "1 to 8"):
        perplexity(model, TOKENS, length=8, stride=9)
    with refused(EvaluationError, "token 17 of the text", "vocabulary of 17"):
        perplexity(model, np.array([1, 17]))
