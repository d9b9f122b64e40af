"""The one place where experiments ask how a model computes before and after quantization.

Before: the model in its own 16-bit format.  After: its linear layers as codes (``qsim.post_training``), dequantized
to fp16 as the paper does whatever format the model was trained in, in one scheme to bf16 for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.variant import Training
from qsim.corpus import Corpus
from qsim.decoder import KeyValueCache, ResidentWeights, decoder_forward
from qsim.decoder_config import DecoderConfig, of_model
from qsim.evaluation.language_model import rows_are_independent
from qsim.evaluation.likelihood import greedy_matches, token_losses
from qsim.executors import on_hardware
from qsim.importing import Model
from qsim.importing.refusal import ModelError
from qsim.policy import Arithmetic, parse_policy
from qsim.post_training import PostTraining, QuantizedCalculator, quantize_model
from qsim.sites import Calculator
from qsim.tokenizers import Tokenizer

PRE = "pre"
INT8, INT4 = "int8_vectorwise", "int4_columnwise_weight_only"
TENSORWISE, STATIC, TO_BF16 = "int8_tensorwise", "int8_tensorwise_static", "int8_vectorwise_to_bf16"
LLM_INT8, SMOOTHQUANT, INT8_WEIGHTS, KEY_VALUES = "llm_int8", "smoothquant", "int8_weight_only", "int8_kv"
SCHEMES: dict[str, dict[str, Any]] = {  # fields of PostTraining
    INT8: {},
    INT4: {"scheme": INT4},
    TENSORWISE: {"scheme": TENSORWISE},
    STATIC: {"scheme": TENSORWISE, "static": True},
    LLM_INT8: {"scheme": LLM_INT8},
    SMOOTHQUANT: {"scheme": SMOOTHQUANT},
    INT8_WEIGHTS: {"scheme": INT8_WEIGHTS},
    KEY_VALUES: {"scheme": None, "kv": "int8"},
    TO_BF16: {"dequantize_to": "bf16"},
}
EARLY = (INT8, INT4)  # what checkpoints before the last are measured under
CALIBRATION = 2048  # tokens of the training text
_ROWS = 2048  # of logits at once

Parameters = dict[str, Any]


def evaluated_as(policy: Arithmetic) -> Arithmetic:
    """The 16-bit format that a model trained under a policy is used in: that of its linear layers, else bf16; with
    the library's own products where the training had them."""
    own = policy.site("qkv", "fprop").inputs
    found = parse_policy(own if own in ("fp16", "bf16") else "bf16")
    return found if policy.promises_bits else found.with_(name=f"native-{found.name}", accumulator="native")


def how_of(scheme: str, policy: Arithmetic) -> PostTraining:
    """How a scheme quantizes a model that is used in ``policy``."""
    return PostTraining(working=policy.parameters, **SCHEMES[scheme])  # type: ignore[arg-type]


def model_of(training: Training, parameters: Parameters, corpus: Corpus) -> Model:
    """A trained model, before quantization."""
    return Model(
        architecture="qsim",
        config=of_model(training.config.model),
        weights=ResidentWeights(parameters=parameters),
        source=Path(training.label),
        read_tokenizer=corpus.text_tokenizer,
    )


def quantized(model: Model, scheme: str, policy: Arithmetic, corpus: Corpus) -> Model:
    """ModelError where a weight or an activation is not finite."""
    how = how_of(scheme, policy)
    length = model.config.length
    rows = corpus.train[: max(1, CALIBRATION // length) * length].astype(np.int32).reshape(-1, length)
    return quantize_model(model, how, calibration=rows if how.calibrates else None)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model as it is used: ``qsim.evaluation.LanguageModel``, and losses of sequences."""

    model: Model
    policy: Arithmetic
    executor: str

    @property
    def vocabulary(self) -> int:
        return self.model.config.vocabulary

    @property
    def length(self) -> int:
        return self.model.config.length

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    @property
    def rows_independent(self) -> bool:
        return rows_are_independent(_calculator(self.model.quantization, self.policy, self.executor).policy)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """(B, T) -> (B, T, V) float32."""
        return np.asarray(self._computed("logits", tokens), np.float32).reshape(*tokens.shape, -1)

    def forward(self, tokens: np.ndarray) -> None:
        """One pass over (B, T), waited for, its logits left where they are."""
        found = self._computed("logits", tokens)
        getattr(found, "block_until_ready", lambda: None)()

    def scored(self, tokens: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses and whether the largest logit is the target's, (B, T) each.

        In float64 here, or, where the policy promises no bits, where the logits are, which are many.
        """
        if not self.policy.promises_bits:
            losses, right = self._computed("scores", tokens, targets)
            return np.asarray(losses, np.float64).reshape(targets.shape), np.asarray(right).reshape(targets.shape)
        logits, flat = self.logits(tokens).reshape(targets.size, -1), targets.reshape(-1)
        parts = [slice(i, i + _ROWS) for i in range(0, targets.size, _ROWS)]
        losses = np.concatenate([token_losses(logits[part], flat[part]) for part in parts])
        right = np.concatenate([greedy_matches(logits[part], flat[part]) for part in parts])
        return losses.reshape(targets.shape), right.reshape(targets.shape)

    def _computed(self, what: str, *given: np.ndarray) -> Any:
        compute = _compiled(what, self.model.quantization, self.policy, self.executor, self.model.config)
        return compute(self._held, *given)

    @cached_property
    def _held(self) -> dict[str, Any]:
        """Parameters where they are computed with."""
        backend = _calculator(self.model.quantization, self.policy, self.executor).backend
        return backend.jit(lambda held: held)(_parameters(self.model))


class _Layers:
    """``qsim.decoder.Weights`` of parameters that were handed to a compiled function."""

    def __init__(self, held: dict[str, Any]) -> None:
        self._held = held

    def outer(self) -> Parameters:
        return self._held["outer"]

    def layer(self, number: int) -> Parameters:
        return self._held["layers"][number]


def _parameters(model: Model) -> dict[str, Any]:
    if isinstance(model.weights, ResidentWeights):
        return {"resident": model.weights.parameters}
    layers = [model.layer(number) for number in range(model.config.layers)]
    return {"outer": model.weights.outer(), "layers": layers}


@lru_cache(maxsize=64)
def _calculator(how: PostTraining | None, policy: Arithmetic, executor: str) -> Calculator:
    hardware = on_hardware(policy, executor)
    if how is None:
        return Calculator(policy, executor, hardware=hardware)
    return QuantizedCalculator(how, policy, executor, hardware=hardware)


@lru_cache(maxsize=64)
def _compiled(
    what: str, how: PostTraining | None, policy: Arithmetic, executor: str, config: DecoderConfig
) -> Callable[..., Any]:
    """Logits, or losses and hits, of held parameters and tokens: compiled once for all models of a kind."""
    calculator = _calculator(how, policy, executor)
    xp = calculator.xp

    def logits(held: dict[str, Any], tokens: Any) -> Any:
        weights: Any = ResidentWeights(parameters=held["resident"]) if "resident" in held else _Layers(held)
        cache = None if how is None or how.kv is None else KeyValueCache()
        return decoder_forward(calculator, config, weights, tokens, cache=cache)

    def scores(held: dict[str, Any], tokens: Any, targets: Any) -> Any:
        found = logits(held, tokens).astype(np.float32)  # which hardware arithmetic keeps in 16 bits
        flat = targets.reshape(-1)
        largest = found.max(axis=-1, keepdims=True)
        total = xp.log(xp.exp(found - largest).sum(axis=-1)) + largest[:, 0]
        chosen = xp.take_along_axis(found, flat[:, None], axis=-1)[:, 0]
        return total - chosen, (found.argmax(axis=-1) == flat) & ~xp.isnan(total)

    return calculator.backend.jit(logits if what == "logits" else scores)


__all__ = [
    "EARLY",
    "INT4",
    "INT8",
    "INT8_WEIGHTS",
    "KEY_VALUES",
    "LLM_INT8",
    "PRE",
    "SCHEMES",
    "SMOOTHQUANT",
    "STATIC",
    "TENSORWISE",
    "TO_BF16",
    "Evaluation",
    "ModelError",
    "evaluated_as",
    "how_of",
    "model_of",
    "quantized",
]
