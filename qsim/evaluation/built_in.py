"""Items made of any text, for models too small for published tasks: no score of others compares with theirs.

``LAMBADA-like``: the last word of a sentence, which occurs in the 50 words before it; exact.  ``next paragraph``: how
the paragraph behind one begins, among the beginnings of three from elsewhere; acc, acc_norm, acc_bytes.  Both are
functions of the text, the seed and, where its positions are few, of the tokenizer and length of the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from precision.random_bits import as_key, fold_name, random_bits
from qsim.evaluation.error import EvaluationError
from qsim.evaluation.items import Item, Task
from qsim.tokenizers import Tokenizer

LAST_WORD, NEXT_PARAGRAPH = "LAMBADA-like", "next paragraph"
T = TypeVar("T")
_BEFORE = 50  # words
_WORD = re.compile(r"\S+")
_LAST = re.compile(r"([^\W\d_]{3,})[.!?][\"')\u2019\u201d]*")  # a word of 3 letters or more that ends a sentence
_LETTERS = re.compile(r"[^\W\d_]+")
_CHOICES = 4
_BEGINNING = 24  # words of a choice, at most
_SHORTEST = 8  # words of a paragraph that is used


def last_word_task(text: str, *, number: int, seed: int = 0) -> Task:
    """Up to ``number`` sentences, drawn without repetition, in the order of the text.

    The context is the text of the 50 words before, as it stands there; the continuation a space and the word, without
    its full stop.  Words are compared without regard to case.
    Errors: EvaluationError where the text has no such sentence.
    """
    words = list(_WORD.finditer(text))
    letters = [set(_LETTERS.findall(word[0].lower())) for word in words]
    found = []
    for i in range(_BEFORE, len(words)):
        last = _LAST.fullmatch(words[i][0])
        if last and any(last[1].lower() in own for own in letters[i - _BEFORE : i]):
            found.append((i, last[1]))
    if not found:
        raise EvaluationError(
            f"the text has no sentence whose last word occurs in the {_BEFORE} words before; give more text, "
            "or --items 0"
        )
    items = []
    for i, word in _drawn(found, number, seed, LAST_WORD):
        context = text[words[i - _BEFORE].start() : words[i].start()].rstrip()
        items.append(Item(name=f"word {i}", pairs=((context, f" {word}"),), gold=(0,)))
    return Task(name=LAST_WORD, items=tuple(items), metrics=("exact",))


def next_paragraph_task(text: str, tokenizer: Tokenizer, length: int, *, number: int, seed: int = 0) -> Task:
    """Up to ``number`` paragraphs with the next one and three of others, the order of the four drawn.

    Paragraphs end at empty lines; those of fewer than 8 words are passed over.  A choice is the first 24 words, fewer
    where its tokens would fill more than half of ``length`` positions, the same number for all four.
    Errors: EvaluationError where the text has fewer than six paragraphs.
    """
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    paragraphs = [part for part in paragraphs if part.count(" ") >= _SHORTEST - 1]
    if len(paragraphs) < _CHOICES + 2:
        raise EvaluationError(
            f"the text has {len(paragraphs)} paragraphs of {_SHORTEST} words, fewer than {_CHOICES + 2}; give more "
            "text, or --items 0"
        )
    places = list(range(len(paragraphs) - 1))
    items = [
        _paragraph_item(paragraphs, i, tokenizer, length, seed) for i in _drawn(places, number, seed, NEXT_PARAGRAPH)
    ]
    return Task(name=NEXT_PARAGRAPH, items=tuple(items), metrics=("acc", "acc_norm", "acc_bytes"))


def _paragraph_item(paragraphs: Sequence[str], i: int, tokenizer: Tokenizer, length: int, seed: int) -> Item:
    others = [p for p in range(len(paragraphs)) if p not in (i, i + 1)]
    wrong = _drawn(others, _CHOICES - 1, seed, f"{NEXT_PARAGRAPH} {i}")
    gold = int(_words_of(seed, f"{NEXT_PARAGRAPH} {i} place", 1)[0]) % _CHOICES
    chosen = [*wrong[:gold], i + 1, *wrong[gold:]]
    choices = _beginnings([paragraphs[p] for p in chosen], tokenizer, length // 2)
    pairs = tuple((paragraphs[i], f" {choice}") for choice in choices)
    return Item(name=f"paragraph {i}", pairs=pairs, gold=(gold,), choices=choices)


def _beginnings(paragraphs: Sequence[str], tokenizer: Tokenizer, most: int) -> tuple[str, ...]:
    """As many words of each as leave none with more than ``most`` tokens, but at least one."""
    words = [paragraph.split(" ") for paragraph in paragraphs]
    for number in range(min(_BEGINNING, *map(len, words)), 0, -1):
        found = tuple(" ".join(own[:number]) for own in words)
        if all(len(tokenizer.encode(f" {text}")) <= most for text in found):
            break
    return found


def _drawn(candidates: Sequence[T], number: int, seed: int, name: str) -> list[T]:
    """``number`` of them without repetition, those of the smallest words of the stream, in their order."""
    ranks = np.argsort(_words_of(seed, name, len(candidates)), kind="stable")[:number]
    return [candidates[i] for i in sorted(ranks.tolist())]


def _words_of(seed: int, name: str, number: int) -> np.ndarray:
    return random_bits(fold_name(as_key(seed), name), np.arange(number, dtype=np.uint64))
