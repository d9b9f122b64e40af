"""The one place where experiments ask how a model computes after quantization.

Before: the model in its own 16-bit format.  After: the linear layers of every block under a scheme, in place of their
products (schemes of integers) or as weights rounded once (schemes of weights alone).
"""

from __future__ import annotations

from typing import Any

import numpy as np

import precision as pr
from qsim.config import ModelConfig
from qsim.decoder import ResidentWeights, decoder_forward
from qsim.decoder_config import of_model
from qsim.policy import QUANTIZED_SITES, Arithmetic, parse_policy
from qsim.sites import Calculator

PRE = "pre"
INT8 = "int8_vectorwise"
SCHEMES = (INT8, "int8_tensorwise", "llm_int8", "int8_weight_only", "int4_columnwise_weight_only")
EARLY = (INT8, "int4_columnwise_weight_only")  # what checkpoints before the last are measured under
Tree = dict[str, Any]


def evaluated_as(policy: Arithmetic) -> Arithmetic:
    """The 16-bit format that a model trained under a policy is used in: that of its linear layers, else bf16."""
    own = policy.site("qkv", "fprop").inputs
    return parse_policy(own if own in ("fp16", "bf16") else "bf16")


class Evaluation:
    """A model before quantization or under a scheme: logits of tokens."""

    def __init__(self, config: ModelConfig, parameters: Tree, policy: Arithmetic, executor: str, scheme: str) -> None:
        self.config = of_model(config)
        weight_only = scheme != PRE and not pr.SCHEMES[scheme].integer
        self.weights = ResidentWeights(parameters=_rounded(parameters, scheme) if weight_only else parameters)
        self.policy = policy if weight_only or scheme == PRE else policy.quantized(scheme)
        self.executor = executor

    def logits(self, tokens: np.ndarray, listener: Any = None) -> np.ndarray:
        """(B, T, V) of tokens (B, T); the listener is told what enters linear layers."""
        calculator = Calculator(self.policy, self.executor)
        calculator.listener = listener
        found = decoder_forward(calculator, self.config, self.weights, tokens)
        return np.asarray(found, np.float32).reshape(*tokens.shape, -1)


def _rounded(parameters: Tree, scheme: str) -> Tree:
    """Weights of the blocks' linear layers, quantized and back."""
    names = {f"blocks.{site}.weight" for site in QUANTIZED_SITES}
    return {k: np.stack([_round_trip(w, scheme) for w in v]) if k in names else v for k, v in parameters.items()}


def _round_trip(w: np.ndarray, scheme: str) -> np.ndarray:
    return pr.quantize(np.asarray(w), scheme, axis=-2, nonfinite="propagate").dequantize()
