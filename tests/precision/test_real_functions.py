"""The evaluations behind the tables keep the errors that they state."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import mpmath
import numpy as np
import oracles
import pytest
from function_oracle import as_real, enclosure
from strategies import drawn, generator

from precision.real_functions import LOST_BITS, REAL_FUNCTIONS, SAFE

FUNCTIONS = tuple(REAL_FUNCTIONS)


@cache
def arguments(exponents: tuple[int, int]) -> np.ndarray:
    """Float32 values, float64."""
    return drawn(generator(95), 400, exponents).view(np.float32).astype(np.float64)


def true_values(function: str, x: np.ndarray) -> list[Fraction | None]:
    """To 250 bits; None where there is no number, or one that stands for anything smaller or larger."""
    found = []
    for low, high in (enclosure(function, v) for v in x.tolist()):
        known = not low.is_nan and not low.is_infinite and Fraction(1, 1 << 240) < low.magnitude < 1 << 240
        found.append((low.value + high.value) / 2 if known else None)
    return found


def relative_error(y: Fraction, truth: Fraction) -> Fraction:
    return abs(y - truth) / abs(truth)


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_float64_is_within_the_stated_error(function: str) -> None:
    least, greatest = REAL_FUNCTIONS[function].cancels
    x = np.concatenate([arguments((100, 134)), arguments((1, 254)), np.linspace(-37, 37, 371)])
    x = x[(x <= least) | (x >= greatest)].astype(np.float32).astype(np.float64)
    with np.errstate(all="ignore"):
        y = REAL_FUNCTIONS[function].approximate(x)
    pairs = [(Fraction(v), truth) for v, truth in zip(y, true_values(function, x), strict=True) if truth]
    assert len(pairs) > 300
    assert max(relative_error(v, truth) for v, truth in pairs) < SAFE


@pytest.mark.parametrize("function", FUNCTIONS)
def test_mpmath_is_within_the_stated_error(function: str) -> None:
    x = arguments((100, 129))
    x = x[(x > 0) | (function not in ("log", "rsqrt"))]
    for v, truth in zip(x.tolist(), true_values(function, x), strict=True):
        with mpmath.workprec(200):
            y = as_real(REAL_FUNCTIONS[function].precise(mpmath.mpf(v))).value
        assert truth is None or relative_error(y, truth) < oracles.power(LOST_BITS - 200), v


@pytest.mark.parametrize("function", FUNCTIONS)
def test_exact_results_are_exact(function: str) -> None:
    """Where ``exact`` says so, float64 has the value."""
    x = np.concatenate([arguments((115, 132)), np.ldexp(1.0, np.arange(-149, 128)), np.arange(-40.0, 40)])
    x = x[x != 0]
    with np.errstate(all="ignore"):
        y, exact = REAL_FUNCTIONS[function].approximate(x), REAL_FUNCTIONS[function].exact(x)
    for v, found, claimed in zip(x.tolist(), y.tolist(), exact.tolist(), strict=True):
        low, high = enclosure(function, v)
        if claimed:
            assert low == high == oracles.real(found), v
