"""Figures about arrays against NumPy and SciPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from qsim.analysis import metrics
from qsim.analysis.metrics import Moments, SpectralNorm, spectral_norm

VALUES = st.floats(-1e4, 1e4, width=32)
MATRICES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=VALUES)


def close(found: object, expected: object, relative: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=relative, atol=1e-12)


@given(MATRICES)
def test_moments_are_those_of_numpy_and_scipy(x: np.ndarray) -> None:
    wide = x.astype(np.float64)
    for axis in (None, 0, 1):
        found = Moments.of(x, axis)
        close(found.std, wide.std(axis))
        varies = found.m2 > 1e-6 * np.square(wide).sum(axis)  # scipy calls what varies less constant
        if varies.all():
            close(found.kurtosis, scipy.stats.kurtosis(wide, axis=axis, fisher=False, bias=True), 1e-7)


@given(MATRICES, MATRICES)
def test_moments_of_parts_add(x: np.ndarray, y: np.ndarray) -> None:
    whole, found = Moments.of(np.append(x, y)), Moments.of(x) + Moments.of(y)
    scale = float(max(np.abs(x).max(), np.abs(y).max()))
    assert found.count == whole.count
    for name, power in (("mean", 1), ("m2", 2), ("m3", 3), ("m4", 4)):
        atol = 1e-12 * scale**power * whole.count
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9, atol=atol)


def test_moments_of_channels_add() -> None:
    x = np.random.default_rng(1).standard_normal((70, 5)).astype(np.float32) + 3
    found = Moments.of(x[:20], 0) + Moments.of(x[20:21], 0) + Moments.of(x[21:], 0)
    close(found.kurtosis, Moments.of(x, 0).kurtosis)


def test_kurtosis_is_three_for_a_normal_and_not_in_excess() -> None:
    x = np.random.default_rng(0).standard_normal(400_000)
    assert metrics.kurtosis(x) == pytest.approx(3, abs=0.05)
    assert metrics.kurtosis(np.array([-1.0, 1.0])) == 1.0
    assert metrics.kurtosis(np.eye(1, 1000)[0]) == pytest.approx(1000, rel=0.01)  # one of k: about k


def test_kurtosis_of_what_does_not_vary_is_nan() -> None:
    assert math.isnan(metrics.kurtosis(np.full(7, 0.1, np.float32)))


@given(arrays(np.float32, (3, 4), elements=VALUES), arrays(np.float32, (3, 4), elements=VALUES))
def test_errors_are_their_definitions(x: np.ndarray, again: np.ndarray) -> None:
    wide, other = x.astype(np.float64), again.astype(np.float64)
    noise, signal = np.mean((other - wide) ** 2), np.mean(wide**2)
    close(metrics.rmse(x, again), np.sqrt(noise))
    if noise and signal:
        close(metrics.sqnr_db(x, again), 10 * np.log10(signal / noise), 1e-7)
    close(metrics.mean_token_std(x), np.mean([row.std() for row in wide]))


def test_noise_ratios_without_noise_or_signal() -> None:
    zero, one = np.zeros(3), np.ones(3)
    assert metrics.sqnr_db(one, one) == math.inf
    assert metrics.sqnr_db(zero, one) == -math.inf
    assert math.isnan(metrics.sqnr_db(zero, zero))
    assert math.isnan(metrics.sqnr_db(np.array([math.nan]), np.ones(1)))
    assert math.isnan(metrics.rmse(np.zeros(0), np.zeros(0)))


def test_values_that_are_not_finite_make_figures_so() -> None:
    x = np.array([[1.0, math.inf], [2.0, 3.0]], np.float32)
    assert metrics.infinity_norm(x) == math.inf
    assert math.isnan(metrics.kurtosis(x))
    assert math.isnan(metrics.infinity_norm(np.array([1.0, math.nan])))
    assert math.isnan(spectral_norm(x).value)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 1), (64, 64), (65, 66), (200, 90), (80, 300)])
def test_spectral_norm_is_the_largest_singular_value(shape: tuple[int, int]) -> None:
    w = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    found = spectral_norm(w)
    close(found.value, np.linalg.svd(w.astype(np.float64), compute_uv=False)[0], 1e-12)
    assert found.residual < 1e-10


@given(MATRICES)
def test_spectral_norm_of_small_matrices(w: np.ndarray) -> None:
    found = spectral_norm(w)
    close(found.value, np.linalg.svd(w.astype(np.float64), compute_uv=False)[0])
    assert found.residual < 1e-10


@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-3, 0.9])
def test_spectral_norm_however_close_the_next_value_is(gap: float) -> None:
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.standard_normal((100, 100)))[0] for _ in range(2))
    values = np.append([2.5, 2.5 * (1 - gap)], np.linspace(0, 2.5 * (1 - gap), 98))
    found = spectral_norm(left * values @ right)
    assert found.value == pytest.approx(2.5, rel=1e-9)
    assert found.residual < 1e-9


def test_spectral_norm_of_nothing_and_of_multiples_of_the_identity() -> None:
    assert spectral_norm(np.zeros((90, 70))) == SpectralNorm(value=0.0, residual=0.0)
    assert spectral_norm(3 * np.eye(80)).value == pytest.approx(3, rel=1e-12)


def test_spectral_norm_is_the_same_every_time() -> None:
    w = np.random.default_rng(4).standard_normal((120, 90))
    assert spectral_norm(w) == spectral_norm(w)
