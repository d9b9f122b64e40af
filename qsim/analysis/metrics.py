"""Figures about arrays, in float64: error of a reconstruction, spread by token, moments, spectral norm.

Kurtosis is m4 / m2^2 with m_r the mean of (x - mean)^r: the fourth standardized moment, biased, not in excess; 3 for
a normal distribution, about k for k values of which all but one are alike.  NaN where nothing varies.
A value that is not finite makes every figure that it enters NaN, an infinite one an infinity norm infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

_DENSE = 64  # least dimension up to which all singular values are computed
_TOLERANCE = 1e-12


def rmse(x: Any, reconstructed: Any) -> float:
    """sqrt(mean((x^ - x)^2)) of two arrays of one shape; NaN for empty ones."""
    return root_mean(noise_power(x, reconstructed), np.size(x))


def sqnr_db(x: Any, reconstructed: Any) -> float:
    """10 log10(sum x^2 / sum (x^ - x)^2): infinite without error, NaN where both sums are zero."""
    return decibels(power(x), noise_power(x, reconstructed))


def power(x: Any) -> float:
    """sum x^2; each square of a float32 value is exact."""
    with np.errstate(all="ignore"):
        return float(np.square(np.asarray(x, np.float64)).sum())


def noise_power(x: Any, reconstructed: Any) -> float:
    """sum (x^ - x)^2."""
    with np.errstate(all="ignore"):
        return power(np.subtract(reconstructed, x, dtype=np.float64))


def root_mean(total: float, count: int) -> float:
    """sqrt(total / count); NaN for no values."""
    return math.sqrt(total / count) if count else math.nan


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise): infinite without noise, NaN where both are zero or one is not finite."""
    if not (math.isfinite(signal) and math.isfinite(noise)) or signal == noise == 0:
        return math.nan
    if noise == 0 or signal == 0:
        return math.inf if signal else -math.inf
    return 10 * (math.log10(signal) - math.log10(noise))


def infinity_norm(x: Any) -> float:
    """max |x|; NaN where there is one, 0 for no values."""
    x = np.asarray(x)
    return float(np.abs(x).max()) if x.size else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Count, mean and sums of (x - mean)^2, ^3, ^4, over all values or along an axis; two of them add.

    Added in the order given, by Pebay's formulas (Sandia report SAND2008-6212, equations 2.1, 3.1): what is observed
    in parts has the moments of the whole, but for the last bits.
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray
    m3: np.ndarray
    m4: np.ndarray

    @classmethod
    def of(cls, x: Any, axis: int | None = None) -> Moments:
        """Of at least one value: two passes, the mean first."""
        x = np.asarray(x, np.float64)
        with np.errstate(all="ignore"):
            mean = x.mean(axis=axis, keepdims=True)
            d = x - mean
            square = d * d
            sums = [square.sum(axis=axis), np.multiply(square, d, out=d).sum(axis=axis)]
            sums.append(np.multiply(square, square, out=square).sum(axis=axis))
        count = x.size if axis is None else x.shape[axis]
        return cls(count=count, mean=mean.reshape(np.shape(sums[0])), m2=sums[0], m3=sums[1], m4=sums[2])

    def __add__(self, other: Moments) -> Moments:
        a, b = float(self.count), float(other.count)
        n = a + b
        with np.errstate(all="ignore"):
            d = other.mean - self.mean
            step = d / n
            m2 = self.m2 + other.m2 + d * step * a * b
            m3 = self.m3 + other.m3 + d * step**2 * a * b * (a - b) + 3 * step * (a * other.m2 - b * self.m2)
            m4 = self.m4 + other.m4 + d * step**3 * a * b * (a * a - a * b + b * b)
            m4 = m4 + 6 * step**2 * (a * a * other.m2 + b * b * self.m2) + 4 * step * (a * other.m3 - b * self.m3)
            mean = self.mean + b * step
        return Moments(count=self.count + other.count, mean=mean, m2=m2, m3=m3, m4=m4)

    @property
    def std(self) -> np.ndarray:
        """sqrt(m2 / count), of the population."""
        return np.sqrt(self.m2 / self.count)

    @property
    def kurtosis(self) -> np.ndarray:
        """count m4 / m2^2."""
        with np.errstate(all="ignore"):
            return np.where(self.m2 > 0, self.count * self.m4 / np.square(self.m2), np.nan)


def kurtosis(x: Any, axis: int | None = None) -> Any:
    """m4 / m2^2 over all values, or along an axis."""
    found = Moments.of(x, axis).kurtosis
    return float(found) if axis is None else found


def mean_token_std(x: Any) -> float:
    """Mean over rows of the standard deviation (of the population) within each.  (N, k)"""
    return float(Moments.of(x, -1).std.mean())


@dataclass(frozen=True, kw_only=True)
class SpectralNorm:
    """The largest singular value s of a matrix, and how well its vectors are that:

    residual = |W^T u - s v| / s with v of length 1, s = |W v|, u = W v / s; 0 for a matrix of zeros.  Some singular
    value lies within s (1 +- residual).
    """

    value: float
    residual: float


def spectral_norm(w: Any) -> SpectralNorm:
    """Of a matrix (h, o) in float64.

    By Lanczos iteration (ARPACK) on the Gram matrix of its shorter side, from a fixed random start, to a relative
    tolerance of 1e-12; up to 64 of that side, and where the iteration does not converge, by a full decomposition.
    NaN for a matrix that is not finite.
    """
    w = np.asarray(w, np.float64)
    if not np.isfinite(w).all():
        return SpectralNorm(value=math.nan, residual=math.nan)
    if not w.any():
        return SpectralNorm(value=0.0, residual=0.0)
    tall = w if w.shape[0] >= w.shape[1] else w.T
    right = _leading_vector(tall)
    image = tall @ right
    value = float(np.linalg.norm(image))
    wrong = float(np.linalg.norm(tall.T @ (image / value) - value * right))
    return SpectralNorm(value=value, residual=wrong / value)


def _leading_vector(tall: np.ndarray) -> np.ndarray:
    """The right singular vector of the largest singular value of (m, n), m >= n."""
    from scipy.sparse.linalg import ArpackError, eigsh

    if tall.shape[1] > _DENSE:
        gram = tall.T @ tall
        start = np.random.default_rng(0).standard_normal(len(gram))
        try:
            return eigsh(gram, k=1, v0=start, tol=_TOLERANCE)[1][:, 0]
        except ArpackError:
            pass
    return np.linalg.svd(tall, full_matrices=False)[2][0]
