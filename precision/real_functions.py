"""The real functions behind the tables, each twice: quickly in float64, and to any number of digits by mpmath."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import mpmath
import numpy as np
from mpmath import mpf
from scipy import special

SAFE = 2.0**-38  # the float64 evaluations err by less, relative to the result; measured: at most 2^-42 (gelu at -37)
LOST_BITS = 32  # the mpmath evaluations err by less than 2^(LOST_BITS - working precision), relative to the result

_ROOT_HALF = np.sqrt(0.5)
_UNITS = 320
_VANISHING = mpf(2) ** -150


def _nowhere(x: np.ndarray) -> np.ndarray:
    return np.zeros(x.shape, np.bool_)


@dataclass(frozen=True, kw_only=True)
class RealFunction:
    """A real function at arguments that are float32 values."""

    approximate: Callable[[np.ndarray], np.ndarray]  # float64, within ``SAFE``; where it underflows, a zero's sign
    precise: Callable[[mpf], mpf]  # at mpmath's working precision
    exact: Callable[[np.ndarray], np.ndarray] = _nowhere  # nonzero arguments whose result float64 holds exactly
    at_infinity: Mapping[float, float] = field(default_factory=dict)  # limits that the float64 formula does not give
    cancels: tuple[float, float] = (0, 0)  # between these arguments ``approximate`` is not within ``SAFE``


# In float64


def _is_integer(x: np.ndarray) -> np.ndarray:
    return (x == np.floor(x)) & (np.abs(x) <= 1000)  # 2^x is a normal float64


def _is_one(x: np.ndarray) -> np.ndarray:
    return x == 1


def _is_power_of_two(x: np.ndarray) -> np.ndarray:
    return np.abs(np.frexp(x)[0]) == 0.5


def _is_power_of_four(x: np.ndarray) -> np.ndarray:
    significand, exponent = np.frexp(x)
    return (significand == 0.5) & (exponent % 2 == 1)


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * special.erfc(-x * _ROOT_HALF)


def _gelu_gradient(x: np.ndarray) -> np.ndarray:
    slope = x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    y = 0.5 * special.erfc(-x * _ROOT_HALF) + slope
    return np.where(y == 0, np.copysign(y, x), y)  # far out the slope, which is negative, outweighs Phi


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@cache
def _quarter_turn() -> int:
    """pi / 2 in units of 2^-320: off by less than 2^-191 in every multiple that float32 values reach."""
    with mpmath.workprec(2 * _UNITS):
        return int(mpmath.ldexp(mpmath.pi, _UNITS - 1))


def _turns(x: float) -> tuple[int, float]:
    """n mod 4 and r with x = n pi / 2 + r, |r| <= pi / 4, in integers: no float32 value has 0 < |r| < 2^-30."""
    quarter = _quarter_turn()
    numerator, denominator = x.as_integer_ratio()
    scaled = (numerator << _UNITS) // denominator
    n = (2 * scaled + quarter) // (2 * quarter)
    return n % 4, (scaled - n * quarter) / (1 << _UNITS)


def _sine_of(x: np.ndarray, quarters: int) -> np.ndarray:
    """sin(x + quarters pi / 2); the C library sees arguments up to pi / 4 only."""
    reduced = np.isfinite(x) & (np.abs(x) > np.pi / 4)
    n = np.zeros(x.shape, np.int64)
    r = x.copy()
    for i in np.flatnonzero(reduced):
        n[i], r[i] = _turns(float(x[i]))
    n = (n + quarters) % 4
    y = np.where(n % 2, np.cos(r), np.sin(r))
    return np.where(n < 2, y, -y)


# To any number of digits


def _short_of(limit: mpf, tail: mpf) -> mpf:
    """limit - tail, where a tail too small to be seen stands for any smaller one.

    ``limit`` has at most 24 bits, a point halfway between two values of a format at most 25: 2^-150 below ``limit``
    is on the same side of all of them as the true value.
    """
    return limit - max(tail, limit * _VANISHING)


def _odd(positive: Callable[[mpf], mpf]) -> Callable[[mpf], mpf]:
    return lambda x: positive(x) if x > 0 else -positive(-x)


def _upper_tail(x: mpf) -> mpf:
    """1 - Phi(x) for x > 0, or 0 from where it is below 2^-280."""
    return mpmath.erfc(x / mpmath.sqrt(2)) / 2 if x < 20 else mpf(0)


def _precise_gelu(x: mpf) -> mpf:
    return _short_of(x, x * _upper_tail(x)) if x > 0 else x * _upper_tail(-x)


def _precise_gelu_tanh(x: mpf) -> mpf:
    """x (1 + tanh u) / 2 = x / (1 + e^(-2 u)), or x - x / (1 + e^(2 u))."""
    a = abs(x)
    power = mpmath.exp(2 * mpmath.sqrt(2 / mpmath.pi) * (a + mpf(44715) / 1000000 * a**3)) if a < 40 else mpmath.inf
    return _short_of(x, x / (1 + power)) if x > 0 else x / (1 + power)


def _precise_gelu_gradient(x: mpf) -> mpf:
    if x > 20:
        return 1 + _VANISHING
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2 + x * mpmath.npdf(x)


def _precise_sigmoid(x: mpf) -> mpf:
    return _short_of(mpf(1), 1 / (1 + mpmath.exp(x))) if x > 0 else 1 / (1 + mpmath.exp(-x))


def _precise_silu(x: mpf) -> mpf:
    return _short_of(x, x / (1 + mpmath.exp(x))) if x > 0 else x / (1 + mpmath.exp(-x))


def _precise_tanh(x: mpf) -> mpf:
    return mpmath.tanh(x) if x < 1 else _short_of(mpf(1), 2 / (1 + mpmath.exp(2 * x)))


def _precise_erf(x: mpf) -> mpf:
    return mpmath.erf(x) if x < 1 else _short_of(mpf(1), mpmath.erfc(x))


REAL_FUNCTIONS = {
    "cos": RealFunction(approximate=lambda x: _sine_of(x, 1), precise=mpmath.cos),
    "erf": RealFunction(approximate=special.erf, precise=_odd(_precise_erf)),
    "exp": RealFunction(approximate=np.exp, precise=mpmath.exp),
    "exp2": RealFunction(approximate=np.exp2, precise=lambda x: mpf(2) ** x, exact=_is_integer),
    "gelu": RealFunction(approximate=_gelu, precise=_precise_gelu, at_infinity={-np.inf: -0.0}),
    "gelu_gradient": RealFunction(
        approximate=_gelu_gradient,
        precise=_precise_gelu_gradient,
        at_infinity={-np.inf: -0.0, np.inf: 1.0},
        cancels=(-0.76, -0.744),  # around its zero at -0.7518; outside, it is above 2^-9
    ),
    "gelu_tanh": RealFunction(approximate=_gelu_tanh, precise=_precise_gelu_tanh, at_infinity={-np.inf: -0.0}),
    "log": RealFunction(approximate=np.log, precise=mpmath.log, exact=_is_one),
    "reciprocal": RealFunction(approximate=np.reciprocal, precise=lambda x: 1 / x, exact=_is_power_of_two),
    "rsqrt": RealFunction(
        approximate=lambda x: 1 / np.sqrt(x), precise=lambda x: 1 / mpmath.sqrt(x), exact=_is_power_of_four
    ),
    "sigmoid": RealFunction(approximate=_sigmoid, precise=_precise_sigmoid),
    "silu": RealFunction(approximate=_silu, precise=_precise_silu, at_infinity={-np.inf: -0.0}),
    "sin": RealFunction(approximate=lambda x: _sine_of(x, 0), precise=mpmath.sin),
    "tanh": RealFunction(approximate=np.tanh, precise=_odd(_precise_tanh)),
}
