"""Log-likelihoods of tokens: many sequences in few passes, each with the bits it has by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qsim.evaluation.error import EvaluationError
from qsim.evaluation.language_model import LanguageModel
from qsim.progress import Progress, silent

Begin = Callable[[str, int, int], Progress]
_ROWS = 64  # whose float64 terms are in memory at once
_TOKENS = 2048  # of a pass
_LOGITS = 1 << 26  # values of one pass: 256 MiB


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """inputs (n,) int32, of which the last k positions are to predict targets (k,) int32; 1 <= k <= n."""

    inputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """losses (k,) float64, -ln p of each target; greedy (k,), whether its logit is the largest."""

    losses: np.ndarray
    greedy: np.ndarray

    @property
    def log_likelihood(self) -> float:
        return -float(self.losses.sum())

    @property
    def all_greedy(self) -> bool:
        return bool(self.greedy.all())


def token_losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-ln softmax(x)_t of every row, in float64 from float32 logits.  (N, V), (N,) -> (N,)

        ln(sum_j exp(x_j - m)) + m - x_t,    m = max_j x_j

    The difference x_j - m is exact or rounded once in float64, no exponential exceeds 1 and one of them is 1, so that
    nothing overflows and the logarithm is at least 0; relative error of the sum at most about V 2^-53.  A row with a
    NaN or an infinity among its logits has a NaN for a loss, or an infinite one for a target of -infinity.
    """
    found = np.empty(len(targets), np.float64)
    for start in range(0, len(targets), _ROWS):
        part = slice(start, start + _ROWS)
        x = logits[part].astype(np.float64)
        largest = x.max(axis=-1, keepdims=True)
        own = np.take_along_axis(x, targets[part, None].astype(np.int64), axis=-1)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            total = np.exp(x - largest).sum(axis=-1)
            found[part] = np.log(total) + (largest - own)[:, 0]
    return found


def greedy_matches(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Whether each target is the place of its row's largest logit, the lower of equals; never in a row with a NaN."""
    return (logits.argmax(axis=-1) == targets) & ~np.isnan(logits).any(axis=-1)


def score(
    model: LanguageModel,
    requests: Sequence[Request],
    *,
    batch_tokens: int = _TOKENS,
    begin: Begin = silent,
    name: str = "score",
) -> list[Scored]:
    """Losses of every request, in their order.

    Sequences of similar length share a pass, padded behind, where the model's rows are independent; otherwise each
    has a pass of its own, so that no result depends on its neighbours.  Logits of one pass are in memory at a time.
    """
    found: dict[int, Scored] = {}
    total, tokens = 0.0, 0
    with begin(name, 0, len(requests)) as progress:
        for numbers in _batches(model, requests, batch_tokens):
            _score_batch(model, requests, numbers, found)
            total += sum(found[i].losses.sum() for i in numbers)
            tokens += sum(len(found[i].losses) for i in numbers)
            progress.update(len(found), total / tokens)
    return [found[i] for i in range(len(requests))]


def _batches(model: LanguageModel, requests: Sequence[Request], batch_tokens: int) -> Iterator[list[int]]:
    """Places of requests, the longest first."""
    order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].inputs), i))
    most = min(batch_tokens, _LOGITS // model.vocabulary) if model.rows_independent else 0
    start = 0
    while start < len(order):
        rows = max(1, most // len(requests[order[start]].inputs))
        yield order[start : start + rows]
        start += rows


def _score_batch(
    model: LanguageModel, requests: Sequence[Request], numbers: list[int], found: dict[int, Scored]
) -> None:
    tokens = np.zeros((len(numbers), len(requests[numbers[0]].inputs)), np.int32)
    for row, i in zip(tokens, numbers, strict=True):
        row[: len(requests[i].inputs)] = requests[i].inputs
    for own, i in zip(model.logits(tokens), numbers, strict=True):
        length, targets = len(requests[i].inputs), requests[i].targets
        rows = own[length - len(targets) : length]
        found[i] = Scored(losses=token_losses(rows, targets), greedy=greedy_matches(rows, targets))


def continuation_request(
    context: np.ndarray, continuation: np.ndarray, length: int, what: str = "a continuation"
) -> Request:
    """The pass that predicts a continuation; a context too long for ``length`` positions loses its beginning.

    Errors: EvaluationError, naming ``what``, for no context, no continuation, or one longer than the model.
    """
    if not len(context) or not len(continuation):
        missing = "context" if not len(context) else "continuation"
        raise EvaluationError(f"{what} has no token of {missing}; give text for both")
    if len(continuation) > length:
        raise EvaluationError(
            f"{what} is {len(continuation)} tokens long, more than the {length} of the model; shorten it"
        )
    whole = np.concatenate([context, continuation])[-(length + 1) :].astype(np.int32)
    return Request(inputs=whole[:-1], targets=continuation.astype(np.int32))
