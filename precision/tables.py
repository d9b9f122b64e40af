"""Correctly rounded unary functions of 16-bit formats: one table of 65,536 values each.

Every argument of a 16-bit format is tabulated, so a gather gives the correctly rounded result on every executor,
whatever its libm does.  Entries come from float64, whose error is far below the distance to the nearest
rounding boundary; where it is not, from mpmath with enough digits to decide.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import mpmath
import numpy as np
from scipy import special

from precision.backends.numpy_ import decode, round_to
from precision.formats import Format, parse_format

_SAFE = 2.0**-44  # relative error that the float64 evaluations below certainly stay under


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * special.erfc(-x * np.sqrt(0.5))


def _gelu_gradient(x: np.ndarray) -> np.ndarray:
    density = np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    return 0.5 * special.erfc(-x * np.sqrt(0.5)) + x * density


def _exact_gelu(x: mpmath.mpf) -> mpmath.mpf:
    tail = x * mpmath.erfc(abs(x) / mpmath.sqrt(2)) / 2
    # above 23 the tail is below the last bit: rounded down, the value still lies on its side of a tie at x
    return mpmath.fsub(x, tail, rounding="d") if x > 0 else tail


def _exact_gelu_gradient(x: mpmath.mpf) -> mpmath.mpf:
    tail = mpmath.erfc(abs(x) / mpmath.sqrt(2)) / 2
    slope = x * mpmath.npdf(x)
    return mpmath.fadd(1, slope - tail, rounding="u") if x > 0 else tail + slope


_FUNCTIONS: dict[str, tuple[Callable, Callable, dict[float, float]]] = {
    # name: (float64, mpmath, values at -inf and +inf)
    "gelu": (_gelu, _exact_gelu, {-np.inf: -0.0, np.inf: np.inf}),
    "gelu_gradient": (_gelu_gradient, _exact_gelu_gradient, {-np.inf: -0.0, np.inf: 1.0}),
}


@lru_cache(maxsize=32)
def table(function: str, fmt: str, output: str | None = None) -> np.ndarray:
    """Values of ``gelu`` or ``gelu_gradient`` for every code of a 16-bit format, (65536,) float32, read-only.

    gelu(x) = x (1 + erf(x / sqrt 2)) / 2.  Each value is rounded once to ``output`` (the same format unless
    given), to nearest even; NaN gives 0x7FC00000.
    Errors: ValueError for a format that is not 16 bits wide or an unknown function.
    """
    source = parse_format(fmt)
    if source.bits != 16 or source.is_integer:
        raise ValueError(f"tables cover 16-bit floating-point formats, not {source.name}")
    if function not in _FUNCTIONS:
        raise ValueError(f"unknown function {function!r}; known: {', '.join(_FUNCTIONS)}")
    values = _tabulate(function, decode(np.arange(1 << 16, dtype=np.uint16), source), parse_format(output or fmt))
    values.flags.writeable = False
    return values


def _tabulate(function: str, arguments: np.ndarray, fmt: Format) -> np.ndarray:
    approximate, exact, limits = _FUNCTIONS[function]
    finite = np.isfinite(arguments)
    x = np.where(finite, arguments, 0).astype(np.float64)
    with np.errstate(all="ignore"):
        y = approximate(x)
        low, high = (round_once(y * (1 + sign * _SAFE), fmt) for sign in (-1, 1))
    result = round_once(y, fmt)
    # float64 underflows to zero only below -38, where both functions are negative and above -2^-1000
    result[(y == 0) & (x < -38)] = -0.0
    for i in np.flatnonzero(low != high):
        result[i] = _round_exact(exact, float(x[i]), fmt)
    for limit, value in limits.items():
        result[arguments == limit] = value
    result[np.isnan(arguments)] = np.nan
    return result


def _round_exact(function: Callable, x: float, fmt: Format) -> float:
    """The function's value with 400 bits, rounded to the nearest multiple of the format's quantum there."""
    with mpmath.workprec(400):
        y = function(mpmath.mpf(x))
        exponent = max(mpmath.frexp(y)[1] - 1, fmt.min_normal_exponent)
        quantum = exponent - fmt.significand_bits
        magnitude = float(mpmath.ldexp(mpmath.nint(mpmath.ldexp(abs(y), -quantum)), quantum))
        return -magnitude if y < 0 else magnitude


def round_once(y: np.ndarray, fmt: Format) -> np.ndarray:
    """Float64 values rounded once to a format, to nearest even, float32 carrier.

    On the way to float32 they are rounded to odd, so that the last bit records whether anything was lost and the
    second rounding sees every tie for what it is; a format as wide as float32 takes the one rounding directly.
    """
    narrow = y.astype(np.float32)
    if fmt.precision > 22:
        return round_to(narrow, fmt)
    error = y - narrow.astype(np.float64)
    pattern = np.atleast_1d(narrow).view(np.int32)
    even = (pattern & 1) == 0
    # sign and magnitude: + 1 moves away from zero; from a zero, to the smallest subnormal of y's sign
    step = np.where((narrow == 0) | ((error > 0) == (narrow > 0)), 1, -1)
    odd = np.where(even & (error != 0) & np.isfinite(narrow), pattern + step, pattern).astype(np.int32)
    return round_to(odd.view(np.float32), fmt)
