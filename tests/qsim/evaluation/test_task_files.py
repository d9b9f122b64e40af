"""Files of items: what a line becomes, and the sentence for one that is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness_lines import LINES, ours
from refusals import refused

from qsim.evaluation import EvaluationError, read_task
from qsim.evaluation.task_files import KINDS


def write(folder: Path, *lines: Any, name: str = "items.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def good(kind: str) -> dict[str, Any]:
    if kind == "choice":
        return {"context": "A", "choices": ["b", "c"], "answer": 1}
    return ours(kind, LINES[kind][1][0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_needed(kind: str, tmp_path: Path) -> None:
    line = good(kind)
    assert len(read_task(kind, write(tmp_path, line)).items) == 1
    for key in line:
        broken = {k: v for k, v in line.items() if k != key}
        path = write(tmp_path, line, "", broken)
        missing = "answers" if (kind, key) == ("qa", "choices") else key
        with refused(EvaluationError, f"{path}, line 3", repr(missing), "missing"):
            read_task(kind, path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [None, True, [], {}, 7.5, "", " \n"])
def test_values_of_another_kind(kind: str, wrong: Any, tmp_path: Path) -> None:
    line = good(kind)
    for key in line:
        if (key, wrong) in (("ctx_b", ""), ("ctx_b", " \n")):
            continue
        with refused(EvaluationError, f"{tmp_path / 'items.jsonl'}, line 1"):
            read_task(kind, write(tmp_path, line | {key: wrong}))


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("{", ("line 2", "not JSON")),
        ("[1]", ("line 2", "no JSON object")),
        ('"text"', ("line 2", "no JSON object")),
        ("[" * 100_000, ("line 2", "not JSON")),
        ('{"text": "word"}', ("line 2", "no last word")),
        ('{"text": "ends with a space "}', ("line 2", "no last word")),
        ('{"text": "half \\ud800 pair"}', ("line 2", "surrogate")),
    ],
)
def test_broken_lines(line: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    path = write(tmp_path, good("lambada"), line)
    with refused(EvaluationError, str(path), *parts):
        read_task("lambada", path)


def test_labels_outside(tmp_path: Path) -> None:
    for kind, key, wrong in (
        ("hellaswag", "label", 4), ("piqa", "label", 2), ("copa", "label", -1), ("copa", "question", "why"),
        ("winogrande", "answer", 0), ("storycloze", "answer_right_ending", 0), ("choice", "answer", 2),
    ):  # fmt: skip
        with refused(EvaluationError, "line 1", repr(key), repr(wrong), "give one of"):
            read_task(kind, write(tmp_path, good(kind) | {key: wrong}))


def test_the_place_of_the_options(tmp_path: Path) -> None:
    for sentence in ("no place here", "at the end _", "at the end _ "):
        with refused(EvaluationError, "line 1", "no _ with words behind it"):
            read_task("winogrande", write(tmp_path, good("winogrande") | {"sentence": sentence}))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with refused(EvaluationError, str(tmp_path / "absent"), "cannot be read"):
        read_task("piqa", tmp_path / "absent")
    with refused(EvaluationError, str(tmp_path), "cannot be read"):
        read_task("piqa", tmp_path)
    (tmp_path / "latin").write_bytes(b'{"goal": "\xe9"}')
    with refused(EvaluationError, "not UTF-8 at byte 10"):
        read_task("piqa", tmp_path / "latin")
    with refused(EvaluationError, "no items"):
        read_task("piqa", write(tmp_path))
    with refused(EvaluationError, "task kind 'boolq' is not known", "hellaswag"):
        read_task("boolq", tmp_path / "absent")


def test_limit_and_names(tmp_path: Path) -> None:
    path = write(tmp_path, *[good("piqa")] * 3, name="piqa.jsonl")
    found = read_task("piqa", path, limit=2)
    assert (found.name, len(found.items), found.items[1].name) == ("piqa", 2, f"{path}, line 2")
    assert read_task("piqa", write(tmp_path, good("piqa"), name="dev.jsonl")).name == "piqa:dev"


def test_questions_with_and_without_choices(tmp_path: Path) -> None:
    own = {"question": "Who?", "answers": ["Ann", "Anna"]}
    found = read_task("qa", write(tmp_path, own))
    assert found.metrics == ("exact",)
    assert found.items[0].pairs == (("Question: Who?\nAnswer:", " Ann"), ("Question: Who?\nAnswer:", " Anna"))
    assert found.items[0].gold == (0, 1)
    with refused(EvaluationError, "with choices and without"):
        read_task("qa", write(tmp_path, own, good("qa")))
