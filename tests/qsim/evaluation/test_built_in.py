"""Items made from text: what they ask, and that the same text and seed give the same."""

from __future__ import annotations

import re

import pytest
from refusals import refused

from qsim.evaluation import EvaluationError, last_word_task, next_paragraph_task
from qsim.tokenizers import ByteTokenizer

NOUNS = (
    "anchor",
    "bridge",
    "candle",
    "dragon",
    "engine",
    "forest",
    "garden",
    "harbour",
    "island",
    "jungle",
    "kettle",
)


def paragraph(i: int) -> str:
    """Two sentences; the second ends with a word of the first."""
    a, b, c = (NOUNS[(i * k + k) % len(NOUNS)] for k in (1, 5, 7))
    return (
        f"In the year {i} they saw the {a} beside a {b}, and nobody knew\nwhat to say. "
        f"So at length all of them went home to tell the {c} of the {a}."
    )


TEXT = "\n\n".join(map(paragraph, range(60)))
HOW = {"number": 20, "seed": 1}


def test_last_words_occur_before() -> None:
    task = last_word_task(TEXT, **HOW)
    assert (task.name, len(task.items), task.metrics) == ("LAMBADA-like", 20, ("exact",))
    flat = " ".join(TEXT.split())
    for item in task.items:
        ((context, continuation),) = item.pairs
        word = continuation.removeprefix(" ")
        assert len(context.split()) == 50
        assert word in re.findall(r"\w+", context.lower())
        assert f"{' '.join(context.split())} {word}." in flat


def test_paragraphs_follow() -> None:
    task = next_paragraph_task(TEXT, ByteTokenizer(), 512, **HOW)
    assert (task.name, len(task.items)) == ("next paragraph", 20)
    paragraphs = [" ".join(part.split()) for part in TEXT.split("\n\n")]
    for item in task.items:
        context = item.pairs[0][0]
        place = paragraphs.index(context)
        assert item.choices is not None
        assert list(item.pairs) == [(context, f" {choice}") for choice in item.choices]
        assert len({len(choice.split()) for choice in item.choices}) == 1
        assert paragraphs[place + 1].startswith(item.choices[item.gold[0]])
        assert len(set(item.choices)) == 4
        wrong = [c for i, c in enumerate(item.choices) if i != item.gold[0]]
        assert not any(paragraphs[place + 1].startswith(c) or context.startswith(c) for c in wrong)
    assert {item.gold[0] for item in task.items} == {0, 1, 2, 3}


def test_choices_fit_models_of_few_positions() -> None:
    for item in next_paragraph_task(TEXT, ByteTokenizer(), 64, **HOW).items:
        assert item.choices is not None
        assert all(len(choice) + 1 <= 32 for choice in item.choices)
        assert all(len(choice.split()) >= 4 for choice in item.choices)


def test_seeds_draw_the_same_and_others() -> None:
    for make in (
        lambda seed: last_word_task(TEXT, number=9, seed=seed),
        lambda seed: next_paragraph_task(TEXT, ByteTokenizer(), 64, number=9, seed=seed),
    ):
        assert make(1) == make(1)
        assert make(1) != make(2)


def test_these_very_items_are_drawn() -> None:
    """Streams of threefry: the same on every machine."""
    assert [item.name for item in last_word_task(TEXT, number=4, seed=0).items] == [
        "word 592",
        "word 1136",
        "word 1407",
        "word 1727",
    ]
    drawn = next_paragraph_task(TEXT, ByteTokenizer(), 64, number=4, seed=0).items
    assert [(item.name, item.gold) for item in drawn] == [
        ("paragraph 25", (0,)),
        ("paragraph 40", (3,)),
        ("paragraph 45", (1,)),
        ("paragraph 47", (2,)),
    ]


def test_all_of_a_short_text_are_taken() -> None:
    assert len(next_paragraph_task(TEXT, ByteTokenizer(), 64, number=1000).items) == 59


def test_texts_without_items() -> None:
    with refused(EvaluationError, "no sentence whose last word occurs", "--items 0"):
        last_word_task("Short text. " * 3, **HOW)
    with refused(EvaluationError, "the text has 5 paragraphs", "fewer than 6"):
        next_paragraph_task("\n\n".join(map(paragraph, range(5))), ByteTokenizer(), 64, **HOW)


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_seeds_outside(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        last_word_task(TEXT, number=2, seed=seed)
