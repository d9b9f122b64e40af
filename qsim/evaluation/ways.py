"""Ways in which a model is evaluated: under a policy, quantized after training or not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsim.arithmetic import Arithmetic
from qsim.evaluation.comparison import Evaluation
from qsim.evaluation.error import EvaluationError
from qsim.evaluation.items import Task, evaluate_tasks
from qsim.evaluation.language_model import DecoderLanguageModel, LanguageModel, encoded
from qsim.evaluation.likelihood import Begin
from qsim.evaluation.perplexity import perplexity
from qsim.importing import Model
from qsim.post_training import PostTraining, quantize_model
from qsim.progress import silent

_KV = "kv"  # keys and values in INT8, by itself or behind a scheme and a plus sign


@dataclass(frozen=True, kw_only=True)
class Way:
    """how: None for a model as it is.  calibration: tokens (B, T), used where ``how`` calibrates."""

    name: str
    model: Model
    policy: Arithmetic
    how: PostTraining | None = None
    calibration: np.ndarray | None = None

    def language_model(self, executor: str, *, held: bool = True) -> DecoderLanguageModel:
        """Quantized now.  Errors: as ``quantize_model``."""
        model = self.model
        if self.how is not None:
            tokens = self.calibration if self.how.calibrates else None
            calibrating = executor if executor != "jax" else "numba"  # the same bits
            model = quantize_model(model, self.how, calibration=tokens, executor=calibrating)
        return DecoderLanguageModel(model, self.policy, executor, held=held)

    def as_json(self) -> dict[str, Any]:
        how = self.how or self.model.quantization
        return {
            "name": self.name,
            "model": str(self.model.source),
            "policy": self.policy.name,
            "policy_sha256": self.policy.sha256,
            "quantization": None if how is None else how.as_json(),
        }


def parsed_way(text: str) -> tuple[str | None, str | None]:
    """(scheme, kv) of ``SCHEME``, ``kv`` for keys and values in INT8, or ``SCHEME+kv`` for both."""
    scheme, found, rest = text.partition("+")
    if found and rest != _KV:
        raise EvaluationError(f"{text!r} is no way of quantizing; write SCHEME, {_KV}, or SCHEME+{_KV}")
    return None if scheme in (_KV, "none") else scheme, "int8" if found or scheme == _KV else None


@dataclass(frozen=True, kw_only=True)
class Questions:
    """All that is asked of a model, in every way alike.

    tokens: of a text, in windows of ``length``, ``stride`` apart, as ``perplexity`` has them; bytes: of that text.
    """

    tokens: np.ndarray | None
    tasks: tuple[Task, ...]
    bytes: int | None = None
    length: int | None = None
    stride: int | None = None


def evaluate(model: LanguageModel, name: str, asked: Questions, *, begin: Begin = silent) -> Evaluation:
    """Errors: as ``perplexity`` and ``evaluate_tasks``."""
    text = None
    if asked.tokens is not None:
        text = perplexity(model, asked.tokens, length=asked.length, stride=asked.stride, begin=begin)
        text = dataclasses.replace(text, bytes=asked.bytes)
    return Evaluation(name=name, text=text, tasks=evaluate_tasks(model, asked.tasks, begin=begin))


def check_same_tokens(model: LanguageModel, text: str, tokens: np.ndarray) -> None:
    """EvaluationError where a model reads a text as other tokens, whose losses are not paired then."""
    own = encoded(model.tokenizer, text, model.vocabulary)
    if not np.array_equal(own, tokens):
        raise EvaluationError(
            "the tokenizers of the two models part the text differently, so that losses of tokens are not paired; "
            "compare models of one tokenizer"
        )
