"""Text written by a model, token by token, each pass reading the last token alone behind a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from precision.random_bits import as_key, fold_name, random_bits
from qsim.evaluation.error import EvaluationError
from qsim.evaluation.language_model import DecoderLanguageModel
from qsim.tokenizers import Tokenizer

_UNKNOWN = "\ufffd"  # bytes that are no whole character, so far


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """temperature 0: the largest logit, the lower token of equals.  top_k: of how many to draw; None: of all."""

    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise EvaluationError(f"temperature {self.temperature} is not offered; choose 0 or a number above it")
        if self.top_k is not None and self.top_k < 1:
            raise EvaluationError(f"top_k {self.top_k} leaves nothing to draw from; choose at least 1")
        as_key(self.seed)


def next_token(logits: np.ndarray, sampling: Sampling, position: int) -> int:
    """One of (V,) float32 logits, by the word of the stream "generate" at ``position``.

        p_j = exp((x_j - max x) / temperature) in float64, of the top_k largest, the lower token first of equals
        the first token, in order of falling logits, with cumulative sum > word / 2^32 times the whole sum

    A function of the bits of the logits and of this NumPy's exp.
    Errors: EvaluationError where a logit is NaN or none is finite.
    """
    if np.isnan(logits).any() or not np.isfinite(logits.max()):
        raise EvaluationError(
            f"the logits at position {position} are not finite; evaluate under a policy of wider range, such as bf16"
        )
    if sampling.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: sampling.top_k]
    x = logits[order].astype(np.float64)
    sums = np.exp((x - x[0]) / sampling.temperature).cumsum()
    word = random_bits(fold_name(as_key(sampling.seed), "generate"), np.array([position], np.uint64))[0]
    return int(order[np.searchsorted(sums, float(word) / 2**32 * sums[-1], side="right")])


def generate(
    model: DecoderLanguageModel, prompt: np.ndarray, tokens: int, sampling: Sampling | None = None
) -> Iterator[int]:
    """Up to ``tokens`` tokens behind a prompt (N,), each as soon as it is known.

    Errors: EvaluationError, before the first, for no prompt and for more positions than the model has.
    """
    whole = len(prompt) + tokens - 1  # the last one is not read
    if tokens < 1:
        raise EvaluationError(f"{tokens} tokens are nothing to write; ask for at least 1")
    if not len(prompt):
        raise EvaluationError("the prompt has no token; give some text")
    if whole > model.length and model.model.config.positions != "alibi":
        raise EvaluationError(
            f"a prompt of {len(prompt)} tokens and {tokens} more exceed the {model.length} positions of the model; "
            f"ask for at most {max(model.length - len(prompt) + 1, 0)}, or shorten the prompt"
        )
    return _generated(model, prompt, tokens, sampling or Sampling())


def _generated(model: DecoderLanguageModel, prompt: np.ndarray, tokens: int, sampling: Sampling) -> Iterator[int]:
    cache = model.new_cache()
    given = prompt.astype(np.int32)
    for position in range(len(prompt), len(prompt) + tokens):
        chosen = next_token(model.logits(given[None], cache)[0, -1], sampling, position)
        yield chosen
        given = np.array([chosen], np.int32)


def written(tokenizer: Tokenizer, tokens: Iterator[int], until: Sequence[str] = ()) -> Iterator[str]:
    """The text of tokens in pieces, each as soon as it cannot change; it ends before the first of ``until``.

    What could be the beginning of a stop, or of a character, is held back until it is known.
    """
    seen: list[int] = []
    told, text = 0, ""
    for token in tokens:
        seen.append(token)
        text = tokenizer.decode(seen)
        ends = [place for stop in until if (place := text.find(stop)) >= 0]
        if ends:
            if min(ends) > told:
                yield text[told : min(ends)]
            return
        sure = _sure(text, until)
        if sure > told:
            yield text[told:sure]
            told = sure
    if len(text) > told:
        yield text[told:]


def _sure(text: str, until: Sequence[str]) -> int:
    """How much of a text no further token changes."""
    end = len(text.rstrip(_UNKNOWN))
    for stop in until:
        for size in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:size]):
                end = min(end, len(text) - size)
                break
    return end
