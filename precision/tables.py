"""Correctly rounded unary functions of formats of at most 16 bits: one table each, a value for every code.

Every argument of such a format is tabulated, so a gather gives the correctly rounded result on every executor,
whatever its libm does.  Entries come from float64, whose error is far below the distance to the nearest rounding
boundary; where it is not, from mpmath with as many digits as the decision takes (Ziv 1991).
"""

from __future__ import annotations

import math
from functools import lru_cache

import mpmath
import numpy as np

from precision.backends.numpy_ import decode, round_to
from precision.formats import Format, parse_format
from precision.real_functions import LOST_BITS, REAL_FUNCTIONS, SAFE, RealFunction

_DIGITS = (200, 400, 800, 1600)  # working precisions in bits; 400 have decided every entry so far
_TINY = 2.0**-1000  # stands for anything smaller: below half of the smallest value of every format


def table(function: str, fmt: str | Format, output: str | Format | None = None) -> np.ndarray:
    """Values of a function for every code of a format, (2^bits,) float32, read-only.

        table[code(x)] = round(f(x)),  to ``output`` (the same format unless given), to nearest even

    Domain: floating-point formats, ``fmt`` of at most 16 bits; ``function`` is a name of ``REAL_FUNCTIONS``.
    Exactness: the real value rounded once; beyond the largest finite value, and where the function has none, as
    ``round_to`` does with overflow="ieee".  Every NaN is 0x7FC00000.
    Errors: ValueError for a wider or an integer format, or an unknown function.
    Source: Ziv, Fast evaluation of elementary mathematical functions with correctly rounded last bit, ACM TOMS 17
    (1991) 410.
    """
    source = parse_format(fmt)
    target = source if output is None else parse_format(output)
    if source.bits > 16 or source.is_integer:
        raise ValueError(f"tables cover floating-point formats of at most 16 bits, not {source.name}")
    if target.bits > 32 or target.is_integer:
        raise ValueError(f"tables hold values of floating-point formats of at most 32 bits, not {target.name}")
    if function not in REAL_FUNCTIONS:
        raise ValueError(f"unknown function {function!r}; known: {', '.join(REAL_FUNCTIONS)}")
    return _table(function, source, target)


@lru_cache(maxsize=128)
def _table(function: str, source: Format, target: Format) -> np.ndarray:
    codes = np.arange(1 << source.bits).astype(source.code_dtype)
    values = _tabulate(REAL_FUNCTIONS[function], decode(codes, source).astype(np.float64), target)
    values.flags.writeable = False
    return values


def _tabulate(function: RealFunction, x: np.ndarray, fmt: Format) -> np.ndarray:
    with np.errstate(all="ignore"):
        y = function.approximate(x)
        for argument, limit in function.at_infinity.items():
            y[x == argument] = limit
        exact = ~np.isfinite(x) | (x == 0) | function.exact(x)
        y = np.where((y == 0) & ~exact, np.copysign(_TINY, y), y)
        low, high = (round_to(y * (1 + sign * SAFE), fmt) for sign in (-1, 1))
        result = round_to(y, fmt)
    least, greatest = function.cancels
    hard = ~exact & (_differ(low, high) | ((least < x) & (x < greatest)))
    result[hard] = _decide(function, x[hard], fmt)
    return result


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.view(np.uint32) != b.view(np.uint32)


def _decide(function: RealFunction, x: np.ndarray, fmt: Format) -> np.ndarray:
    """f(x) rounded, with digits added until both ends of what the value may be round alike."""
    result = np.empty(x.size, np.float32)
    pending = np.arange(x.size)
    for digits in _DIGITS:
        ends = np.array([_enclosure(function, v, digits) for v in x[pending].tolist()]).reshape(-1, 2)
        low, high = round_to(ends[:, 0], fmt), round_to(ends[:, 1], fmt)
        result[pending] = low
        pending = pending[_differ(low, high)]
        if not pending.size:
            return result
    raise ArithmeticError(f"{digits} bits do not decide how to round the function's value at {x[pending[0]]}")


def _enclosure(function: RealFunction, x: float, digits: int) -> tuple[float, float]:
    """Both ends of an interval around f(x), as float64 values that round like them."""
    with mpmath.workprec(digits):
        y = function.precise(mpmath.mpf(x))
        error = mpmath.ldexp(abs(y), LOST_BITS - digits)
        return _round_to_odd(y - error), _round_to_odd(y + error)


def _round_to_odd(y: mpmath.mpf) -> float:
    """53 bits of y, the last of which records whether anything was cut off: narrower roundings are those of y."""
    significand, exponent = y.man_exp
    shift = max(int(significand).bit_length() - 53, 0)
    kept = significand >> shift
    kept |= kept << shift != significand
    return math.copysign(math.ldexp(kept, exponent + shift), y)
