"""Losses of tokens against their definition, and batches that change no bit."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
import small_checkpoints
from bits_assertions import assert_same_bits
from refusals import refused
from stub_models import StubModel, drawn

from qsim.evaluation import DecoderLanguageModel, EvaluationError
from qsim.evaluation.language_model import rows_are_independent
from qsim.evaluation.likelihood import Request, continuation_request, greedy_matches, score, token_losses
from qsim.importing import open_model
from qsim.policy import parse_policy


def exact_loss(logits: np.ndarray, target: int) -> float:
    """By sums of 60 digits."""
    with mpmath.workdps(60):
        x = [mpmath.mpf(Fraction(float(v)).numerator) / Fraction(float(v)).denominator for v in logits]
        return float(mpmath.log(sum(map(mpmath.exp, x))) - x[target])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4, 3e38])
def test_losses_are_those_of_the_definition(scale: float) -> None:
    rng = np.random.default_rng(0)
    logits = np.clip(rng.normal(0, scale, (70, 33)), -3.4e38, 3.4e38).astype(np.float32)
    targets = rng.integers(0, 33, 70)
    true = np.array([exact_loss(x, t) for x, t in zip(logits, targets, strict=True)])
    np.testing.assert_allclose(token_losses(logits, targets), true, rtol=1e-14, atol=1e-15)


def test_certain_targets_lose_nothing() -> None:
    logits = np.array([[0, 1000, -1000], [0, -np.inf, 0]], np.float32)
    assert token_losses(logits, np.array([1, 0])).tolist() == [0.0, np.log(2)]
    assert token_losses(logits, np.array([0, 1])).tolist() == [1000.0, np.inf]


def test_logits_that_are_not_finite_are_told() -> None:
    logits = np.array([[0, np.nan], [np.inf, 0], [-np.inf, -np.inf]], np.float32)
    assert np.isnan(token_losses(logits, np.array([0, 0, 0]))).all()
    assert greedy_matches(logits, np.array([1, 0, 0])).tolist() == [False, True, True]


def test_the_lower_token_of_equals_is_greedy() -> None:
    logits = np.array([[1, 2, 2], [1, 2, 2]], np.float32)
    assert greedy_matches(logits, np.array([1, 2])).tolist() == [True, False]


def requests(count: int = 9) -> list[Request]:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(count):
        length = int(rng.integers(1, 12))
        tokens = rng.integers(0, small_checkpoints.VOCABULARY, length + 1).astype(np.int32)
        found.append(Request(inputs=tokens[:-1], targets=tokens[-int(rng.integers(1, length + 1)) :]))
    return found


def test_every_request_has_the_losses_it_has_alone() -> None:
    model = StubModel(drawn(29), vocabulary=29)
    asked = requests()
    together, alone = score(model, asked), [score(model, [one])[0] for one in asked]
    for a, b, one in zip(together, alone, asked, strict=True):
        assert_same_bits(a.losses, b.losses)
        assert a.greedy.tolist() == b.greedy.tolist()
        assert len(a.losses) == len(one.targets)
        for i, target in enumerate(one.targets):
            read = one.inputs[: len(one.inputs) - len(one.targets) + i + 1]
            assert a.losses[i] == pytest.approx(exact_loss(model.row(tuple(map(int, read))), target), rel=1e-14)


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("policy", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["gpt2", "bloom", "llama"])
def test_padding_and_neighbours_change_no_bit(kind: str, policy: str, tmp_path: Path) -> None:
    opened = open_model(small_checkpoints.write(tmp_path / "m", small_checkpoints.CHECKPOINTS[kind]()))
    model = DecoderLanguageModel(opened, parse_policy(policy).quantized(), "numpy")
    assert model.rows_independent
    asked = requests()
    for a, b in zip(score(model, asked), (score(model, [one])[0] for one in asked), strict=True):
        assert_same_bits(a.losses, b.losses)


def test_rows_that_share_a_scale_are_computed_alone() -> None:
    base = parse_policy("bf16")
    independent = {
        name: rows_are_independent(base.quantized(name))
        for name in ("int8_vectorwise", "int8_tensorwise", "llm_int8", "int8_rowwise")
    }
    assert independent == {
        "int8_vectorwise": True,
        "int8_tensorwise": False,
        "llm_int8": False,
        "int8_rowwise": True,
    }
    assert not rows_are_independent(parse_policy("fp8"))
    model = StubModel(drawn(29), vocabulary=29, rows_independent=False)
    asked = requests()
    score(model, asked)
    assert sorted(p.shape for p in model.passes) == sorted((1, len(one.inputs)) for one in asked)


def test_logits_of_one_pass_are_bounded() -> None:
    model = StubModel(drawn(29), vocabulary=29)
    score(model, requests(), batch_tokens=20)
    assert max(p.size for p in model.passes) <= 20
    assert len(model.passes) > 1


def test_contexts_too_long_lose_their_beginning() -> None:
    tokens = np.arange(10, dtype=np.int32)
    found = continuation_request(tokens[:7], tokens[7:], 5)
    assert found.inputs.tolist() == [4, 5, 6, 7, 8]
    assert found.targets.tolist() == [7, 8, 9]
    whole = continuation_request(tokens[:7], tokens[7:], 9)
    assert whole.inputs.tolist() == list(range(9))
    everything = continuation_request(tokens[:1], tokens[1:6], 5)
    assert everything.inputs.tolist() == [0, 1, 2, 3, 4]


def test_what_cannot_be_asked() -> None:
    tokens = np.arange(10, dtype=np.int32)
    with refused(EvaluationError, "an ending is 6 tokens long", "the 5 of the model"):
        continuation_request(tokens[:1], tokens[:6], 5, "an ending")
    with refused(EvaluationError, "no token of context"):
        continuation_request(tokens[:0], tokens[:6], 8)
    with refused(EvaluationError, "no token of continuation"):
        continuation_request(tokens[:6], tokens[:0], 8)
