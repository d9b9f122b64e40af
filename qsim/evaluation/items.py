"""Items of tasks: what is asked of a model, and what its log-likelihoods make of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from qsim.evaluation.error import EvaluationError
from qsim.evaluation.language_model import LanguageModel, encoded, prefix_token
from qsim.evaluation.likelihood import Begin, Request, Scored, continuation_request, score
from qsim.progress import silent
from qsim.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Item:
    """pairs: (context, continuation) of every request.  gold: which of them are right.

    choices: their texts, by whose lengths log-likelihoods are divided; None where none are to be chosen from, but the
    gold continuation is to be what the model itself would write.  name: where the item comes from.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    gold: tuple[int, ...]
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """Items of one kind; metrics: those that are reported, of ``METRICS``; degradation is that of the first."""

    name: str
    items: tuple[Item, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """log_likelihoods: of every pair, nats.  loss: of the gold continuation, the likeliest one of several, nats.

    right: by metric.  finite: whether no log-likelihood is NaN or infinite; nothing else is right.
    """

    name: str
    log_likelihoods: tuple[float, ...]
    loss: float
    right: dict[str, bool]
    finite: bool


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    task: Task
    answers: tuple[Answer, ...]

    @property
    def losses(self) -> np.ndarray:
        return np.array([answer.loss for answer in self.answers])

    def right(self, metric: str) -> np.ndarray:
        return np.array([answer.right[metric] for answer in self.answers])

    @property
    def perplexity(self) -> float:
        """exp of the mean loss of the gold continuations: of whole continuations, not of tokens."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.losses.mean()))

    @property
    def not_finite(self) -> int:
        return sum(not answer.finite for answer in self.answers)

    def accuracy(self, metric: str) -> tuple[float, float | None]:
        """Mean, and its standard error sqrt(sum((x - mean)^2) / (n - 1) / n); None of one item."""
        right = self.right(metric).astype(np.float64)
        if right.size < 2:
            return float(right.mean()), None
        return float(right.mean()), float(right.std(ddof=1) / math.sqrt(right.size))


def _likeliest(item: Item, scored: Sequence[Scored]) -> bool:
    return int(np.argmax([one.log_likelihood for one in scored])) in item.gold


def _likeliest_by(length: Callable[[str], int]) -> Metric:
    """By unit of length of the choices."""

    def right(item: Item, scored: Sequence[Scored]) -> bool:
        choices = item.choices or ()
        by = [one.log_likelihood / length(choice) for one, choice in zip(scored, choices, strict=True)]
        return int(np.argmax(by)) in item.gold

    return right


def _written(item: Item, scored: Sequence[Scored]) -> bool:
    """Whether every token of a gold continuation is the one with the largest logit."""
    return any(scored[i].all_greedy for i in item.gold)


Metric: TypeAlias = Callable[[Item, Sequence[Scored]], bool]
METRICS: dict[str, Metric] = {
    "exact": _written,
    "acc": _likeliest,
    "acc_norm": _likeliest_by(len),
    "acc_bytes": _likeliest_by(lambda choice: len(choice.encode())),
}


def encode_pair(
    tokenizer: Tokenizer, vocabulary: int, context: str, continuation: str
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of context and continuation, as lm-evaluation-harness parts them.

    White space at the end of the context goes to the continuation; both are encoded as one text, which is parted
    where the tokens of the context alone end.  No context is one token: ``prefix_token``, or the continuation's own
    first token where that is the same.
    Source: lm-evaluation-harness 0.4.13, ``TemplateLM._encode_pair`` and ``loglikelihood``.
    """
    if not context:
        own, prefix = encoded(tokenizer, continuation, vocabulary), prefix_token(tokenizer)
        if own.size and own[0] == prefix:
            return own[:1], own[1:]
        return np.array([prefix], np.int32), own
    kept = context.rstrip()
    whole = encoded(tokenizer, context + continuation, vocabulary)
    alone = encoded(tokenizer, kept, vocabulary)
    return whole[: len(alone)], whole[len(alone) :]


def evaluate_task(model: LanguageModel, task: Task, *, begin: Begin = silent) -> TaskScore:
    """Answers to every item.  EvaluationError, naming the item, for a pair that gives no tokens or too many."""
    requests, owners = [], []
    for number, item in enumerate(task.items):
        for context, continuation in item.pairs:
            requests.append(_request(model, item, context, continuation))
            owners.append(number)
    scored = score(model, requests, begin=begin, name=task.name)
    found: list[list[Scored]] = [[] for _ in task.items]
    for number, one in zip(owners, scored, strict=True):
        found[number].append(one)
    answers = (answer_of(item, own, task.metrics) for item, own in zip(task.items, found, strict=True))
    return TaskScore(task=task, answers=tuple(answers))


def evaluate_tasks(model: LanguageModel, tasks: Sequence[Task], *, begin: Begin = silent) -> tuple[TaskScore, ...]:
    return tuple(evaluate_task(model, task, begin=begin) for task in tasks)


def _request(model: LanguageModel, item: Item, context: str, continuation: str) -> Request:
    parts = encode_pair(model.tokenizer, model.vocabulary, context, continuation)
    return continuation_request(*parts, model.length, what=f"{item.name}: {_short(continuation)!r}")


def _short(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:30]}..."


def answer_of(item: Item, scored: Sequence[Scored], metrics: Sequence[str]) -> Answer:
    """What is right of an item: nothing where a log-likelihood is not finite."""
    likelihoods = np.array([one.log_likelihood for one in scored])
    finite = bool(np.isfinite(likelihoods).all())
    return Answer(
        name=item.name,
        log_likelihoods=tuple(map(float, likelihoods)),
        loss=float(np.min(-likelihoods[list(item.gold)])),
        right={name: finite and METRICS[name](item, scored) for name in metrics},
        finite=finite,
    )


def checked(items: Sequence[Item], name: str) -> tuple[Item, ...]:
    """EvaluationError where there are none."""
    if not items:
        raise EvaluationError(f"task {name} has no items; give at least one")
    return tuple(items)
