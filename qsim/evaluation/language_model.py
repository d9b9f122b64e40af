"""A model as evaluation sees it: text to tokens, tokens to logits."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from precision.quantization.scheme import QScheme
from qsim.arithmetic import Arithmetic
from qsim.decoder import KeyValueCache, ResidentWeights, Weights, decoder_forward
from qsim.evaluation.error import EvaluationError
from qsim.held_weights import hold
from qsim.importing import Model
from qsim.post_training import calculator_for
from qsim.tokenizers import Tokenizer

_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<s>")


class LanguageModel(Protocol):
    """What is scored.

    vocabulary: every token is below it.  length: positions that one pass has room for.  rows_independent: whether the
    logits of a sequence have the same bits whatever other sequences, and padding behind it, share its pass.
    """

    @property
    def vocabulary(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def rows_independent(self) -> bool: ...
    @property
    def tokenizer(self) -> Tokenizer: ...

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """(B, T) int32 -> (B, T, V) float32."""
        ...


@runtime_checkable
class ContextReader(Protocol):
    """A ``LanguageModel`` that reads a context of several continuations once."""

    def logits_behind(self, context: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Of one context (n,) and of tokens (B, T) behind it, at its last position and at theirs: (B, 1 + T, V)."""
        ...


class DecoderLanguageModel:
    """A model, quantized or not, under a policy on an executor.

    held: its parameters are read and rounded once, at the first pass, and stay in memory; otherwise a layer of them
    is read and rounded on every pass, so that models larger than memory are scored.  The bits are the same.
    """

    def __init__(self, model: Model, policy: Arithmetic, executor: str, *, held: bool = True) -> None:
        self.model, self.calculator = model, calculator_for(model, policy, executor)
        self.rows_independent = rows_are_independent(self.calculator.policy)
        self._held = held and not isinstance(model.weights, ResidentWeights)  # in memory, and scanned, as they are

    @cached_property
    def weights(self) -> Weights:
        """Parameters as they are computed with."""
        weights = self.model.weights
        return hold(weights, self.model.config.layers, self.calculator) if self._held else weights

    @property
    def vocabulary(self) -> int:
        return self.model.config.vocabulary

    @property
    def length(self) -> int:
        return self.model.config.length

    @property
    def tokenizer(self) -> Tokenizer:
        """EvaluationError for one with more tokens than the model has rows."""
        size = self.model.tokenizer.vocabulary_size
        if size > self.vocabulary:
            raise EvaluationError(
                f"the tokenizer of {self.model.source} has {size} tokens and the model only {self.vocabulary}; "
                "put the model's own tokenizer beside it"
            )
        return self.model.tokenizer

    def new_cache(self) -> KeyValueCache:
        return KeyValueCache()

    def logits(self, tokens: np.ndarray, cache: KeyValueCache | None = None) -> np.ndarray:
        """(B, T) -> (B, T, V) float32; cache: see ``decoder_forward``."""
        found = decoder_forward(self.calculator, self.model.config, self.weights, tokens, cache=cache)
        return np.asarray(found, np.float32).reshape(*tokens.shape, -1)  # hardware arithmetic keeps 16 bits

    def logits_behind(self, context: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The context is read once, its keys and values by every row; the bits of passes over the whole."""
        cache, rows = self.new_cache(), len(tokens)
        last = self.logits(context[None], cache)[:, -1:].repeat(rows, axis=0)
        if not tokens.shape[1]:
            return last
        xp = self.calculator.xp
        for layer in cache.layers:
            layer |= {name: xp.tile(x, (rows, 1, 1)) for name, x in layer.items()}
        return np.concatenate([last, self.logits(tokens, cache)], axis=1)


def rows_are_independent(policy: Arithmetic) -> bool:
    """Whether no scale and no choice of columns spans rows of activations, which are those of several sequences."""
    return not policy.scales_tensors and all(
        _by_rows(row.scheme("fprop")) for _, _, direction, row in policy.rows() if direction == "fprop"
    )


def _by_rows(scheme: Any) -> bool:
    if scheme is None or scheme.x is None:
        return True
    own = not isinstance(scheme.x, QScheme) or scheme.x.granularity == "vector"
    return own and scheme.threshold is None


def prefix_token(tokenizer: Tokenizer) -> int:
    """What stands before text that has no context: the first end-of-text token that is known, else a newline."""
    for text in (*_ENDS, "\n"):
        found = tokenizer.encode(text)
        if len(found) == 1:
            return int(found[0])
    return int(tokenizer.encode("\n")[-1])


def encoded(tokenizer: Tokenizer, text: str, vocabulary: int) -> np.ndarray:
    """Tokens of a text, int32.  EvaluationError for one that the model has no row for."""
    tokens = tokenizer.encode(text).astype(np.int32)
    if tokens.size and int(tokens.max()) >= vocabulary:
        raise EvaluationError(
            f"the tokenizer gives token {int(tokens.max())}, outside the model's vocabulary of {vocabulary}; "
            "use the model's own tokenizer"
        )
    return tokens
