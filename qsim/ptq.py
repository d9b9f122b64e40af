"""Post-training quantization of a trained model: vector-wise INT8 of weights and activations, and its error."""

from __future__ import annotations

from typing import Any

import numpy as np

import precision as pr
from qsim.analysis.metrics import rmse, sqnr_db
from qsim.config import RunConfig
from qsim.data import Corpus, validation_batches
from qsim.model import LINEAR, forward
from qsim.policy import Arithmetic
from qsim.sites import Calculator
from qsim.training import held_out_loss

SCHEME = "int8_vectorwise"


def quantization_error(
    config: RunConfig, policy: Arithmetic, executor: str, parameters: dict[str, np.ndarray], corpus: Corpus
) -> dict[str, Any]:
    """What INT8 does to each linear layer of each block, and to the held-out loss.

    The model as it is under ``policy`` is "before"; "after" has the operands of every linear layer of every block
    in INT8.  Errors of the operands are x - dequantize(quantize(x)); of the output, against the float64 product of
    the unquantized operands.
    """
    calculator = Calculator(policy, executor)
    working = {name: np.asarray(w) for name, w in calculator.working_copy(parameters).items()}
    tokens, _ = validation_batches(corpus, batch_size=config.data.batch_size, length=config.model.length, limit=1)[0]
    _, caches = forward(calculator, config.model, working, tokens)
    layers = [
        {"layer": i, "site": site}
        | layer_error(np.asarray(caches["blocks"][site][i]), working[f"blocks.{site}.weight"][i])
        for i in range(config.model.layers)
        for site in LINEAR
    ]
    losses = {
        when: held_out_loss(config, chosen, executor, parameters, corpus)
        for when, chosen in (("before", policy), ("after", policy.quantized()))
    }
    return {
        "scheme": SCHEME,
        "policy": policy.name,
        "layers": layers,
        "validation_loss": losses,
        "tokens": int(tokens.size),
    }


def layer_error(x: np.ndarray, w: np.ndarray) -> dict[str, float]:
    """RMSE and SQNR (dB) of the input (N, k), the weight (k, n) and the output of one INT8 linear layer."""
    # a run that diverged has NaN for weights: its figures are NaN, and its report is written all the same
    qx, qw = (pr.quantize(v, SCHEME, axis=axis, nonfinite="propagate") for v, axis in ((x, -1), (w, -2)))
    exact = x.astype(np.float64) @ w.astype(np.float64)
    pairs = {
        "input": (x, qx.dequantize()),
        "weight": (w, qw.dequantize()),
        "output": (exact, pr.quantized_matmul(qx, qw, output=pr.FP32)),
    }
    figures: dict[str, float] = {}
    for name, (true, rounded) in pairs.items():
        figures[f"{name}_rmse"], figures[f"{name}_sqnr_db"] = rmse(true, rounded), sqnr_db(true, rounded)
    return figures
