"""GELU tables: every entry is the exact value rounded once, decided with at least 200 bits."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import cache

import mpmath
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from strategies import EDGES, drawn, generator

import precision as pr
from precision.tables import round_once, table

FUNCTIONS = ("gelu", "gelu_gradient")
SIXTEEN = ("fp16", "bf16")
NEGLIGIBLE = oracles.power(-600)  # stands for anything smaller


def exact(function: str, x: float) -> oracles.Real:
    """x Phi(x), or Phi(x) + x phi(x), to 200 bits and to twice the bits that the tail lies below x."""
    if x == 0:
        return oracles.Real(math.copysign(1, x) < 0, Fraction(0)) if function == "gelu" else oracles.real(0.5)
    if x > 30:  # x less x Q(x), 1 plus x phi(x) - Q(x), both below 2^-600: only their sign matters
        return oracles.real(Fraction(x) - NEGLIGIBLE if function == "gelu" else 1 + NEGLIGIBLE)
    if x < -60:  # both negative
        return oracles.Real(True, NEGLIGIBLE)
    with mpmath.workprec(200 + int(x * x) if x > 0 else 200):
        v = mpmath.mpf(x)
        y = v * mpmath.ncdf(v) if function == "gelu" else mpmath.ncdf(v) + v * mpmath.npdf(v)
        sign, mantissa, exponent, _ = y._mpf_
        return oracles.Real(bool(sign), int(mantissa) * oracles.power(int(exponent)))


def limit(function: str, x: float) -> oracles.Real:
    if math.isnan(x):
        return oracles.NAN
    if x < 0:
        return oracles.Real(True, Fraction(0))
    return oracles.Real(False, math.inf) if function == "gelu" else oracles.ONE


def expected(function: str, arguments: np.ndarray, output: str) -> np.ndarray:
    numbers = (exact(function, x) if math.isfinite(x) else limit(function, x) for x in arguments.tolist())
    return oracles.write_all(oracles.rounded(y, output) for y in numbers)


@cache
def arguments(fmt: str) -> np.ndarray:
    return oracles.every_value(fmt).view(np.float32)


def plain(function: str, x: float) -> float:
    """In float64, from erfc and exp of the C library: good enough to see which entries lie close to a boundary."""
    phi, density = math.erfc(-x * math.sqrt(0.5)) / 2, math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return x * phi if function == "gelu" else phi + x * density


@cache
def hard(function: str, fmt: str) -> np.ndarray:
    """Codes whose value lies closest to a point halfway between two neighbours, relative to their distance."""
    layout = oracles.FLOATS[fmt]
    x = arguments(fmt).astype(np.float64)
    x[~(np.abs(x) < 40)] = 0
    y = np.array([plain(function, v) for v in x.tolist()])
    exponent = np.maximum(np.frexp(y)[1] - 1, layout.emin)
    steps = np.ldexp(np.abs(y), layout.fraction_bits - exponent)
    distance = np.where(y == 0, 1, np.abs(steps - np.floor(steps) - 0.5))
    return np.argsort(distance, kind="stable")[:400]


@cache
def sample(function: str, fmt: str) -> np.ndarray:
    """The hard codes, every 41st, the smallest and the largest, those around -0.7518 (where the gradient is 0)
    and around the end of the tail."""
    x = arguments(fmt)
    near = [np.flatnonzero(np.abs(x - centre) < width) for centre, width in ((-0.7518, 0.002), (-5.5, 0.01))]
    ends = [np.arange(20) + start for start in (0, 0x7BF0, 0x7F70, 0x8000, 0xFBF0, 0xFF70)]
    codes = np.concatenate([hard(function, fmt), np.arange(0, 1 << 16, 41), *near, *ends])
    return np.unique(codes)


@pytest.mark.parametrize("fmt", SIXTEEN)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_hard_and_sampled_entries(function: str, fmt: str) -> None:
    codes = sample(function, fmt)
    assert codes.size > 2000
    assert_same_bits(
        table(function, fmt)[codes], expected(function, arguments(fmt)[codes], fmt), arguments(fmt)[codes]
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("fmt", SIXTEEN)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_entry(function: str, fmt: str) -> None:
    assert_same_bits(table(function, fmt), expected(function, arguments(fmt), fmt), arguments(fmt))


@pytest.mark.parametrize(("fmt", "output"), [("fp16", "bf16"), ("bf16", "fp16"), ("bf16", "fp32"), ("fp16", "e5m2")])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_another_output_format(function: str, fmt: str, output: str) -> None:
    tail = np.flatnonzero((arguments(fmt) > 9) & (arguments(fmt) < 40))
    ties = tail[(tail % 8 == 4) | (tail % 256 == 128)]  # x halfway between two values of bf16 or of e5m2
    codes = np.unique(np.concatenate([np.arange(7, 1 << 16, 311), ties[::3], ties[-20:]]))
    assert_same_bits(table(function, fmt, output)[codes], expected(function, arguments(fmt)[codes], output))


@pytest.mark.parametrize("fmt", SIXTEEN)
def test_laws(fmt: str) -> None:
    """gelu(x) <= x for x > 0 and >= -0.17 everywhere; the gradient tends to 0 and 1."""
    x, y, slope = arguments(fmt), table("gelu", fmt), table("gelu_gradient", fmt)
    positive = x > 0
    assert (y[positive] <= x[positive]).all()
    assert np.nanmin(y) >= -0.1702
    assert np.nanmin(slope) >= -0.13
    assert np.nanmax(slope) <= 1.1301
    assert (slope[x > 20] == 1).all()
    assert (slope[x < -20] == 0).all()
    assert np.isnan(y[np.isnan(x)]).all()


def test_tables_are_shared_and_read_only() -> None:
    values = table("gelu", "fp16")
    assert values is table("gelu", "fp16")
    assert (values.shape, values.dtype) == ((1 << 16,), np.float32)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1


@pytest.mark.parametrize("fmt", SIXTEEN)
def test_gather(backend: Executor, fmt: str) -> None:
    """The entry of the code that x rounds to; of each code, its own."""
    values = table("gelu", fmt)
    words = np.concatenate([EDGES, drawn(generator(81), 2000), drawn(generator(82), 2000, (110, 140))])
    x = np.concatenate([words.view(np.float32), arguments(fmt)])
    rounded = oracles.nearest(x, fmt)
    found = backend.apply("lookup", values, x, fmt=pr.FORMATS[fmt])
    by_value = dict(zip(oracles.every_value(fmt).tolist(), values.view(np.uint32).tolist(), strict=True))
    assert_same_bits(found, np.array([by_value[u] for u in rounded.view(np.uint32).tolist()], np.uint32), x)


# The rounding that the tables rest on


def test_float64_is_rounded_once() -> None:
    rng = generator(83)
    random = rng.integers(0, 2**64, 4000, np.uint64).view(np.float64)
    midpoints = np.float64([1 + 2.0**-11, 1 + 2.0**-8, 2.0**-25, 2.0**-134, 65520, 2.0**-150, 1 + 2.0**-24])
    near = [np.nextafter(midpoints, 0), midpoints, np.nextafter(midpoints, np.inf), midpoints + np.ldexp(1, -300)]
    close = rng.integers(0, 2**52, 2000, np.uint64) | (
        rng.integers(1010, 1036, 2000).astype(np.uint64) << np.uint64(52)
    )
    y = np.concatenate([*near, np.negative(np.concatenate(near)), random, close.view(np.float64)])
    y = y[np.isfinite(y)]
    numbers = [oracles.Real(bool(np.signbit(v)), abs(Fraction(v))) for v in y.tolist()]
    for fmt in ("fp16", "bf16", "e5m2", "tf32", "fp32"):
        with np.errstate(over="ignore", under="ignore"):
            found = round_once(y, pr.FORMATS[fmt])
        assert_same_bits(found, oracles.write_all(oracles.rounded(x, fmt) for x in numbers), y)


# Refusals


def refuses(message: str) -> object:
    return pytest.raises(ValueError, match=rf"^{re.escape(message)}\Z")


@pytest.mark.parametrize("fmt", ["fp32", "tf32", "e5m2", "int8"])
def test_formats_that_are_not_16_bits(fmt: str) -> None:
    with refuses(f"tables cover 16-bit floating-point formats, not {fmt}"):
        table("gelu", fmt)


def test_unknown_function() -> None:
    with refuses("unknown function 'sigmoid'; known: gelu, gelu_gradient"):
        table("sigmoid", "fp16")
