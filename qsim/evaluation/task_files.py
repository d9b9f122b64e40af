"""Tasks from local files: one JSON object a line, prompts as lm-evaluation-harness 0.4.13 makes them of such objects.

    kind          keys of a line                                                     asked, and scored by
    lambada       text                                                               the last word: exact, perplexity
    hellaswag     activity_label, ctx_a, ctx_b, endings [..], label                  acc, acc_norm, acc_bytes
    piqa          goal, sol1, sol2, label 0 | 1                                      acc, acc_norm, acc_bytes
    copa          premise, question cause | effect, choice1, choice2, label 0 | 1    acc
    storycloze    input_sentence_1 .. 4, sentence_quiz1, sentence_quiz2,
                  answer_right_ending 1 | 2                                          acc
    winogrande    sentence with one _, option1, option2, answer "1" | "2"            the rest of the sentence: acc
    qa            question, answers [..]                                             exact
    qa            question, choices [..], answer 0 ..                                acc, acc_norm, acc_bytes
    choice        context, choices [..], answer 0 ..                                 acc, acc_norm, acc_bytes

Other keys are let be.  acc: the likeliest continuation is the right one; acc_norm: the likeliest by character of the
choice, acc_bytes: by byte of UTF-8; exact: greedy decoding writes it.  A single space parts prompt and continuation,
which COPA's choices have one more of, as there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qsim.evaluation.error import EvaluationError
from qsim.evaluation.items import Item, Task, checked

Line = dict[str, Any]
_CHOSEN = ("acc", "acc_norm", "acc_bytes")


class _LineError(ValueError):
    """What is wrong with a line."""


def read_task(kind: str, path: Path, *, limit: int | None = None) -> Task:
    """The first ``limit`` items of a file, all by default; the task has the name of kind and file.

    Errors: EvaluationError for an unknown kind, for a file that cannot be read or has no items, and for a line that
    is no such object, naming file and line.
    """
    if kind not in KINDS:
        raise EvaluationError(f"task kind {kind!r} is not known; choose one of {', '.join(KINDS)}")
    make, metrics = KINDS[kind]
    lines = [(n, line) for n, line in enumerate(_text(path).split("\n"), start=1) if line.strip()]
    items = [_item(make, path, number, line) for number, line in lines]
    if kind == "qa":
        metrics = _metrics_of_qa(items, path)
    name = kind if path.stem.lower() == kind else f"{kind}:{path.stem}"
    return Task(name=name, items=checked(items[:limit], f"{kind} of {path}"), metrics=metrics)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"task file {path} cannot be read ({error.strerror}); name a readable file") from None
    except UnicodeDecodeError as error:
        raise EvaluationError(f"task file {path} is not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _item(make: Callable[[Line, str], Item], path: Path, number: int, line: str) -> Item:
    where = f"{path}, line {number}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise EvaluationError(f"{where} is not JSON; give one JSON object per line") from None
    if not isinstance(value, dict):
        raise EvaluationError(f"{where} is no JSON object; give one per line")
    try:
        return make(value, where)
    except _LineError as error:
        raise EvaluationError(f"{where}: {error}") from None


def _metrics_of_qa(items: Sequence[Item], path: Path) -> tuple[str, ...]:
    chosen = {item.choices is not None for item in items}
    if len(chosen) > 1:
        raise EvaluationError(f"{path} has questions with choices and without; give them in two files")
    return _CHOSEN if chosen == {True} else ("exact",)


# What a line holds


def _word(line: Line, key: str) -> str:
    value = line.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _LineError(f"{key!r} is {_shown(line, key)}; give a text that is not empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _LineError(f"{key!r} holds half of a surrogate pair; write whole characters")
    return value


def _words(line: Line, key: str) -> tuple[str, ...]:
    values = line.get(key)
    if not isinstance(values, list) or not values:
        raise _LineError(f"{key!r} is {_shown(line, key)}; give a list of texts")
    return tuple(_word({key: value}, key) for value in values)


def _number(line: Line, key: str, known: Sequence[Any]) -> int:
    """Place among the known values; numbers may be written as text."""
    value = line.get(key)
    for i, one in enumerate(known):
        if not isinstance(value, bool) and (value == one or (isinstance(value, str) and value == str(one))):
            return i
    raise _LineError(f"{key!r} is {_shown(line, key)}; give one of {', '.join(map(str, known))}")


def _shown(line: Line, key: str) -> str:
    return repr(line[key]) if key in line else "missing"


# Kinds


def _choice(where: str, context: str, choices: Sequence[str], gold: int) -> Item:
    """Continuations are the choices, parted from the context by a space."""
    pairs = tuple((context, f" {choice}") for choice in choices)
    return Item(name=where, pairs=pairs, gold=(gold,), choices=tuple(choices))


def _lambada(line: Line, where: str) -> Item:
    before, found, last = _word(line, "text").rpartition(" ")
    if not found or not before or not last:
        raise _LineError("'text' has no last word behind a space; give a passage that ends with its last word")
    return Item(name=where, pairs=((before, f" {last}"),), gold=(0,))


def _hellaswag(line: Line, where: str) -> Item:
    label, first = _word(line, "activity_label"), _word(line, "ctx_a")
    second = line.get("ctx_b")
    if not isinstance(second, str):
        raise _LineError(f"'ctx_b' is {_shown(line, 'ctx_b')}; give a text, which may be empty")
    query = _without_brackets(f"{label}: {first} {second.capitalize()}")
    endings = [_without_brackets(ending) for ending in _words(line, "endings")]
    if not all(endings):
        raise _LineError("'endings' has one of nothing but marks in brackets; give each some words")
    return _choice(where, query, endings, _number(line, "label", range(len(endings))))


def _without_brackets(text: str) -> str:
    """WikiHow's marks are left out."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _piqa(line: Line, where: str) -> Item:
    choices = [_word(line, key) for key in ("sol1", "sol2")]
    return _choice(where, f"Question: {_word(line, 'goal')}\nAnswer:", choices, _number(line, "label", (0, 1)))


def _copa(line: Line, where: str) -> Item:
    """The premise without its full stop, because or therefore, a choice that begins small."""
    word = ("because", "therefore")[_number(line, "question", ("cause", "effect"))]
    choices = [_word(line, key) for key in ("choice1", "choice2")]
    context = f"{_word(line, 'premise').strip()[:-1]} {word}"
    small = [f" {choice[0].lower()}{choice[1:]}" for choice in choices]
    return _choice(where, context, small, _number(line, "label", (0, 1)))


def _storycloze(line: Line, where: str) -> Item:
    context = " ".join(_word(line, f"input_sentence_{i}") for i in (1, 2, 3, 4))
    choices = [_word(line, key) for key in ("sentence_quiz1", "sentence_quiz2")]
    return _choice(where, context, choices, _number(line, "answer_right_ending", (1, 2)))


def _winogrande(line: Line, where: str) -> Item:
    """The rest of the sentence behind either option: partial scoring (Trinh and Le, 1806.02847)."""
    before, found, after = _word(line, "sentence").partition("_")
    if not found or not after.strip():
        raise _LineError("'sentence' has no _ with words behind it; mark the place of the options")
    contexts = tuple(before + _word(line, key) for key in ("option1", "option2"))
    gold = _number(line, "answer", (1, 2))
    pairs = tuple((context, f" {after.strip()}") for context in contexts)
    return Item(name=where, pairs=pairs, gold=(gold,), choices=contexts)


def _qa(line: Line, where: str) -> Item:
    prompt = f"Question: {_word(line, 'question')}\nAnswer:"
    if "choices" in line:
        choices = _words(line, "choices")
        return _choice(where, prompt, choices, _number(line, "answer", range(len(choices))))
    answers = _words(line, "answers")
    return Item(
        name=where, pairs=tuple((prompt, f" {answer}") for answer in answers), gold=tuple(range(len(answers)))
    )


def _plain_choice(line: Line, where: str) -> Item:
    choices = _words(line, "choices")
    return _choice(where, _word(line, "context"), choices, _number(line, "answer", range(len(choices))))


KINDS: dict[str, tuple[Callable[[Line, str], Item], tuple[str, ...]]] = {
    "lambada": (_lambada, ("exact",)),
    "hellaswag": (_hellaswag, _CHOSEN),
    "piqa": (_piqa, _CHOSEN),
    "copa": (_copa, ("acc",)),
    "storycloze": (_storycloze, ("acc",)),
    "winogrande": (_winogrande, ("acc",)),
    "qa": (_qa, ("exact",)),
    "choice": (_plain_choice, _CHOSEN),
}
