"""Text that is written: the tokens of whole passes, draws by their definition, pieces as they become sure."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import small_checkpoints
from refusals import refused

from precision.random_bits import as_key, fold_name, random_bits
from qsim.evaluation import DecoderLanguageModel, EvaluationError, Sampling, generate, written
from qsim.evaluation.generation import next_token
from qsim.importing import open_model
from qsim.policy import parse_policy
from qsim.tokenizers import ByteTokenizer

PROMPT = np.array([3, 1, 4], np.int32)


def opened(folder: Path, kind: str = "llama", executor: str = "numpy") -> DecoderLanguageModel:
    model = open_model(small_checkpoints.write(folder / "model", small_checkpoints.CHECKPOINTS[kind]()))
    return DecoderLanguageModel(model, parse_policy("bf16"), executor)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.7, top_k=5, seed=2)], ids=["greedy", "drawn"]
)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_tokens_are_those_of_whole_passes(kind: str, sampling: Sampling, tmp_path: Path) -> None:
    model = opened(tmp_path, kind)
    found = list(generate(model, PROMPT, 8, sampling))
    whole = list(PROMPT)
    for _ in range(8):
        logits = model.logits(np.array([whole], np.int32))[0, -1]
        whole.append(next_token(logits, sampling, len(whole)))
    assert found == whole[3:]


def test_executors_write_the_same(tmp_path: Path) -> None:
    sampling = Sampling(temperature=1.3, seed=5)
    texts = [
        list(generate(opened(tmp_path / executor, executor=executor), PROMPT, 6, sampling))
        for executor in ("numpy", "numba", "jax")
    ]
    assert texts[0] == texts[1] == texts[2]


def test_draws_are_those_of_the_definition() -> None:
    logits = np.array([1, 3, -np.inf, 3, 2], np.float32)
    order = [1, 3, 4, 0, 2]
    for position in range(40):
        word = int(random_bits(fold_name(as_key(7), "generate"), np.array([position], np.uint64))[0])
        for top_k, temperature in ((None, 1.0), (3, 0.5), (1, 2.0)):
            kept = order[:top_k]
            p = np.exp((logits[kept].astype(np.float64) - 3) / temperature)
            expected = kept[int(np.argmax(np.cumsum(p) > word / 2**32 * p.sum()))]
            assert next_token(logits, Sampling(temperature=temperature, top_k=top_k, seed=7), position) == expected


def test_draws_have_their_probabilities() -> None:
    logits = np.log(np.array([1, 2, 4, 1], np.float32))
    counts = Counter(next_token(logits, Sampling(temperature=1.0), i) for i in range(4000))
    assert [counts[i] / 4000 for i in range(4)] == pytest.approx([0.125, 0.25, 0.5, 0.125], abs=0.03)


def test_the_lower_of_equals_is_greedy() -> None:
    assert next_token(np.array([0, 5, 5], np.float32), Sampling(), 0) == 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_logits_that_are_not_finite_end_it(wrong: float) -> None:
    with refused(EvaluationError, "logits at position 9 are not finite", "wider range"):
        next_token(np.array([0, wrong], np.float32), Sampling(), 9)


def text(words: bytes, *until: str) -> list[str]:
    return list(written(ByteTokenizer(), iter(words), until))


def test_pieces_are_the_text() -> None:
    assert text(b"abc") == ["a", "b", "c"]
    assert text("a\u20acb".encode()) == ["a", "\u20ac", "b"]
    assert text(b"a\xe2\x82") == ["a", "\ufffd"]
    assert text(b"") == []


def test_stops_are_not_written() -> None:
    assert text(b"one\n\ntwo", "\n\n") == ["o", "n", "e"]
    assert text(b"one\ntwo", "\n\n") == ["o", "n", "e", "\nt", "w", "o"]
    assert "".join(text(b"ab, cd. ef", ".", ",")) == "ab"
    assert text(b"xx", "x") == []
    assert "".join(text(b"aaab", "aab")) == "a"


def test_tokens_are_made_as_they_are_asked_for() -> None:
    drawn: list[int] = []

    def tokens():  # type: ignore[no-untyped-def]
        for token in b"one. two":
            drawn.append(token)
            yield token

    assert "".join(written(ByteTokenizer(), tokens(), ["."])) == "one"
    assert bytes(drawn) == b"one."


def test_what_is_refused(tmp_path: Path) -> None:
    model = opened(tmp_path)
    assert len(list(generate(model, PROMPT, 10))) == 10  # 12 positions, the last token is not read
    with refused(EvaluationError, "a prompt of 3 tokens and 11 more exceed the 12 positions", "at most 10"):
        generate(model, PROMPT, 11)
    with refused(EvaluationError, "the prompt has no token"):
        generate(model, PROMPT[:0], 3)
    with refused(EvaluationError, "0 tokens are nothing"):
        generate(model, PROMPT, 0)
    for wrong in (-1.0, float("nan"), float("inf")):
        with refused(EvaluationError, f"temperature {wrong}"):
            Sampling(temperature=wrong)
    with refused(EvaluationError, "top_k 0"):
        Sampling(top_k=0)
