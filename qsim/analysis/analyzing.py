"""``analyze``: one model on some text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from precision.quantization.scheme import MatmulScheme
from precision.quantization.schemes import parse_scheme
from qsim.analysis.listening import Listener
from qsim.analysis.parameters import ObservedWeights, ParameterRows
from qsim.analysis.ranges import LossRow, RangeRow, loss_rows, range_row
from qsim.analysis.results import Analysis
from qsim.config import ConfigError
from qsim.decoder import decoder_forward
from qsim.importing import Model
from qsim.policy import Arithmetic, parse_policy
from qsim.post_training import calculator_for

EXECUTORS = ("numpy", "numba")
THRESHOLDS = (6.0,)
_TOKENS_AT_ONCE = 1024


def analyze(
    model: Model,
    tokens: np.ndarray,
    *,
    policy: str | Arithmetic = "bf16",
    executor: str = "numba",
    scheme: str | MatmulScheme = "int8_vectorwise",
    thresholds: Sequence[float] = THRESHOLDS,
    batch: int | None = None,
    name: str | None = None,
    text: str = "tokens",
    progress: Callable[[int], None] | None = None,
) -> Analysis:
    """Everything ``Analysis`` has of a model that reads tokens (S, T) under a policy.

    scheme: what X^ and W^ are made by; the forward pass itself is that of the policy, of a quantized model with its
    products quantized as they are there, its weights being what codes stand for.  thresholds: of outliers.
    batch: sequences computed at once, by default as many as come to 1,024 tokens; it changes no figure under a policy
    that promises bits.  name, text: what the model and the text are called.  progress: told how many sequences are
    done.
    One layer of a file and one batch's activations are in memory at a time; the first batch's layers are read once,
    for the pass and for what is measured of them.
    Errors: ConfigError for an executor whose values cannot be heard, the float64 policy, thresholds that are no
    positive numbers; TokenError for tokens that the model does not read; ValueError for an unknown scheme or policy.
    """
    arithmetic, how = parse_policy(policy), parse_scheme(scheme)
    _check(arithmetic, executor, thresholds, batch)
    sequences, length = tokens.shape
    size = batch or max(1, _TOKENS_AT_ONCE // length)
    calculator, config = calculator_for(model, arithmetic, executor, hardware=False), model.config
    listener = Listener(
        config.layers,
        max(config.hidden, config.sizes["q"]),
        scheme=how,
        backend=executor,
        thresholds=thresholds,
    )
    calculator.listener = listener
    seen = ObservedWeights(model.weights, how, executor)
    for first in range(0, sequences, size):
        part = tokens[first : first + size]
        listener.begin(part)
        decoder_forward(calculator, config, seen, part)
        listener.end()
        if progress is not None:
            progress(first + len(part))
    return _analysis(
        model, listener, seen.found, how, executor,
        model=name or model.source.name, policy=arithmetic.name, text=text, sequences=sequences, length=length,
    )  # fmt: skip


def _check(policy: Arithmetic, executor: str, thresholds: Sequence[float], batch: int | None) -> None:
    if executor not in EXECUTORS:
        raise ConfigError(f"executor {executor!r} has no values to be heard; choose one of {', '.join(EXECUTORS)}")
    if policy.identity:
        raise ConfigError(f"policy {policy.name} computes in float64, which is not quantized; choose fp32 or bf16")
    wrong = [value for value in thresholds if not 0 < value < math.inf]
    if wrong or not thresholds:
        what = f"threshold {wrong[0]}" if wrong else "no threshold"
        raise ConfigError(f"{what} tells no outliers; give positive numbers, as in 6.0")
    if batch is not None and batch < 1:
        raise ConfigError(f"batch is {batch}; at least one sequence is computed at once")


def _analysis(
    measured: Model, listener: Listener, found: ParameterRows, scheme: MatmulScheme, executor: str, **facts: Any
) -> Analysis:
    """facts: fields of the result that were given."""
    (ranges, losses), how = _of_activations(listener), measured.quantization
    return Analysis(
        source=str(measured.source),
        architecture=measured.architecture,
        quantization=None if how is None else str(how),
        executor=executor,
        scheme=scheme.name,
        layers=measured.config.layers,
        hidden=measured.config.hidden,
        inputs=tuple(listener.input_rows(found.gain_std)),
        weights=tuple(found.weights),
        gains=tuple(found.gains),
        outputs=tuple(listener.output_rows()),
        outliers=tuple(listener.outliers.rows()),
        massive=tuple(one for output in listener.outputs for one in output.massive),
        ranges=(*found.ranges, *ranges),
        losses=(*found.losses, *losses),
        histograms=tuple(found.histograms),
        **facts,
    )


def _of_activations(listener: Listener) -> tuple[list[RangeRow], list[LossRow]]:
    ranges: list[RangeRow] = []
    losses: list[LossRow] = []
    for layer, place, counted in listener.counted():
        ranges.append(range_row("activations", layer, place, counted))
        losses += loss_rows("activations", layer, place, counted)
    return ranges, losses
