"""Unary functions from their definitions: enclosed by mpmath to 250 bits and more, or in extended precision.

Nothing here is shared with ``precision``: other formulas than its own where there are any, other precisions, and a
rounding that must come out alike at both ends of the enclosure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
from format_oracle import rounded
from format_search import searched
from mpmath import mpf
from reals import NAN, ZERO, Real, power, real, write

DIGITS = 300
SAFE = 2.0**-30  # relative error that ``extended`` stays under
# beyond these arguments, what is left of e^(-x^2 / 2), or of e^-x and 2^-x, is below 2^-290: no format sees it
FAR_IF_SQUARED, FAR = 25, 300
NEGLIGIBLE = power(-250)  # stands for anything smaller


# Values at zeros and infinities


def special(function: str, x: float) -> Real | None:
    """The value at a zero, an infinity, a NaN, or where it is rational; None elsewhere."""
    if math.isnan(x):
        return NAN
    sign = math.copysign(1, x) < 0
    if x == 0:
        return at_zero(function, sign)
    if math.isinf(x):
        return at_infinity(function, sign)
    if function == "exp2" and x == math.floor(x):
        return real(power(int(x))) if abs(x) < 2000 else None
    if function == "reciprocal":
        return Real(sign, 1 / abs(Fraction(x)))
    if function in ("log", "rsqrt") and sign:
        return NAN
    if function == "log" and x == 1:
        return ZERO
    return rational_root(1 / Fraction(x)) if function == "rsqrt" else None


def rational_root(x: Fraction) -> Real | None:
    root = Fraction(math.isqrt(x.numerator), math.isqrt(x.denominator))
    return real(root) if root * root == x else None


def at_zero(function: str, negative: bool) -> Real:
    if function in ("cos", "exp", "exp2"):
        return real(1)
    if function in ("gelu_gradient", "sigmoid"):
        return real(Fraction(1, 2))
    if function == "log":
        return Real(True, math.inf)
    return Real(negative, math.inf if function in ("reciprocal", "rsqrt") else Fraction(0))


def at_infinity(function: str, negative: bool) -> Real:
    if function in ("cos", "sin") or (negative and function in ("log", "rsqrt")):
        return NAN
    if function in ("erf", "tanh"):
        return Real(negative, Fraction(1))
    if function in ("reciprocal", "rsqrt"):
        return Real(negative, Fraction(0))
    if function in ("gelu_gradient", "sigmoid") and not negative:
        return real(1)
    if negative:
        return Real(function in ("gelu", "gelu_gradient", "gelu_tanh", "silu"), Fraction(0))
    return Real(False, math.inf)


# To 250 bits and more


def expression(function: str, x: mpf) -> mpf:
    """The value at mpmath's working precision."""
    return {
        "exp": lambda: mpmath.exp(x),
        "exp2": lambda: mpmath.exp(x * mpmath.log(2)),
        "log": lambda: mpmath.log(x),
        "tanh": lambda: mpmath.expm1(2 * x) / (mpmath.expm1(2 * x) + 2),
        "erf": lambda: mpmath.erf(x),
        "gelu": lambda: x * mpmath.ncdf(x),
        "gelu_gradient": lambda: mpmath.ncdf(x) + x * mpmath.npdf(x),
        "gelu_tanh": lambda: x * _tanh_weight(x) / (1 + _tanh_weight(x)),
        "rsqrt": lambda: mpmath.sqrt(1 / x),
        "sigmoid": lambda: mpmath.exp(x) / (1 + mpmath.exp(x)),
        "silu": lambda: x * mpmath.exp(x) / (1 + mpmath.exp(x)),
        "sin": lambda: mpmath.expj(x).imag,
        "cos": lambda: mpmath.expj(x).real,
    }[function]()


def _tanh_weight(x: mpf) -> mpf:
    """e^(2 u), u the argument of the tanh in ``gelu_tanh``: 1 + tanh u = 2 e^(2 u) / (1 + e^(2 u))."""
    return mpmath.exp(mpmath.sqrt(8 / mpmath.pi) * (x + mpf(44715) / 10**6 * x**3))


def tail(function: str, x: float) -> Real | None:
    """Far out, something that rounds as the value does."""
    squared = function in ("erf", "gelu", "gelu_gradient", "gelu_tanh")
    if abs(x) < (FAR_IF_SQUARED if squared else FAR) or function in ("cos", "log", "reciprocal", "rsqrt", "sin"):
        return None
    if function in ("erf", "tanh"):
        return Real(x < 0, 1 - NEGLIGIBLE)
    if x < 0:
        return Real(function in ("gelu", "gelu_gradient", "gelu_tanh", "silu"), NEGLIGIBLE)
    limits = {
        "gelu": Fraction(x) - NEGLIGIBLE,
        "gelu_tanh": Fraction(x) - NEGLIGIBLE,
        "silu": Fraction(x) - NEGLIGIBLE,
        "sigmoid": 1 - NEGLIGIBLE,
        "gelu_gradient": 1 + NEGLIGIBLE,
    }
    return real(limits.get(function, power(2000)))


def enclosure(function: str, x: float) -> tuple[Real, Real]:
    """Two numbers, at most 2^-250 of either apart, with the value between them; the same one where it is known."""
    known = special(function, x) or tail(function, x)
    if known is not None:
        return known, known
    # and the bits by which the value lies closer to x or to its limit
    digits = DIGITS + int(min(x * x, 2 * FAR)) * (4 if function == "gelu_tanh" else 1)  # e^-(0.072 x^3) at most
    with mpmath.workprec(digits + 50):
        y = expression(function, mpmath.mpf(x))
        error = abs(y) * mpf(2) ** -digits
        return as_real(y - error), as_real(y + error)


def as_real(y: mpf) -> Real:
    significand, exponent = y.man_exp
    return Real(bool(y < 0), int(significand) * power(int(exponent)))


def expected(function: str, arguments: np.ndarray, output: str) -> np.ndarray:
    """Float32 patterns of the values rounded once."""
    words = np.empty(len(arguments), np.uint32)
    for i, x in enumerate(arguments.tolist()):
        low, high = (write(rounded(y, output)) for y in enclosure(function, x))
        assert low == high, f"{DIGITS} bits do not decide {function}({x})"
        words[i] = low
    return words


# In extended precision


def _each(function: Callable[[float], float], x: np.ndarray) -> np.ndarray:
    return np.array([function(v) for v in x.tolist()])


def _slope_of_gelu(x: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Phi(x) + x phi(x); far below zero, where both underflow, the second and negative term outweighs the first."""
    return np.where(x < -FAR_IF_SQUARED, -0.0, phi) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def extended(function: str, x: np.ndarray) -> np.ndarray:
    """The C library's functions of long doubles, or of doubles where it has those only; float64 in and out."""
    wide = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        if function in ("exp", "exp2", "log", "tanh", "sin", "cos"):
            return getattr(np, function)(wide).astype(np.float64)
        decay = np.exp(-np.abs(wide))
        sigmoid = np.where(x < 0, decay, 1) / (1 + decay)
        phi = _each(math.erfc, -x * math.sqrt(0.5)) / 2
        return {
            "erf": lambda: _each(math.erf, x),
            "gelu": lambda: x * phi,
            "gelu_gradient": lambda: _slope_of_gelu(wide, phi),
            "gelu_tanh": lambda: x / (1 + np.exp(-np.sqrt(8 / np.pi) * (wide + 0.044715 * wide**3))),
            "reciprocal": lambda: 1 / wide,
            "rsqrt": lambda: 1 / np.sqrt(wide),
            "sigmoid": lambda: sigmoid,
            "silu": lambda: x * sigmoid,
        }[function]().astype(np.float64)


def _ends(function: str, arguments: np.ndarray, output: str, width: float) -> tuple[np.ndarray, ...]:
    """``extended`` rounded, and a share of ``width`` below and above it rounded."""
    x = arguments.astype(np.float64)
    y = extended(function, x)
    y = np.where((y == 0) & (x != 0) & (x != 1), np.copysign(float(NEGLIGIBLE), y), y)  # log 1 is 0, others underflow
    return tuple(searched(y * (1 + share), output) for share in (0, -width, width))


def near_a_boundary(function: str, arguments: np.ndarray, output: str, width: float) -> np.ndarray:
    """Indices of arguments whose result a relative change of the value by ``width`` would change, in no order."""
    _, low, high = _ends(function, arguments, output, width)
    indices = np.flatnonzero(low != high)
    return np.random.Generator(np.random.PCG64(0)).permutation(indices)


def expected_quickly(function: str, arguments: np.ndarray, output: str) -> tuple[np.ndarray, int]:
    """As ``expected``, by mpmath only where ``extended`` is not certain; and how many those were."""
    words, low, high = _ends(function, arguments, output, SAFE)
    certain = np.isfinite(arguments) & (arguments != 0) & (low == high)
    if function == "gelu_gradient":
        certain &= np.abs(arguments + 0.7518) > 0.01  # its zero, where the sum cancels
    doubtful = np.flatnonzero(~certain)
    words[doubtful] = expected(function, arguments[doubtful], output)
    return words, doubtful.size
