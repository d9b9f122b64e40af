"""Arithmetic of float32 operands rounded once to any format, by definition: in fractions, and in float64 for arrays.

An exact sum, product, quotient or root is held in float64 rounded to odd: its 53 bits, the last of them set where
anything was lost.  Rounding that again is rounding the exact number, in every mode, as the formats have at most 24
bits and stochastic rounding looks at 24 more.  What was lost is found by error-free transformations: Dekker's and
Knuth's sum, and rests of quotients and roots formed from halves of 26 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import format_oracle
import numpy as np
import oracles
from format_search import searched
from reals import NAN, Real, power, read_all, write_all

Array = np.ndarray
OPERATIONS = {"add": 2, "sub": 2, "mul": 2, "div": 2, "sqrt": 1, "fma": 3}
ROOT_BITS = 200


# In fractions


def _total(x: Real, y: Real, mode: str) -> Real:
    """x + y; the zero of opposite numbers is -0 when rounding down."""
    result = oracles.total(x, y)
    opposite = result.magnitude == 0 and x.negative != y.negative
    return Real(True, result.magnitude) if opposite and mode == "down" else result


def _root(x: Real) -> Real:
    """The root if it has 200 bits after the point, else what every rounding takes for it, half a unit more."""
    if x.is_nan or x.magnitude == 0:
        return x
    if x.negative or x.is_infinite:
        return NAN if x.negative else x
    scaled = x.magnitude * power(2 * ROOT_BITS)
    root = math.isqrt(math.floor(scaled))
    inexact = root * root != scaled
    return Real(False, (root + Fraction(inexact, 2)) * power(-ROOT_BITS))


DEFINITIONS: dict[str, Callable[..., Real]] = {
    "add": _total,
    "sub": lambda x, y, mode: _total(x, oracles.negated(y), mode),
    "mul": lambda x, y, _: oracles.product(x, y),
    "div": lambda x, y, _: oracles.quotient(x, y),
    "sqrt": lambda x, _: _root(x),
    "fma": lambda x, y, z, mode: _total(oracles.product(x, y), z, mode),
}


def in_fractions(operation: str, operands: tuple[Array, ...], name: str, mode: str, **rules: Any) -> Array:
    """Patterns of results, one number at a time.  ``words``: random bits, as for ``expected``."""
    words = rules.pop("words", None)
    words = [0] * len(operands[0]) if words is None else words.tolist()
    exact = (DEFINITIONS[operation](*numbers, mode) for numbers in zip(*map(read_all, operands), strict=True))
    return write_all(
        format_oracle.rounded(x, name, mode, word=word, **rules) for x, word in zip(exact, words, strict=True)
    )


# In float64


def _wide(words: Array) -> Array:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return words.view(np.float32).astype(np.float64)


def _to_odd(nearest: Array, rest: Array) -> Array:
    """A result rounded to nearest, and the sign of what it lacks, as the result rounded to odd."""
    pattern = nearest.view(np.int64)
    moved = np.isfinite(nearest) & (np.abs(rest) > 0) & (pattern % 2 == 0)
    outward = (rest > 0) == (nearest > 0)
    return (pattern + np.where(moved, np.where(outward, 1, -1), 0)).view(np.float64)


def _sum(x: Array, y: Array, mode: str) -> Array:
    total = x + y
    part = total - x
    rest = (x - (total - part)) + (y - part)
    if mode == "down":
        total = np.where((total == 0) & (np.signbit(x) != np.signbit(y)), -0.0, total)
    return _to_odd(total, rest)


def _halves(x: Array) -> tuple[Array, Array]:
    """Veltkamp's: two numbers of at most 26 bits whose sum it is."""
    high = x * 134217729.0
    high = high - (high - x)
    return high, x - high


def _quotient(x: Array, y: Array) -> Array:
    quotient = x / y
    high, low = _halves(quotient)
    rest = (x - high * y) - low * y
    return _to_odd(quotient, np.where(y < 0, -rest, rest))


def _square_root(x: Array) -> Array:
    root = np.sqrt(x)
    high, low = _halves(root)
    return _to_odd(root, (x - high * high) - 2 * high * low - low * low)


_EXACT: dict[str, Callable[..., Array]] = {
    "add": _sum,
    "sub": lambda x, y, mode: _sum(x, -y, mode),
    "mul": lambda x, y, _: x * y,
    "div": lambda x, y, _: _quotient(x, y),
    "sqrt": lambda x, _: _square_root(x),
    "fma": lambda x, y, z, mode: _sum(x * y, z, mode),
}


def exact(operation: str, operands: tuple[Array, ...], mode: str) -> Array:
    """The exact results of float32 patterns in float64, rounded to odd; ``mode`` decides the sign of x - x."""
    with np.errstate(all="ignore"):
        return _EXACT[operation](*map(_wide, operands), mode)


def expected(operation: str, operands: tuple[Array, ...], name: str, mode: str, **rules: Any) -> Array:
    """Float32 patterns of the results, rounded once to a format.  ``words``: one random uint32 an element."""
    return searched(exact(operation, operands, mode), name, mode, **rules)
