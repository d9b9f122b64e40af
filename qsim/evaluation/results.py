"""Evaluations as files: ``results.json``, and ``items.csv`` with every item's and every block of tokens' loss."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsim import strict_json
from qsim.atomic import write_atomically
from qsim.evaluation.comparison import BLOCK, Comparison, Evaluation
from qsim.evaluation.items import TaskScore
from qsim.evaluation.perplexity import TextScore

RESULTS, ITEMS = "results.json", "items.csv"


def as_json(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """evaluations: of pre, then of the others; comparisons: of each of the others with pre."""
    return {
        "evaluations": [_evaluation(one) for one in evaluations],
        "comparisons": [dataclasses.asdict(one) for one in comparisons],
    }


def _evaluation(one: Evaluation) -> dict[str, Any]:
    text = None if one.text is None else _text(one.text)
    return {"name": one.name, "text": text, "tasks": [_task(score) for score in one.tasks]}


def _text(text: TextScore) -> dict[str, Any]:
    return {
        "tokens": len(text.losses),
        "length": text.length,
        "stride": text.stride,
        "loss": text.loss,
        "perplexity": text.perplexity,
        "bits_per_byte": text.bits_per_byte,
        "not_finite": text.not_finite,
    }


def _task(score: TaskScore) -> dict[str, Any]:
    metrics = {}
    for name in score.task.metrics:
        value, error = score.accuracy(name)
        metrics[name] = {"value": value, "standard_error": error}
    return {
        "task": score.task.name,
        "items": len(score.answers),
        "metrics": metrics,
        "perplexity": score.perplexity,
        "not_finite": score.not_finite,
    }


def write_results(
    folder: Path, head: dict[str, Any], evaluations: Sequence[Evaluation], found: dict[str, Any]
) -> None:
    """Both files into a folder, each whole or not at all, results.json last."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ITEMS, _items_csv(evaluations).encode())
    write_atomically(folder / RESULTS, (strict_json.dumps(head | found, indent=1) + "\n").encode())


def _items_csv(evaluations: Sequence[Evaluation]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("evaluation", "task", "item", "metric", "right", "tokens", "loss", "log_likelihoods"))
    for one in evaluations:
        if one.text is not None:
            writer.writerows(_blocks(one.name, one.text.losses))
        for score in one.tasks:
            writer.writerows(_answers(one.name, score))
    return file.getvalue()


def _blocks(name: str, losses: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Sums of the losses of ``BLOCK`` neighbouring tokens."""
    for start in range(0, len(losses), BLOCK):
        part = losses[start : start + BLOCK]
        yield name, "text", f"tokens {start + 1} on", "", "", len(part), repr(float(part.sum())), ""


def _answers(name: str, score: TaskScore) -> Iterator[tuple[Any, ...]]:
    metric = score.task.metrics[0]
    for answer in score.answers:
        likelihoods = " ".join(map(repr, answer.log_likelihoods))
        right = int(answer.right[metric])
        yield name, score.task.name, answer.name, metric, right, "", repr(answer.loss), likelihoods
