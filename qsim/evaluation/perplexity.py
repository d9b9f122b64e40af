"""Strided perplexity of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qsim.evaluation.error import EvaluationError
from qsim.evaluation.language_model import LanguageModel
from qsim.evaluation.likelihood import Begin, Request, score
from qsim.progress import silent


@dataclass(frozen=True, kw_only=True, eq=False)
class TextScore:
    """losses (N - 1,) float64, of every token but the first; length, stride: of the windows; bytes: see ``bits``."""

    losses: np.ndarray
    length: int
    stride: int
    bytes: int | None = None

    @property
    def loss(self) -> float:
        """Mean over tokens, nats.  NaN where any is."""
        return float(self.losses.mean())

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite beyond the range of float64."""
        with np.errstate(over="ignore"):
            return float(np.exp(np.float64(self.loss)))

    @property
    def bits_per_byte(self) -> float | None:
        """sum(losses) / ln 2 / UTF-8 bytes of the tokens that were predicted; None where those are unknown."""
        return float(self.losses.sum()) / math.log(2) / self.bytes if self.bytes else None

    @property
    def not_finite(self) -> int:
        return int((~np.isfinite(self.losses)).sum())


def perplexity(
    model: LanguageModel,
    tokens: np.ndarray,
    *,
    length: int | None = None,
    stride: int | None = None,
    begin: Begin = silent,
) -> TextScore:
    """-ln p of every token but the first, each once, given those before it in its window.  (N,) integers

    Window k reads tokens k S to k S + L - 1 and predicts the next of each; of what it predicts, the last S are
    scored, in window 0 all L.  A token is so predicted from at least L - S and at most L tokens before it, but for
    the first ones of the text.  The last window ends with the text.  length L: the model's positions by default;
    stride S: L by default, which takes the least work; S = 1 gives every token all the context there is room for.
    Errors: EvaluationError for fewer than two tokens, and for a length or stride that cannot be.
    """
    length = model.length if length is None else length
    stride = length if stride is None else stride
    _check(model, tokens, length, stride)
    requests = list(windows(tokens.astype(np.int32), length, stride))
    found = score(model, requests, begin=begin, name="text")
    return TextScore(losses=np.concatenate([one.losses for one in found]), length=length, stride=stride)


def windows(tokens: np.ndarray, length: int, stride: int) -> Iterator[Request]:
    """The passes of ``perplexity``, in order; their targets are tokens[1:]."""
    start, done, last = 0, 1, len(tokens)  # done: tokens scored, or the first, which nothing predicts
    while done < last:
        end = min(start + length, last - 1)
        yield Request(inputs=tokens[start:end], targets=tokens[done : end + 1])
        start, done = start + stride, end + 1


def _check(model: LanguageModel, tokens: np.ndarray, length: int, stride: int) -> None:
    if not 1 <= length <= model.length:
        raise EvaluationError(f"windows of {length} tokens; the model reads 1 to {model.length}")
    if not 1 <= stride <= length:
        raise EvaluationError(f"a stride of {stride} tokens; choose 1 to {length}, the length of a window")
    if len(tokens) < 2:
        raise EvaluationError(f"the text has {len(tokens)} tokens; at least 2 are needed, one to predict the other")
    if int(tokens.max()) >= model.vocabulary:
        raise EvaluationError(
            f"token {int(tokens.max())} of the text is outside the model's vocabulary of {model.vocabulary}; "
            "use the model's own tokenizer"
        )
