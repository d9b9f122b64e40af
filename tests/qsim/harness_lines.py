"""Lines of task files, and where the harness describes tasks of such lines."""

from __future__ import annotations

from typing import Any

LINES: dict[str, tuple[str, list[dict[str, Any]]]] = {  # kind: the harness' own description, lines of a file
    "lambada": (
        "lambada/lambada_openai.yaml",
        [{"text": "He gave the ball to Ann.  She was glad of the ball"}, {"text": "A caf\u00e9 is a caf\u00e9"}],
    ),
    "hellaswag": (
        "hellaswag/hellaswag.yaml",
        [
            {"activity_label": "Roof", "ctx_a": "A man sits on a roof. [header] How", "ctx_b": "he WAITS",
             "endings": [" is using wrap [step] now.  Then", "is ripping [title] tiles.", "holds\u2026", "x"],
             "label": "3"},
            {"activity_label": "Tea", "ctx_a": "Water.", "ctx_b": "", "endings": ["boils", "sings"], "label": "0"},
        ],
    ),
    "piqa": ("piqa/piqa.yaml", [{"goal": "open a jar", "sol1": "twist the lid", "sol2": "eat \u00e9", "label": 1}]),
    "copa": (
        "super_glue/copa/default.yaml",
        [
            {"premise": "The man broke his toe. ", "question": "cause", "choice1": "He got a hole.",
             "choice2": "He dropped it.", "label": 1},
            {"premise": "It rained.", "question": "effect", "choice1": "I ran.", "choice2": "We won.", "label": 0},
        ],
    ),
    "storycloze": (
        "storycloze/storycloze_2016.yaml",
        [{f"input_sentence_{i}": f"Sentence {i}." for i in (1, 2, 3, 4)}
         | {"sentence_quiz1": "An end.", "sentence_quiz2": "No end.", "answer_right_ending": 2}],
    ),
    "winogrande": (
        "winogrande/default.yaml",
        [{"sentence": "Ann gave Beth a coat as _  was cold.", "option1": "Ann", "option2": "Beth", "answer": "2"}],
    ),
    "qa": (
        "arc/arc_easy.yaml",
        [{"question": "What is red?", "choices": {"text": ["a rose", "the sea", "\u00e9t\u00e9"],
                                                  "label": ["A", "B", "C"]}, "answerKey": "B"}],
    ),
}  # fmt: skip


def ours(kind: str, line: dict[str, Any]) -> dict[str, Any]:
    """A line of our kind for one of the harness' data set: ARC's questions are ``qa``."""
    if kind != "qa":
        return line
    labels = line["choices"]["label"]
    return {
        "question": line["question"],
        "choices": line["choices"]["text"],
        "answer": labels.index(line["answerKey"]),
    }
