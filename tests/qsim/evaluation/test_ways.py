"""Ways of computing a model: quantized after training, held or read by layer, contexts read once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from quantized_models import KINDS, TOKENS, logits, quantized, small_model
from refusals import refused
from stub_models import StubModel, drawn

from qsim.evaluation import EvaluationError, Way, check_same_tokens, parsed_way
from qsim.evaluation.likelihood import Request, score
from qsim.importing import ModelError
from qsim.policy import parse_policy
from qsim.post_training import PostTraining

CONTEXT = TOKENS[0, :5].astype(np.int32)
ENDINGS = [np.array(tokens, np.int32) for tokens in ([3], [7, 1, 2], [7, 1], [4, 9, 20, 28])]


def way(folder: Path, kind: str = "gpt2", policy: str = "bf16", how: PostTraining | None = None) -> Way:
    return Way(name="a", model=small_model(folder, kind), policy=parse_policy(policy), how=how, calibration=TOKENS)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("int8_vectorwise", ("int8_vectorwise", None)),
        ("int4_group32+kv", ("int4_group32", "int8")),
        ("kv", (None, "int8")),
        ("none+kv", (None, "int8")),
        ("none", (None, None)),
    ],
)
def test_ways_as_they_are_written(text: str, found: tuple) -> None:
    assert parsed_way(text) == found


@pytest.mark.parametrize("text", ["int8_vectorwise+", "int8_vectorwise+int8", "+kv+kv"])
def test_what_is_no_way(text: str) -> None:
    with refused(EvaluationError, repr(text), "SCHEME+kv"):
        parsed_way(text)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(
    ("scheme", "kv"),
    [("int8_vectorwise", None), ("smoothquant", "int8"), ("int4_group8", None), ("llm_int8", None), (None, "int8")],
)
def test_a_way_is_the_model_quantized(tmp_path: Path, scheme: str | None, kv: str | None, held: bool) -> None:
    how = PostTraining(scheme=scheme, kv=kv, dequantize_to="bf16")  # type: ignore[arg-type]
    own = way(tmp_path, "llama", how=how)
    true = logits(quantized(own.model, scheme, kv=kv))
    assert_same_bits(own.language_model("numpy", held=held).logits(TOKENS).reshape(true.shape), true)


def test_a_model_as_it_is(tmp_path: Path) -> None:
    own = way(tmp_path)
    assert_same_bits(
        own.language_model("numpy").logits(TOKENS), own.language_model("numpy", held=False).logits(TOKENS)
    )
    assert own.as_json()["quantization"] is None
    assert own.as_json()["policy_sha256"] == parse_policy("bf16").sha256


def test_held_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = way(tmp_path)
    model, read = own.language_model("numpy"), []
    plain = type(own.model.weights).layer
    monkeypatch.setattr(type(own.model.weights), "layer", lambda w, i: read.append(i) or plain(w, i))
    for _ in range(3):
        model.logits(TOKENS)
    assert read == [0, 1, 2]


def test_nothing_is_quantized(tmp_path: Path) -> None:
    with refused(ModelError, "nothing is quantized; name a scheme"):
        way(tmp_path, how=PostTraining(scheme=None)).language_model("numpy")


# Contexts of several continuations


def choices() -> list[Request]:
    other = Request(inputs=TOKENS[1, :4].astype(np.int32), targets=TOKENS[1, 3:5].astype(np.int32))
    found = [Request(inputs=np.concatenate([CONTEXT, end[:-1]]), targets=end) for end in ENDINGS]
    return [found[0], other, *found[1:]]


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scheme", "kv"), [(None, None), ("int8_vectorwise", None), (None, "int8")])
def test_a_context_read_once_gives_the_bits_of_whole_passes(
    tmp_path: Path, kind: str, scheme: str | None, kv: str | None
) -> None:
    how = None if scheme is None and kv is None else PostTraining(scheme=scheme, kv=kv)  # type: ignore[arg-type]
    model = way(tmp_path, kind, how=how).language_model("numpy")
    for together, request in zip(score(model, choices()), choices(), strict=True):
        (alone,) = score(model, [request])
        assert_same_bits(together.losses, alone.losses)
        assert (together.greedy == alone.greedy).all()


def test_endings_of_one_token_take_one_pass(tmp_path: Path) -> None:
    model = way(tmp_path).language_model("numpy")
    requests = [Request(inputs=CONTEXT, targets=np.array([token], np.int32)) for token in (1, 2)]
    assert_same_bits(
        np.concatenate([one.losses for one in score(model, requests)]),
        np.concatenate([score(model, [one])[0].losses for one in requests]),
    )


def test_contexts_are_not_shared_where_rows_share_a_scale() -> None:
    model = StubModel(drawn(40), vocabulary=40, rows_independent=False)
    score(model, choices())
    assert sorted(tokens.shape for tokens in model.passes) == sorted((1, len(one.inputs)) for one in choices())


def test_texts_that_are_parted_differently() -> None:
    model = StubModel(drawn())
    check_same_tokens(model, "same", np.frombuffer(b"same", np.uint8))
    with refused(EvaluationError, "part the text differently", "one tokenizer"):
        check_same_tokens(model, "same", np.array([1, 2], np.int32))
