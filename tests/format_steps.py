"""Rounding of consecutive float32 patterns: a step function, its steps found in exact rational numbers.

In every deterministic mode a larger magnitude never rounds to a smaller one, so the patterns that become one value
are a range, and 2^32 expected results cost no more than writing them.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from format_oracle import Standard, goes_away, rounded, standard
from reals import NAN, Real, read, write

FLOAT32 = standard("fp32")
INFINITY = 0x7F800000


def first_at(bound: Fraction, *, beyond: bool) -> int:
    """The smallest positive float32 pattern whose value is at least the bound, or ``beyond`` it."""
    pattern = FLOAT32.below(bound)
    return min(pattern + (beyond or FLOAT32.magnitude(pattern) != bound), INFINITY)


def _first_away(fmt: Standard, code: int, mode: str, negative: bool) -> int:
    """The smallest positive pattern that rounds to magnitude code + 1 or above."""
    low, high = fmt.magnitude(code), fmt.magnitude(code + 1)
    if goes_away(mode, code, Fraction(1, 4), negative):
        return first_at(low, beyond=True)
    if not goes_away(mode, code, Fraction(3, 4), negative):
        return first_at(high, beyond=False)
    return first_at((low + high) / 2, beyond=not goes_away(mode, code, Fraction(1, 2), negative))


@cache
def steps(name: str, mode: str, overflow: str, subnormals: str, negative: bool) -> tuple[np.ndarray, np.ndarray]:
    """First magnitude patterns of the ranges, ascending from 0, and the float32 pattern each range becomes."""
    fmt = standard(name)
    rules = {"overflow": overflow, "subnormals": subnormals}
    last = fmt.limit(negative)
    firsts = [_first_away(fmt, code, mode, negative) for code in range(last + 1)]
    results = [write(rounded(Real(negative, fmt.magnitude(c)), name, mode, **rules)) for c in range(last + 2)]
    firsts, results = [0, *firsts], list(results)
    if not fmt.zero:  # what is neither zero nor negative has code 0 at least
        firsts, results = [0, 1, *firsts[1:]], [write(NAN), *results]
    tail = [write(rounded(read(INFINITY | negative << 31), name, mode, **rules)), write(rounded(NAN, name))]
    return np.array([*firsts, INFINITY, INFINITY + 1], np.int64), np.array([*results, *tail], np.uint32)


def _lengths(firsts: np.ndarray, start: int, stop: int) -> np.ndarray:
    """How many of the patterns start ... stop - 1, which are of one sign, lie in each range."""
    start, stop = start & 0x7FFFFFFF, (stop - 1 & 0x7FFFFFFF) + 1
    ends = np.append(firsts[1:], 1 << 31)
    return np.clip(ends, start, stop) - np.clip(firsts, start, stop)


def expected(
    start: int, stop: int, name: str, mode: str, overflow: str = "ieee", subnormals: str = "keep"
) -> np.ndarray:
    """Results of patterns start, start + 1 ... stop - 1, which are of one sign."""
    firsts, results = steps(name, mode, overflow, subnormals, start >= 1 << 31)
    return np.repeat(results, _lengths(firsts, start, stop))


def expected_of(words: np.ndarray, name: str, mode: str, **rules: str) -> np.ndarray:
    """Results of any patterns."""
    rules = {"overflow": "ieee", "subnormals": "keep", **rules}
    magnitudes = (words & np.uint32(0x7FFFFFFF)).astype(np.int64)
    result = np.empty(words.shape, np.uint32)
    for negative in (False, True):
        firsts, results = steps(name, mode, *rules.values(), negative)
        chosen = (words >> np.uint32(31)) == negative
        result[chosen] = results[np.searchsorted(firsts, magnitudes[chosen], side="right") - 1]
    return result


# By chance


class Chances(NamedTuple):
    """Ranges of patterns between two neighbours of a format: their first pattern, the lower neighbour, the reciprocal
    of the distance, and the float32 patterns that its values become."""

    firsts: np.ndarray
    low: np.ndarray
    scale: np.ndarray
    below: np.ndarray
    above: np.ndarray


@cache
def chances(name: str, negative: bool) -> Chances:
    fmt = standard(name)
    codes = range(fmt.limit(negative) + 2)
    values = [fmt.magnitude(code) for code in codes]
    results = [write(rounded(Real(negative, value), name, "stochastic")) for value in values]
    ends = [write(rounded(x, name, "stochastic")) for x in (read(INFINITY | negative << 31), NAN)]
    firsts = [first_at(value, beyond=False) for value in values]
    scale = [float(1 / (high - low)) for low, high in pairwise(values)]
    return Chances(
        np.array([*firsts, INFINITY, INFINITY + 1], np.int64),
        np.array([*values[:-1], 0, 0, 0], np.float64),
        np.array([*scale, 0, 0, 0]),
        np.array([*results, *ends], np.uint32),
        np.array([*results[1:], results[-1], *ends], np.uint32),
    )


def expected_by_chance(start: int, stop: int, name: str, words: np.ndarray, random_bits: int = 24) -> np.ndarray:
    """Stochastic results of patterns start ... stop - 1, which are of one sign, given a random word for each."""
    table = chances(name, start >= 1 << 31)
    lengths = _lengths(table.firsts, start, stop)
    low, scale, below, above = (np.repeat(column, lengths) for column in table[1:])
    magnitude = np.arange(start & 0x7FFFFFFF, (start & 0x7FFFFFFF) + len(words), dtype=np.uint32)
    x = np.where(scale > 0, magnitude, 0).astype(np.uint32).view(np.float32)
    part = np.rint((x - low) * (scale * 2.0**random_bits)).astype(np.int64)
    away = part + (words >> np.uint32(32 - random_bits)) >= 1 << random_bits
    return np.where(away, above, below)
