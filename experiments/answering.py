"""Items that a model answers before and after quantization: a score a task beside the losses.

The tasks are made of the held-out text (``qsim.evaluation.built_in``), so that no score of others compares with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from experiments.mechanism import figure
from experiments.quantizing import INT4, INT8, PRE, Evaluation
from qsim.corpus import Corpus
from qsim.evaluation import EvaluationError, Task, evaluate_task, last_word_task, next_paragraph_task

ANSWERED = (PRE, INT8, INT4)
ITEMS = {"LAMBADA-like": 96, "next paragraph": 32}


@lru_cache(maxsize=4)
def tasks_of(corpus: Corpus, length: int) -> tuple[Task, ...]:
    """Those that the held-out text has items for; none of a corpus that came as tokens."""
    if corpus.tokenizer == "none":
        return ()
    tokenizer = corpus.text_tokenizer()
    text = tokenizer.decode(corpus.validation)
    found = []
    for make in (
        lambda: last_word_task(text, number=ITEMS["LAMBADA-like"]),
        lambda: next_paragraph_task(text, tokenizer, length, number=ITEMS["next paragraph"]),
    ):
        try:
            found.append(make())
        except EvaluationError:  # too little text for such a task
            continue
    return tuple(found)


def answered(evaluation: Evaluation, tasks: Sequence[Task]) -> dict[str, Any]:
    """By task: whether each item is right, as a text of 0 and 1 a metric, and log-likelihoods of its choices."""
    found = {}
    for task in tasks:
        answers = evaluate_task(evaluation, task).answers
        right = {name: "".join(str(int(one.right[name])) for one in answers) for name in task.metrics}
        found[task.name] = {
            "right": right,
            "log_likelihoods": [[figure(x, 7) for x in one.log_likelihoods] for one in answers],
        }
    return found


def unanswered(tasks: Sequence[Task]) -> dict[str, Any]:
    """Of a model whose logits are no numbers: nothing is right."""
    nan = float("nan")
    return {
        task.name: {
            "right": {name: "0" * len(task.items) for name in task.metrics},
            "log_likelihoods": [[nan] * len(item.pairs) for item in task.items],
        }
        for task in tasks
    }


def asked(tasks: Sequence[Task]) -> dict[str, Any]:
    """By task, the metric whose degradation counts, and which choice of each item is right."""
    return {task.name: {"metric": task.metrics[0], "gold": [item.gold[0] for item in task.items]} for task in tasks}
