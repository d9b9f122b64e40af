"""Parameters held in memory: the bits of those read layer by layer, and none rounded twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_checkpoints
from bits_assertions import assert_same_bits
from small_checkpoints import CHECKPOINTS

from precision.backends import get_backend
from qsim.decoder import decoder_forward
from qsim.importing import Model, open_model
from qsim.policy import POLICIES
from qsim.sites import Calculator, Recorder

TOKENS = small_checkpoints.tokens()
POLICY_NAMES = ("fp32", "bf16", "fp16", "fp16-flush", "fp64")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return open_model(small_checkpoints.write(tmp_path / "model", CHECKPOINTS["llama"]()))


def logits(model: Model, policy: str, executor: str = "numpy") -> np.ndarray:
    calculator = Calculator(POLICIES[policy], executor)
    return np.asarray(decoder_forward(calculator, model.config, model.weights, TOKENS))


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_logits_are_those_of_the_file(model: Model, policy: str) -> None:
    expected = logits(model, policy)
    assert_same_bits(logits(model.resident(POLICIES[policy], "numpy"), policy), expected)
    assert_same_bits(logits(model.resident(), policy), expected)


def test_another_policy_rounds_what_is_held(model: Model) -> None:
    assert_same_bits(logits(model.resident(POLICIES["fp32"], "numpy"), "bf16"), logits(model, "bf16"))


@pytest.mark.parametrize("executor", ["numba", pytest.param("jax", marks=pytest.mark.exhaustive)])
def test_on_other_executors(model: Model, executor: str) -> None:
    held = model.resident(POLICIES["bf16"], executor)
    assert isinstance(held.weights.outer()["embedding.tokens"], np.ndarray) == (executor == "numba")
    assert_same_bits(logits(held, "bf16", executor), logits(model, "bf16"))


def test_nothing_held_is_rounded_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    held = model.resident(POLICIES["bf16"], "numpy")
    expected = logits(held, "bf16")

    def refuse(*_: Any) -> None:
        raise AssertionError("a working copy was made")

    monkeypatch.setattr(Calculator, "working_copy", refuse)
    assert_same_bits(logits(held, "bf16"), expected)


def test_a_recorder_sees_weights_that_are_held(model: Model) -> None:
    records = []
    for one in (model, model.resident(POLICIES["bf16"], "numpy")):
        ar = Calculator(POLICIES["bf16"], "numpy", Recorder())
        decoder_forward(ar, one.config, one.weights, TOKENS)
        records.append(ar.recorder.results(get_backend("numpy")))  # type: ignore[union-attr]
    assert records[0].keys() == records[1].keys()


def test_a_layer_that_is_not_there(model: Model) -> None:
    with pytest.raises(IndexError):
        model.resident().layer(3)
