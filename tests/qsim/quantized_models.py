"""Tiny models, and their logits quantized and not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import small_checkpoints
from small_checkpoints import CHECKPOINTS

from qsim.decoder import decoder_forward
from qsim.importing import Model, open_model
from qsim.policy import Arithmetic
from qsim.post_training import PostTraining, calculator_for, quantize_model
from qsim.sites import Calculator

TOKENS = small_checkpoints.tokens()
KINDS = ("gpt2", "opt", "bloom", "gpt_neox", "llama")


def small_model(folder: Path, kind: str = "gpt2") -> Model:
    return open_model(small_checkpoints.write(folder / kind.replace(", ", "_"), CHECKPOINTS[kind]()))


def quantized(model: Model, scheme: str | None = "int8_vectorwise", **fields: Any) -> Model:
    """In bf16 throughout unless said otherwise, calibrated on the tokens where that is needed."""
    how = PostTraining(scheme=scheme, **({"dequantize_to": "bf16"} | fields))
    return quantize_model(model, how, calibration=TOKENS if how.calibrates else None)


def logits(
    model: Model, policy: str | Arithmetic = "bf16", executor: str = "numpy", tokens: np.ndarray = TOKENS
) -> np.ndarray:
    calculator = calculator_for(model, policy, executor)
    return np.asarray(decoder_forward(calculator, model.config, model.weights, tokens))


def logits_of(calculator: Calculator, model: Model, tokens: np.ndarray = TOKENS) -> np.ndarray:
    return np.asarray(decoder_forward(calculator, model.config, model.weights, tokens))
