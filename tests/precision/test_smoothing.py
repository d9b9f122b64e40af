"""SmoothQuant's migration: its factors against the definition, what it keeps, and what it is good for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from mpmath import mp, mpf
from refusals import refused
from strategies import EDGES, drawn, generator, sprinkled

import precision as pr

FLOOR = np.float32(1e-5)
EXACT_POWERS = (0.0, 0.5, 1.0)
ALPHAS = (*EXACT_POWERS, 0.1, 0.3, 0.75, 0.999999)


def magnitudes(seed: int, count: int, exponents: tuple[int, int]) -> np.ndarray:
    return np.abs(drawn(generator(seed), count, exponents).view(np.float32))


def definition(x: float, w: float, alpha: float) -> Any:
    """max(x^alpha / max(w, 1e-5)^(1 - alpha), 1e-5) to 100 bits."""
    with mp.workprec(100):
        power = mpf(float(x)) ** mpf(alpha) / mpf(float(max(w, FLOOR))) ** (1 - mpf(alpha))
        return max(power, mpf(float(FLOOR)))


def ulps(found: np.ndarray, x: np.ndarray, w: np.ndarray, alpha: float) -> float:
    """The largest error in units in the last place."""
    triples = zip(found, x, w, strict=True)
    return max(float(abs(definition(a, b, alpha) - float(s)) / float(np.spacing(s))) for s, a, b in triples)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_against_the_definition(alpha: float) -> None:
    x, w = magnitudes(1, 300, (107, 147)), magnitudes(2, 300, (107, 147))
    found = pr.smoothing_scale(x, w, alpha=alpha)
    assert found.dtype == np.float32
    assert ulps(found, x, w, alpha) <= (3 if alpha in EXACT_POWERS else 40)


@pytest.mark.parametrize("alpha", EXACT_POWERS)
def test_powers_without_a_logarithm_at_every_magnitude(alpha: float) -> None:
    x, w = magnitudes(3, 300, (1, 254)), magnitudes(4, 300, (1, 254))
    assert ulps(pr.smoothing_scale(x, w, alpha=alpha), x, w, alpha) <= 3


def test_known_values() -> None:
    x, w = np.float32([4, 9, 1, 0.25]), np.float32([1, 4, 1, 16])
    assert_same_bits(pr.smoothing_scale(x, w), np.float32([2, 1.5, 1, 0.125]))
    assert_same_bits(pr.smoothing_scale(x, w, alpha=1), x)
    assert_same_bits(pr.smoothing_scale(x, w, alpha=0), 1 / w)
    assert_same_bits(pr.smoothing_scale(x, w, scale_format="e8m0"), np.float32([2, 2, 1, 0.125]))


@pytest.mark.parametrize("scale_format", ["fp32", "e8m0"])
def test_ends_of_the_range(scale_format: str) -> None:
    """Channels of zeros and subnormals stay as they are; factors are finite and at least 1e-5."""
    largest = np.finfo(np.float32).max
    x = np.float32([0, 2**-149, 2**-127, 2**-126, 2**-126, largest, largest, 1])
    w = np.float32([1, 0, largest, 0, largest, 0, largest, 2**-149])
    for alpha in (*ALPHAS, 1 - 2**-26, 2**-26):
        s = pr.smoothing_scale(x, w, alpha=alpha, scale_format=scale_format)
        assert_same_bits(s[:3], np.ones(3, np.float32))
        assert np.isfinite(s).all()
        assert (s >= (FLOOR if scale_format == "fp32" else 2.0**-17)).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_factors_on_every_back_end(backend: Executor, alpha: float) -> None:
    words = EDGES[(EDGES & 0x7F800000 != 0x7F800000) & (EDGES >> 31 == 0)].view(np.float32)
    x = np.concatenate([np.repeat(words, len(words)), magnitudes(5, 1500, (0, 254))])
    w = np.concatenate([np.tile(words, len(words)), magnitudes(6, 1500, (0, 254))])
    for scale_format in ("fp32", "e8m0"):
        how = {"alpha": alpha, "scale_format": scale_format}
        found = backend.call(pr.smoothing_scale, x, w, **how)
        assert_same_bits(found, pr.smoothing_scale(x, w, backend="numpy", **how))


def matrices(seed: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """x (2, 12, 32) with channels a hundred times the others, one of zeros; w (32, 7)."""
    rng = generator(seed)
    x, w = rng.normal(size=(2, 12, 32)).astype(np.float32), rng.normal(size=(32, 7)).astype(np.float32)
    x[..., [3, 17]] *= 100
    x[..., 5] = 0
    return x, w


@pytest.mark.parametrize("scale_format", ["fp32", "e8m0"])
def test_both_sides_on_every_back_end(backend: Executor, scale_format: str) -> None:
    x = sprinkled(generator(10), drawn(generator(10), (9, 40)), 0.3).view(np.float32)
    x = np.where(np.isfinite(x), x, np.float32(3))
    w = drawn(generator(11), (40, 6)).view(np.float32)
    w = np.where(np.isfinite(w), w, np.float32(3))
    found = backend.call(pr.smooth, x, w, alpha=0.5, scale_format=scale_format)
    expected = pr.smooth(x, w, alpha=0.5, scale_format=scale_format, backend="numpy")
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one, other)


def test_sides_are_one_rounding_each() -> None:
    x, w = matrices()
    found = pr.smooth(x, w, alpha=0.7)
    assert_same_bits(found.scale, pr.smoothing_scale(np.abs(x).max((0, 1)), np.abs(w).max(1), alpha=0.7))
    assert_same_bits(found.x, x / found.scale)
    assert_same_bits(found.w, w * found.scale[:, None])
    assert found.scale[5] == 1


def test_magnitudes_of_calibration_data() -> None:
    x, w = matrices()
    known = np.abs(matrices(12)[0]).max((0, 1))
    found = pr.smooth(x, w, x_absmax=known)
    assert_same_bits(found.scale, pr.smoothing_scale(known, np.abs(w).max(1)))


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_powers_of_two_lose_nothing(alpha: float) -> None:
    x, w = matrices()
    found = pr.smooth(x, w, alpha=alpha, scale_format="e8m0")
    assert (np.frexp(found.scale)[0] == 0.5).all()
    assert_same_bits(found.x * found.scale, x)
    assert_same_bits(found.w / found.scale[:, None], w)
    plain = pr.smoothing_scale(np.abs(x).max((0, 1)), np.abs(w).max(1), alpha=alpha)
    assert (np.abs(np.log2(found.scale) - np.log2(plain)) <= 0.6).all()  # 1.5, half way, is 2^0.585
    terms, own = (a[..., None].astype(np.float64) * b for a, b in ((x, w), (found.x, found.w)))  # 48 bits: exact
    np.testing.assert_array_equal(own, terms)


def test_the_product_is_kept() -> None:
    """Each term by two roundings: |x' w' - x w| <= (2^-23 + 2^-48) |x w|."""
    x, w = matrices()
    found = pr.smooth(x, w)
    exact = x.astype(np.float64) @ w.astype(np.float64)
    error = np.abs(found.x.astype(np.float64) @ found.w.astype(np.float64) - exact)
    assert (error <= 2.0**-22.9 * (np.abs(x).astype(np.float64) @ np.abs(w))).all()


@pytest.mark.parametrize("scale_format", ["fp32", "e8m0"])
def test_smoothing_helps_where_channels_are_outliers(scale_format: str) -> None:
    x, w = matrices()
    exact = x.astype(np.float64) @ w.astype(np.float64)

    def error(x: np.ndarray, w: np.ndarray) -> float:
        y = pr.quantized_matmul(x, w, scheme="int8_tensorwise", output="fp32")
        return float(np.square(y - exact).sum())

    found = pr.smooth(x, w, scale_format=scale_format)
    assert error(found.x, found.w) < error(x, w) / 4


def test_harder_channels_are_shared() -> None:
    """With alpha 1/2 both sides of a channel get the same absmax, sqrt(|x| |w|).

    Their ratio is |x| / |w| / s^2, with s within 3 units of 2^-23, twice, and two roundings of 2^-24.
    """
    x, w = matrices()
    found = pr.smooth(x, w)
    of_x, of_w = np.abs(found.x).max((0, 1)), np.abs(found.w).max(1)
    used = np.arange(32) != 5
    assert np.allclose(of_x[used], of_w[used], rtol=7 * 2.0**-23, atol=0)


def test_the_published_code() -> None:
    """SmoothQuant in fp16: s = clamp(a^(1/2) / clamp(w, 1e-5)^(1/2), 1e-5), each step rounded to fp16.

    Within 4 roundings to fp16 of this one, but for channels of zeros, which it scales by 1e-5, and overflow.
    """
    half, smallest = np.float16, np.float16(1e-5)
    x, w = matrices()
    of_x, of_w = (magnitude.astype(half) for magnitude in (np.abs(x).max((0, 1)), np.abs(w).max(1)))
    published = np.maximum(np.sqrt(of_x) / np.sqrt(np.maximum(of_w, smallest)), smallest)
    assert published.dtype == half
    ours = pr.smoothing_scale(of_x, of_w)
    used = of_x > 0
    assert (np.abs(published[used] / ours[used].astype(np.float64) - 1) < 4 * 2.0**-11).all()
    assert (published[used] != pr.round_to(ours[used], "fp16")).any()  # other roundings, other bits
    assert (published[~used], ours[~used]) == (smallest, 1)


def test_nan_under_jit_stays_where_it_is() -> None:
    x, w = matrices()
    expected = pr.smooth(x, w)
    x[0, 3, 2] = np.nan
    found = jax.jit(pr.smooth)(x, w)
    assert found.scale[2] == 1
    assert np.argwhere(np.isnan(found.x)).tolist() == [[0, 3, 2]]
    others = np.arange(32) != 2
    assert_same_bits(found.scale[others], expected.scale[others])
    assert np.isfinite(found.w).all()


def test_shapes_without_elements() -> None:
    for m, k, n in ((0, 3, 2), (2, 0, 3), (2, 3, 0)):
        found = pr.smooth(np.ones((m, k), np.float32), np.ones((k, n), np.float32))
        assert (found.x.shape, found.w.shape, found.scale.shape) == ((m, k), (k, n), (k,))


def test_refusals() -> None:
    x, w = matrices()
    of_x, of_w = np.abs(x).max((0, 1)), np.abs(w).max(1)
    for alpha in (-0.1, 1.5, float("nan")):
        with refused(ValueError, f"alpha {alpha}", "0 <= alpha <= 1"):
            pr.smoothing_scale(of_x, of_w, alpha=alpha)
    with refused(ValueError, "scale_format 'fp16'", "fp32 or e8m0"):
        pr.smooth(x, w, scale_format="fp16")
    with refused(ValueError, "(31,)", "(32,)", "one for each of k"):
        pr.smoothing_scale(of_x[1:], of_w)
    with refused(ValueError, "(1, 32)"):
        pr.smoothing_scale(of_x[None], of_w[None])
    with refused(ValueError, "(31,)"):
        pr.smooth(x, w, x_absmax=of_x[1:])
    for shapes in (((32,), (32, 7)), ((2, 31), (32, 7)), ((2, 32), (1, 32, 7))):
        with refused(ValueError, str(shapes[0]), str(shapes[1]), "do not multiply"):
            pr.smooth(np.ones(shapes[0], np.float32), np.ones(shapes[1], np.float32))
    for wrong in (-1.0, np.nan, np.inf):
        bad = of_x.copy()
        bad[4] = wrong
        with refused(ValueError, f"x_absmax[4] is {wrong}", "at least 0 and finite"):
            pr.smoothing_scale(bad, of_w)
        with refused(ValueError, f"w_absmax[4] is {wrong}"):
            pr.smoothing_scale(jnp.asarray(of_w), jnp.asarray(bad))
    x[1, 3, 8] = np.inf
    with refused(ValueError, "x_absmax[8] is inf"):
        pr.smooth(x, w)
