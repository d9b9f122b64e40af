"""Log-likelihoods of tokens: many sequences in few passes, each with the bits it has by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qsim.evaluation.error import EvaluationError
from qsim.evaluation.language_model import ContextReader, LanguageModel
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

    @property
    def context(self) -> np.ndarray:
        """What is read before the first target: (n - k + 1,)."""
        return self.inputs[: len(self.inputs) - len(self.targets) + 1]


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

    Where the model's rows are independent, sequences of similar length share a pass, padded behind, and a
    ``ContextReader`` reads a context of several once; otherwise each has a pass of its own, so that no result depends
    on its neighbours.  Logits of one pass are in memory at a time.
    """
    found: dict[int, Scored] = {}
    total, tokens = 0.0, 0
    with begin(name, 0, len(requests)) as progress:
        for numbers, logits in _passes(model, requests, batch_tokens):
            for own, i in zip(logits, numbers, strict=True):
                found[i] = scored = _scored(own, requests[i])
                total, tokens = total + scored.losses.sum(), tokens + len(scored.losses)
            progress.update(len(found), total / tokens)
    return [found[i] for i in range(len(requests))]


def _passes(
    model: LanguageModel, requests: Sequence[Request], batch_tokens: int
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Places of requests, and the logits (k, V) that predict the targets of each."""
    alike: dict[bytes, list[int]] = {}
    sharing = isinstance(model, ContextReader) and model.rows_independent
    for i, request in enumerate(requests):
        alike.setdefault(request.context.tobytes() if sharing else str(i).encode(), []).append(i)
    for numbers in alike.values():
        if isinstance(model, ContextReader) and len(numbers) > 1:
            yield numbers, _behind_one_context(model, [requests[i] for i in numbers])
    single = [numbers[0] for numbers in alike.values() if len(numbers) == 1]
    for numbers in _batches(model, requests, single, batch_tokens):
        yield numbers, _side_by_side(model, [requests[i] for i in numbers])


def _batches(
    model: LanguageModel, requests: Sequence[Request], places: Sequence[int], batch_tokens: int
) -> Iterator[list[int]]:
    """These places of requests, the longest first."""
    order = sorted(places, key=lambda i: (-len(requests[i].inputs), i))
    most = min(batch_tokens, _LOGITS // model.vocabulary) if model.rows_independent else 0
    start = 0
    while start < len(order):
        rows = max(1, most // len(requests[order[start]].inputs))
        yield order[start : start + rows]
        start += rows


def _side_by_side(model: LanguageModel, requests: Sequence[Request]) -> list[np.ndarray]:
    logits = model.logits(_padded([one.inputs for one in requests]))
    ends = [(len(one.inputs), len(one.targets)) for one in requests]
    return [own[length - count : length] for own, (length, count) in zip(logits, ends, strict=True)]


def _behind_one_context(model: ContextReader, requests: Sequence[Request]) -> list[np.ndarray]:
    logits = model.logits_behind(requests[0].context, _padded([one.targets[:-1] for one in requests]))
    return [own[: len(one.targets)] for own, one in zip(logits, requests, strict=True)]


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """(B, T) int32, zeros behind those that are shorter than the longest."""
    found = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, own in zip(found, rows, strict=True):
        row[: len(own)] = own
    return found


def _scored(logits: np.ndarray, request: Request) -> Scored:
    return Scored(losses=token_losses(logits, request.targets), greedy=greedy_matches(logits, request.targets))


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
