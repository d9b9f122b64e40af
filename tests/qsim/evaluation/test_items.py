"""Items whose answers are known from chosen probabilities; tokens of pairs as the harness parts them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from refusals import refused
from stub_models import StubModel, spelling

from qsim.evaluation import EvaluationError, Item, Task, evaluate_task
from qsim.evaluation.items import encode_pair
from qsim.evaluation.language_model import prefix_token
from qsim.tokenizers import ByteTokenizer

LOGIT = 9.0
CHOSEN = math.log(math.exp(LOGIT) + 255) - LOGIT  # the loss of a byte that is spelled
OTHER = CHOSEN + LOGIT
EVEN = math.log(256)  # where nothing is


@dataclass(frozen=True)
class PairTokenizer:
    """Words of known tokens, the longest first: what byte-pair merges do.  Other characters are token 0."""

    words: tuple[str, ...]
    name: str = "words"
    model: None = None

    @property
    def vocabulary_size(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> np.ndarray:
        found = []
        while text:
            word = max((w for w in self.words if text.startswith(w)), key=len, default="")
            found.append(self.words.index(word) if word else 0)
            text = text.removeprefix(word or text[0])
        return np.array(found, np.uint16)

    def decode(self, tokens: object) -> str:
        return "".join(self.words[t] for t in tokens)  # type: ignore[attr-defined]


MERGING = PairTokenizer(("a", "b", " ", "ab", " a", " b", " ab", "\n"))


@pytest.mark.parametrize(
    ("context", "continuation", "expected"),
    [
        ("b", " ab", ([1], [6])),
        ("b ", "ab", ([1], [6])),  # the space goes over
        ("b  ", "a", ([1], [2, 4])),
        ("b\n", " a", ([1], [7, 4])),
        ("a", "b", ([3], [])),  # one token of both: the continuation has none
        ("", "ab", ([7], [3])),
        ("", "\nab", ([7], [3])),  # its own first token is what would stand before
    ],
)
def test_pairs_are_parted_where_the_context_ends(
    context: str, continuation: str, expected: tuple[list[int], list[int]]
) -> None:
    found = encode_pair(MERGING, 8, context, continuation)
    assert tuple(part.tolist() for part in found) == expected


def test_what_stands_before_text_without_context() -> None:
    assert prefix_token(ByteTokenizer()) == 10
    assert prefix_token(PairTokenizer(("\n", "<|endoftext|>", "<", "|"))) == 1


def task(*items: Item, metrics: tuple[str, ...] = ("acc", "acc_norm", "acc_bytes")) -> Task:
    return Task(name="known", items=items, metrics=metrics)


def item(context: str, *choices: str, gold: int = 0) -> Item:
    pairs = tuple((context, f" {choice}") for choice in choices)
    return Item(name="line 1", pairs=pairs, gold=(gold,), choices=choices)


def test_a_known_choice() -> None:
    model = StubModel(spelling({"the long question is red": LOGIT}))
    answer = evaluate_task(model, task(item("the long question is", "red", "far"))).answers[0]
    assert answer.log_likelihoods[0] == pytest.approx(-4 * CHOSEN)
    assert answer.log_likelihoods[1] == pytest.approx(-CHOSEN - OTHER - 2 * EVEN)
    assert answer.loss == pytest.approx(4 * CHOSEN)
    assert answer.right == {"acc": True, "acc_norm": True, "acc_bytes": True}


def test_lengths_by_character_and_by_byte() -> None:
    """Two choices that nothing speaks for: the shorter one is likelier, by byte alike, by character the wider."""
    model = StubModel(spelling({}))
    found = [
        evaluate_task(model, task(item("question?", "\u20ac\u20ac", "abc", gold=gold))).answers[0] for gold in (0, 1)
    ]
    lengths = np.array([7, 4])  # bytes of the continuations, with the space
    assert found[0].log_likelihoods == pytest.approx(tuple(-EVEN * lengths))
    by_character, by_byte = lengths / [2, 3], lengths / [6, 3]
    expected = [int(lengths.argmin()), int(by_character.argmin()), int(by_byte.argmin())]
    for gold, answer in enumerate(found):
        assert list(answer.right.values()) == [place == gold for place in expected]
    assert expected == [1, 1, 0]


def test_the_last_word_is_right_where_every_token_is_greedy() -> None:
    model = StubModel(spelling({"he saw the ball": LOGIT}))
    right, wrong = (Item(name="w", pairs=(("he saw the", f" {word}"),), gold=(0,)) for word in ("ball", "bell"))
    found = evaluate_task(model, task(right, wrong, metrics=("exact",)))
    assert found.right("exact").tolist() == [True, False]
    assert found.accuracy("exact") == (0.5, 0.5)
    assert found.losses[0] == pytest.approx(5 * CHOSEN)
    assert found.perplexity == pytest.approx(math.exp(found.losses.mean()))


def test_any_of_several_answers() -> None:
    model = StubModel(spelling({"who? Answer: Ann": LOGIT}))
    pairs = (("who? Answer:", " Beth"), ("who? Answer:", " Ann"))
    answer = evaluate_task(model, task(Item(name="q", pairs=pairs, gold=(0, 1)), metrics=("exact",))).answers[0]
    assert answer.right == {"exact": True}
    assert answer.loss == pytest.approx(4 * CHOSEN)


def test_standard_error() -> None:
    model = StubModel(spelling({"he saw the ball": LOGIT}))
    items = [Item(name="w", pairs=(("he saw the", f" {w}"),), gold=(0,)) for w in ("ball", "bat", "bill")]
    mean, error = evaluate_task(model, task(*items, metrics=("exact",))).accuracy("exact")
    assert mean == pytest.approx(1 / 3)
    assert error == pytest.approx(math.sqrt((4 / 9 + 2 / 9) / 2 / 3))
    assert evaluate_task(model, task(items[0], metrics=("exact",))).accuracy("exact") == (1.0, None)


def test_nan_is_wrong_and_counted() -> None:
    model = StubModel(lambda _: np.full(256, np.nan, np.float32))
    found = evaluate_task(model, task(item("question", "a", "b")))
    assert found.not_finite == 1
    assert not any(found.answers[0].right.values())
    assert json.dumps(found.answers[0].right)


def test_items_that_do_not_fit_are_named() -> None:
    model = StubModel(spelling({}), length=8)
    with refused(EvaluationError, "line 1: ' too long a choice'", "18 tokens", "the 8 of the model"):
        evaluate_task(model, task(item("question", "too long a choice", "b")))
