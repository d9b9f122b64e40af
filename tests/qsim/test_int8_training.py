"""INT8 training: gradients of a linear layer by hand, within INT8's error of the exact ones, unbiased, and of use."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from small_runs import small_config, small_run
from strategies import generator

import precision as pr
from precision.quantization.scheme import VECTOR
from precision.random_bits import fold_in
from qsim.layers import add_chunks, linear_backward, linear_forward
from qsim.model import step_keys
from qsim.optimizer import step_scalars
from qsim.policy import POLICIES
from qsim.position import start
from qsim.sites import Calculator
from qsim.step import Step

CHUNKS, ROWS, INPUTS, OUTPUTS = 4, 24, 10, 7
DGRAD_KEY, WGRAD_KEY = np.array([(11, 12), (13, 14)], np.uint32)
DRAWN = dataclasses.replace(VECTOR, rounding="stochastic")
HALF_STEP, WHOLE_STEP = Fraction(1, 2) + Fraction(1, 1 << 15), 1 + Fraction(1, 1 << 15)  # of codes, in scales
FP32_UNIT, BF16_UNIT = Fraction(1, 1 << 24), Fraction(1, 1 << 8)  # largest relative error of a rounding

every_policy = pytest.mark.parametrize("name", ["int8-train", "int8-train-sr"])


def operands() -> list[np.ndarray]:
    """x, w and a dy of widely different rows, values of bf16."""
    rng = generator(91)
    x, w, dy = (rng.normal(size=size) for size in ((ROWS, INPUTS), (INPUTS, OUTPUTS), (ROWS, OUTPUTS)))
    dy *= 10.0 ** rng.uniform(-6, -2, (ROWS, 1))
    return [pr.round_to(v.astype(np.float32), "bf16") for v in (x, w, dy)]


def layer(name: str, executor: str, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    """y, dx, dW under a policy."""
    ar = Calculator(POLICIES[name], executor)
    keys = (DGRAD_KEY, WGRAD_KEY) if name.endswith("-sr") else (None, None)
    x, w, dy = map(ar.backend.asarray, (x, w, dy))
    y = linear_forward(ar, "mlp_up", x, w, None)
    dx, dw = linear_backward(ar, "mlp_up", x, w, dy, CHUNKS, keys)
    return [np.asarray(v) for v in (y, dx, add_chunks(ar, dw))]


def in_chunks(x: np.ndarray) -> np.ndarray:
    return x.reshape(CHUNKS, -1, x.shape[1])


def tree(parts: list[Any]) -> Any:
    """Neighbours added, float32."""
    while len(parts) > 1:
        parts = [parts[i] + parts[i + 1] for i in range(0, len(parts), 2)]
    return parts[0]


# Bits


def by_hand(x: np.ndarray, w: np.ndarray, dy: np.ndarray, stochastic: bool) -> list[np.ndarray]:
    """Three products of codes; elements of dy draw by their place in all of it."""
    scheme = DRAWN if stochastic else VECTOR
    first, second = (fold_in(tuple(key), i) for i, key in enumerate((DGRAD_KEY, WGRAD_KEY)))  # x's child, then w's
    dx = pr.quantized_matmul(pr.quantize(dy, scheme, axis=-1, key=first), w.T, output="bf16")
    parts = []
    for i, (rows, gradient) in enumerate(zip(in_chunks(x), in_chunks(dy), strict=True)):
        codes = pr.quantize(gradient, scheme, axis=-2, key=second, counter=i * gradient.size)
        parts.append(pr.quantized_matmul(np.ascontiguousarray(rows.T), codes, output="bf16"))
    return [pr.quantized_matmul(x, w, output="bf16"), dx, tree(parts)]


@every_policy
def test_products_of_a_linear_layer(backend: Executor, name: str) -> None:
    """Per chunk of the batch in wgrad, then the tree over chunks."""
    expected = by_hand(*operands(), stochastic=name.endswith("-sr"))
    for result, one in zip(layer(name, backend.name, *operands()), expected, strict=True):
        assert_same_bits(result, one)


def test_int8_fprop_has_the_gradients_of_bf16() -> None:
    y, *gradients = layer("int8-fprop", "numpy", *operands())
    plain, *others = layer("bf16", "numpy", *operands())
    assert np.any(y != plain)
    for gradient, other in zip(gradients, others, strict=True):
        assert_same_bits(gradient, other)


# Error


def exact(x: np.ndarray) -> np.ndarray:
    return np.array([[Fraction(float(v)) for v in row] for row in x], object)


def product_and_bound(
    a: np.ndarray, b: np.ndarray, steps: tuple[Fraction, Fraction]
) -> tuple[np.ndarray, np.ndarray]:
    """a b, and how far the quantized product may lie from it.  (m, k) x (k, n), fractions.

    Codes lie within steps of scales: |a - a^| <= e_i by rows, |b - b^| <= f_j by columns, hence

        |sum a b - sum a^ b^| <= f_j sum |a| + e_i sum |b| + k e_i f_j

    and the sum of codes is rounded to float32, scaled by two products, rounded to bf16.
    """
    true = a @ b
    scales = [pr.quantize(v.astype(np.float32), axis=axis).scale for v, axis in ((a, -1), (b, -2))]
    e, f = (exact(scale) * step for scale, step in zip(scales, steps, strict=True))
    bound = f * abs(a).sum(axis=1, keepdims=True) + e * abs(b).sum(axis=0, keepdims=True) + a.shape[1] * e * f
    relative = (1 + FP32_UNIT) ** 3 * (1 + BF16_UNIT) - 1
    return true, bound + relative * (abs(true) + bound)


@every_policy
def test_gradients_lie_within_the_error_of_int8(name: str) -> None:
    """Of those that fractions give."""
    x, w, dy = operands()
    of_dy = WHOLE_STEP if name.endswith("-sr") else HALF_STEP
    y, dx, dw = map(exact, layer(name, "numpy", x, w, dy))
    ex, ew, ed = map(exact, (x, w, dy))
    for result, a, b, steps in ((y, ex, ew, (HALF_STEP, HALF_STEP)), (dx, ed, ew.T, (of_dy, HALF_STEP))):
        true, bound = product_and_bound(a, b, steps)
        assert np.all(abs(result - true) <= bound)
        assert np.any(result != true)
    chunks = [
        product_and_bound(a.T, b, (HALF_STEP, of_dy)) for a, b in zip(in_chunks(ex), in_chunks(ed), strict=True)
    ]
    true, bound = (sum(part) for part in zip(*chunks, strict=True))
    sizes = sum(abs(part) + error for part, error in chunks)
    assert np.all(abs(dw - true) <= bound + ((1 + FP32_UNIT) ** 2 - 1) * sizes)


def test_small_gradients_are_lost_to_nearest_and_kept_on_average_by_draws() -> None:
    """All but one element of each row of dy are a fifth of a step; w is exact in INT8."""
    keys, step = 400, np.float32(2.0**-10)
    dy = np.full((ROWS, OUTPUTS), step / 5, np.float32)
    dy[:, 0] = 127 * step
    w, x = np.eye(OUTPUTS, dtype=np.float32) * 127, np.ones((ROWS, OUTPUTS), np.float32)
    lost = layer("int8-train", "numpy", x, w, dy)[1]
    assert not lost[:, 1:].any()
    ar = Calculator(POLICIES["int8-train-sr"], "numpy")
    drawn = [
        linear_backward(ar, "mlp_up", x, w, dy, CHUNKS, (np.array([i, 0], np.uint32), WGRAD_KEY))[0]
        for i in range(keys)
    ]
    kept = np.mean([d[:, 1:] for d in drawn], dtype=np.float64) / (127 * step)
    deviation = np.sqrt(0.2 * 0.8 / (keys * ROWS * (OUTPUTS - 1)))  # of the mean of so many draws
    assert abs(kept - 0.2) < 5 * deviation


# Training


@pytest.mark.parametrize("name", ["int8-fprop", "int8-train", "int8-train-sr"])
def test_a_model_learns(tmp_path: Path, name: str) -> None:
    """From log 256 on, by more than 1 in 40 steps, as under bf16."""
    run = small_run(tmp_path / name, name, **{"steps": 40, "record.statistics_every": 0})
    losses = [row["loss"] for row in run.rows("metrics.jsonl") if "loss" in row]
    assert abs(losses[0] - np.log(256)) < 0.1
    assert losses[-1] < losses[0] - 1


def test_a_layer_that_draws_alone_draws_as_it_does_among_all() -> None:
    """The gradient of the first layer's qkv holds draws of the last layer's dgrad, and none of its own dgrad."""
    config, drawn = small_config(), {"gradient_rounding": "stochastic"}
    tokens = generator(3).integers(0, config.model.vocabulary, (config.data.batch_size, config.model.length + 1))
    batch, found = (tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)), []
    scalars = step_scalars(config.optimizer, 1, 3, 0, 1.0)
    for rules in ([], [("qkv.dgrad", drawn)], [(f"layer.{config.model.layers - 1}.qkv.dgrad", drawn)]):
        policy = POLICIES["int8-train"].override(rules)
        keys = step_keys(config.model, policy, 0, 1)
        _, results = Step(config, policy, "numpy")(start(config, policy).state, batch, scalars, keys)
        found.append(results["gradients"]["blocks.qkv.weight"][0])
    nearest, among_all, alone = found
    assert_same_bits(alone, among_all)
    assert np.any(alone != nearest)
