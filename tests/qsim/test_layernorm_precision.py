"""Where LayerNorm in FP16 must fail and LayerNorm with float32 inside must not: squares beyond either end of FP16.

Rows alternate between +c and -c, so that their mean is exactly 0 and every number below follows by hand.  c^2 is
infinite from c = 256 on, but the sum of h squares is so from h c^2 = 65520 on, which comes first.  c^2 is zero from
c = 2^-13 down; then only epsilon stands between the row and a division by zero, and an epsilon of 2^-25 or less is
zero in FP16 itself.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from strategies import generator

import precision as pr
from precision.statistics import Statistics
from qsim.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from qsim.hashing import scalar_hash, tree_hash
from qsim.inner_recording import InnerRecording
from qsim.layers import layernorm_forward
from qsim.model import initial_parameters
from qsim.optimizer import step_scalars
from qsim.policies import NORMS
from qsim.policy import POLICIES
from qsim.recorders import Recorder
from qsim.step import training_step
from qsim.training import as_statistics

EPSILON = 1e-5
VANISHING = 1e-8  # zero in FP16: half its smallest value is 2^-25 = 2.98e-8
BACKENDS = ("numpy", "numba")


def normalised(policy: str, backend: str, x: np.ndarray, epsilon: float) -> tuple[np.ndarray, Statistics]:
    """LayerNorm with gain 1 and bias 1/2, and what its roundings did."""
    recorder = Recorder()
    ar = InnerRecording(POLICIES[policy], backend, recorder, ("layernorm_1",))
    gain, bias = np.ones(x.shape[-1], np.float32), np.full(x.shape[-1], 0.5, np.float32)
    y, _ = layernorm_forward(ar, "layernorm_1", x, gain, bias, epsilon)
    counts = as_statistics(recorder.results(ar.backend), recorder.formats)
    return np.asarray(y), counts["layernorm_1.fprop.roundings"]


def alternating(width: int, exponent: int) -> np.ndarray:
    """Two rows of +-2^exponent."""
    signs = np.where(np.arange(2 * width) % 2, -1, 1).reshape(2, width)
    return np.ldexp(signs.astype(np.float32), exponent)


# Float32 inside


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_inside_does_not_see_a_power_of_two(backend: str) -> None:
    """Every operation commutes with 2^k but the addition of epsilon, lost from a variance of 2^8 on: there 1e-5 is
    less than half a unit in the last place, 2^-16.  So the bits are the same up to the largest value of FP16."""
    x = pr.round_to(generator(1).normal(size=(4, 64)).astype(np.float32) * 32, "fp16")
    assert x.var(axis=1).min() > 2**8
    y, _ = normalised("fp16", backend, x, EPSILON)
    for exponent in range(1, 10):
        scaled = np.ldexp(x, exponent)
        assert np.abs(scaled).max() < 65504
        assert_same_bits(normalised("fp16", backend, scaled, EPSILON)[0], y)


@pytest.mark.parametrize("exponent", [-8, -4, -1])
def test_below_it_sees_epsilon_alone(exponent: int) -> None:
    """y shrinks by sqrt(var / (var + epsilon)), and is rounded to FP16 with the bias of 1/2."""
    x = pr.round_to(generator(1).normal(size=(4, 64)).astype(np.float32), "fp16")
    scaled = np.ldexp(x, exponent)
    y, _ = normalised("fp16", "numpy", scaled, EPSILON)
    wide = scaled.astype(np.float64)
    variance = wide.var(axis=1, keepdims=True)
    exact = (wide - wide.mean(axis=1, keepdims=True)) / np.sqrt(variance + EPSILON) + 0.5
    np.testing.assert_allclose(y, exact, rtol=2.0**-11 + 2.0**-20, atol=2.0**-20)


# Squares that overflow


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("width", "exponent", "overflowed"),
    [
        (4, 6, 0),  # 4 x 2^12 = 2^14
        (4, 7, 1),  # 2^14 + 2^14 + 2^14 + 2^14 = 2^16: the last addition
        (64, 4, 0),  # 64 x 2^8 = 2^14
        (64, 5, 1),  # 2^16, again at the root of the tree
        (64, 7, 16),  # at its second level: 2^14 + 2^14 is finite, 2^15 + 2^15 is not
        (64, 8, 64),  # the squares themselves: 2^16
    ],
)
def test_fp16_inside_gives_the_bias_alone_once_squares_or_their_sum_overflow(
    backend: str, width: int, exponent: int, overflowed: int
) -> None:
    """An infinite variance has the inverse deviation 0: the row is lost without a NaN to tell of it."""
    x = alternating(width, exponent)
    y, counts = normalised("fp16-ln16", backend, x, EPSILON)
    assert (counts.overflowed, counts.nan) == (2 * overflowed, 0)
    assert (counts.infinite > 0) == (overflowed > 0)
    expected = np.full_like(x, 0.5) if overflowed else np.sign(x) + np.float32(0.5)
    assert_same_bits(y, expected)
    kept, inside = normalised("fp16", backend, x, EPSILON)
    assert_same_bits(kept, np.sign(x) + np.float32(0.5))
    assert (inside.overflowed, inside.infinite, inside.nan, inside.underflowed) == (0, 0, 0, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fp16_inside_gives_nan_once_the_sum_of_the_values_overflows(backend: str) -> None:
    """4 x 2^14 is infinite, so is the mean, and x - mean times the inverse deviation is infinity times 0."""
    x = np.full((1, 4), 2.0**14, np.float32) + np.array([[16, -16, 16, -16]], np.float32)
    y, counts = normalised("fp16-ln16", backend, x, EPSILON)
    assert np.isnan(y).all()
    assert counts.overflowed == 1
    assert counts.nan == 4 * 4  # the product, gain, bias and output of every value
    kept, inside = normalised("fp16", backend, x, EPSILON)
    assert_same_bits(kept, np.array([[1.5, -0.5, 1.5, -0.5]], np.float32))
    assert (inside.overflowed, inside.nan) == (0, 0)


# Squares that underflow


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("exponent", "underflowed"), [(-12, 0), (-13, 64), (-14, 64), (-20, 64)])
def test_fp16_inside_divides_by_zero_once_squares_and_epsilon_underflow(
    backend: str, exponent: int, underflowed: int
) -> None:
    """2^-24 is the smallest value of FP16, 2^-26 is zero."""
    x = alternating(64, exponent)
    y, counts = normalised("fp16-ln16", backend, x, VANISHING)
    assert (counts.underflowed, counts.nan) == (2 * underflowed, 0)
    expected = np.sign(x) * np.float32(np.inf) if underflowed else np.sign(x) + np.float32(0.5)
    assert_same_bits(y, expected)
    kept, inside = normalised("fp16", backend, x, VANISHING)
    assert np.isfinite(kept).all()
    assert (inside.underflowed, inside.infinite) == (0, 0)


@pytest.mark.parametrize("exponent", [-13, -16, -20])
def test_squares_that_underflow_do_no_harm_beside_an_epsilon_that_does_not(exponent: int) -> None:
    """What is lost is at most 2^-26 beside 1e-5, 0.15 % of the variance: a null result."""
    x = alternating(64, exponent)
    lost, counts = normalised("fp16-ln16", "numpy", x, EPSILON)
    kept, _ = normalised("fp16", "numpy", x, EPSILON)
    assert counts.underflowed == x.size
    np.testing.assert_allclose(lost, kept, rtol=2.0**-9)


# A training step


CONFIG = RunConfig(
    steps=1,
    model=ModelConfig(layers=2, hidden=16, heads=2, length=8, vocabulary=32),
    optimizer=OptimizerConfig(warmup_steps=1),
    data=DataConfig(batch_size=4, reduction_chunks=2),
)


def step_from_scaled_embedding(
    policy: str, backend: str, exponent: int, epsilon: float
) -> tuple[dict[str, Any], dict[str, Statistics]]:
    """Results of one step, the embeddings times 2^exponent, and what the roundings inside LayerNorms did."""
    config = replace(CONFIG, model=replace(CONFIG.model, layernorm_epsilon=epsilon))
    first = initial_parameters(config.model, 0)
    first |= {name: np.ldexp(w, exponent) for name, w in first.items() if name.startswith("embedding.")}
    zeros = {name: np.zeros_like(w) for name, w in first.items()}
    tokens = generator(2).integers(0, 32, (4, 9)).astype(np.int32)
    recorder = Recorder()
    ar = InnerRecording(POLICIES[policy], backend, recorder, NORMS)
    state = {"parameters": first, "first": zeros, "second": dict(zeros)}
    scalars = step_scalars(config.optimizer, 1, 1, 0, 2.0**10)
    _, results = training_step(ar, config, state, (tokens[:, :-1], tokens[:, 1:]), scalars, None)
    return results, as_statistics(recorder.results(ar.backend), recorder.formats)


def inside(counts: dict[str, Statistics], name: str) -> int:
    return sum(getattr(found, name) for key, found in counts.items() if key.endswith("roundings"))


def nonzero(results: dict[str, Any]) -> set[str]:
    return {name for name, g in results["gradients"].items() if np.asarray(g).any()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_residual_stream_stops_every_gradient(backend: str) -> None:
    """All LayerNorms give 0, so the logits are 0, the loss is log V, and only the last bias, behind them, learns."""
    results, counts = step_from_scaled_embedding("fp16-ln16", backend, 14, EPSILON)
    assert float(results["loss"]) == pytest.approx(math.log(32), rel=2.0**-22)
    assert nonzero(results) == {"layernorm_final.bias"}
    assert inside(counts, "overflowed") > 0
    assert (inside(counts, "nan"), bool(results["finite"])) == (0, True)
    results, counts = step_from_scaled_embedding("fp16", backend, 14, EPSILON)
    assert nonzero(results) == set(results["gradients"])
    assert (inside(counts, "overflowed"), inside(counts, "infinite")) == (0, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_small_residual_stream_makes_the_loss_nan(backend: str) -> None:
    results, counts = step_from_scaled_embedding("fp16-ln16", backend, -11, VANISHING)
    assert math.isnan(float(results["loss"]))
    assert not results["finite"]
    assert inside(counts, "infinite") > 0
    results, counts = step_from_scaled_embedding("fp16", backend, -11, VANISHING)
    assert math.isfinite(float(results["loss"]))
    assert inside(counts, "infinite") == 0


@pytest.mark.parametrize("policy", ["fp16", "fp16-ln16"])
@pytest.mark.parametrize(("exponent", "epsilon"), [(14, EPSILON), (-11, VANISHING), (0, EPSILON)])
def test_steps_on_numpy_and_numba_have_the_same_bits(policy: str, exponent: int, epsilon: float) -> None:
    a, b = (step_from_scaled_embedding(policy, backend, exponent, epsilon) for backend in BACKENDS)
    assert scalar_hash(a[0]["loss"]) == scalar_hash(b[0]["loss"])
    assert tree_hash(a[0]["gradients"]) == tree_hash(b[0]["gradients"])
    assert a[1] == b[1]
