"""Tables of unary functions: every entry is the real value rounded once."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from function_oracle import expected, expected_quickly, near_a_boundary
from strategies import EDGES, drawn, generator

import precision as pr
from precision.real_functions import REAL_FUNCTIONS, RealFunction
from precision.tables import _decide, table

FUNCTIONS = tuple(REAL_FUNCTIONS)
SIXTEEN = ("fp16", "bf16")
EIGHT = ("e5m2", "e4m3fn")
NARROW = tuple(name for name, fmt in oracles.FLOATS.items() if fmt.bits <= 8)


@cache
def arguments(fmt: str) -> np.ndarray:
    return oracles.every_value(fmt).view(np.float32)


def test_the_functions_by_name() -> None:
    names = "cos erf exp exp2 gelu gelu_gradient gelu_tanh log reciprocal rsqrt sigmoid silu sin tanh"
    assert sorted(FUNCTIONS) == names.split()


# Every entry


@pytest.mark.parametrize("fmt", SIXTEEN)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_entry(function: str, fmt: str) -> None:
    """All 65,536; those that extended precision leaves open, NaN and infinity among them, to 250 bits."""
    words, doubtful = expected_quickly(function, arguments(fmt), fmt)
    assert doubtful < 3000
    assert_same_bits(table(function, fmt), words, arguments(fmt))


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("fmt", SIXTEEN)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_hard_and_sampled_entries_to_250_bits(function: str, fmt: str) -> None:
    """The entries close to a boundary between two results, every 211th, the smallest and the largest arguments."""
    x = arguments(fmt)
    ends = [np.arange(12) + start for start in (0, 0x7BF4, 0x7F74, 0x8000, 0xFBF4, 0xFF74)]
    hard = near_a_boundary(function, x, fmt, 2.0**-19)
    codes = np.unique(np.concatenate([hard[:200], np.arange(0, 1 << 16, 211), *ends]))
    assert_same_bits(table(function, fmt)[codes], expected(function, x[codes], fmt), x[codes])


@pytest.mark.exhaustive
@pytest.mark.parametrize("fmt", SIXTEEN)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_entry_to_250_bits(function: str, fmt: str) -> None:
    assert_same_bits(table(function, fmt), expected(function, arguments(fmt), fmt), arguments(fmt))


@pytest.mark.parametrize("fmt", EIGHT)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_entry_of_8_bits_to_250_bits(function: str, fmt: str) -> None:
    assert_same_bits(table(function, fmt), expected(function, arguments(fmt), fmt), arguments(fmt))


@pytest.mark.parametrize("fmt", NARROW)
def test_every_entry_of_narrow_formats(fmt: str) -> None:
    for function in FUNCTIONS:
        words, _ = expected_quickly(function, arguments(fmt), fmt)
        assert_same_bits(table(function, fmt), words, arguments(fmt))


OUTPUTS = [
    ("fp16", "bf16"),
    ("bf16", "fp16"),
    ("bf16", "e5m2"),
    ("fp16", "e4m3fn"),
    ("bf16", "e8m0"),
    ("fp16", "binary8p3se"),
    ("bf16", "e2m1"),
    ("e8m0", "bf16"),
]


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize(("fmt", "output"), OUTPUTS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_another_output_format(function: str, fmt: str, output: str) -> None:
    """All entries: among them arguments halfway between two values of the output, whose GELU lies just below."""
    words, _ = expected_quickly(function, arguments(fmt), output)
    assert_same_bits(table(function, fmt, output), words, arguments(fmt))


@pytest.mark.parametrize("fmt", SIXTEEN)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_float32_output(function: str, fmt: str) -> None:
    codes = np.arange(0, 1 << 16, 29)
    words, _ = expected_quickly(function, arguments(fmt)[codes], "fp32")
    assert_same_bits(table(function, fmt, "fp32")[codes], words, arguments(fmt)[codes])


# Laws


def finite(fmt: str) -> np.ndarray:
    """Codes of finite values, the values ascending."""
    x = arguments(fmt)
    codes = np.flatnonzero(np.isfinite(x))
    return codes[np.argsort(x[codes], kind="stable")]


@pytest.mark.parametrize("fmt", [*SIXTEEN, *EIGHT])
@pytest.mark.parametrize("function", ["erf", "exp", "exp2", "sigmoid", "tanh"])
def test_rising_functions_rise(function: str, fmt: str) -> None:
    y = table(function, fmt)[finite(fmt)]
    y = y[~np.isnan(y)]  # beyond the largest value of a format without infinity
    assert (y[1:] >= y[:-1]).all()


@pytest.mark.parametrize("fmt", [*SIXTEEN, *EIGHT])
@pytest.mark.parametrize("function", ["cos", "erf", "reciprocal", "sin", "tanh"])
def test_even_and_odd_functions(function: str, fmt: str) -> None:
    codes = np.flatnonzero(~np.isnan(table(function, fmt)))
    opposite = codes ^ (1 << pr.FORMATS[fmt].bits - 1)
    values = table(function, fmt)
    assert_same_bits(values[opposite], values[codes] if function == "cos" else -values[codes])


@pytest.mark.parametrize("fmt", SIXTEEN)
def test_laws_of_gelu(fmt: str) -> None:
    """gelu(x) <= x for x > 0 and >= -0.17 everywhere; the gradient tends to 0 and 1."""
    x, y, slope = arguments(fmt), table("gelu", fmt), table("gelu_gradient", fmt)
    positive = x > 0
    assert (y[positive] <= x[positive]).all()
    assert np.nanmin(y) >= -0.1702
    assert np.nanmin(slope) >= -0.13
    assert np.nanmax(slope) <= 1.1301
    assert (slope[x > 20] == 1).all()
    assert (slope[x < -20] == 0).all()


@pytest.mark.parametrize("fmt", [*SIXTEEN, *EIGHT])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_gives_the_canonical_nan(function: str, fmt: str) -> None:
    values = table(function, fmt)[np.isnan(arguments(fmt))]
    assert_same_bits(values, np.full(values.size, oracles.NAN_BITS, np.uint32))


# The tables themselves


def test_tables_are_shared_and_read_only() -> None:
    values = table("gelu", "fp16")
    assert values is table("gelu", pr.FP16, "fp16")
    assert (values.shape, values.dtype) == ((1 << 16,), np.float32)
    assert table("exp", "e5m2").shape == (256,)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1


@pytest.mark.parametrize("fmt", [*SIXTEEN, *EIGHT])
def test_gather(backend: Executor, fmt: str) -> None:
    """The entry of the code that x rounds to; of each code, its own."""
    values = table("gelu", fmt)
    words = np.concatenate([EDGES, drawn(generator(81), 2000), drawn(generator(82), 2000, (110, 140))])
    x = np.concatenate([words.view(np.float32), arguments(fmt)])
    rounded = oracles.nearest(x, fmt)
    found = backend.apply("lookup", values, x, fmt=pr.FORMATS[fmt])
    by_value = dict(zip(oracles.every_value(fmt).tolist(), values.view(np.uint32).tolist(), strict=True))
    assert_same_bits(found, np.array([by_value[u] for u in rounded.view(np.uint32).tolist()], np.uint32), x)


def test_a_tie_that_no_precision_decides_is_an_error() -> None:
    """1 + 2^-11 lies halfway between two values of fp16: a function that hits it exactly has to say so."""
    halfway = RealFunction(approximate=lambda x: x + 2.0**-11, precise=lambda x: x + 2.0**-11)
    with pytest.raises(ArithmeticError, match=r"^1600 bits do not decide how to round the function's value at 1\.0$"):
        _decide(halfway, np.ones(1), pr.FP16)


# Refusals


def refuses(message: str) -> object:
    return pytest.raises(ValueError, match=rf"^{re.escape(message)}\Z")


@pytest.mark.parametrize("fmt", ["fp32", "tf32", "int8"])
def test_wider_and_integer_formats(fmt: str) -> None:
    with refuses(f"tables cover floating-point formats of at most 16 bits, not {fmt}"):
        table("gelu", fmt)


@pytest.mark.parametrize("output", ["fp64", "int8"])
def test_wider_and_integer_outputs(output: str) -> None:
    with refuses(f"tables hold values of floating-point formats of at most 32 bits, not {output}"):
        table("gelu", "fp16", output)


def test_unknown_function() -> None:
    with refuses(f"unknown function 'sinh'; known: {', '.join(FUNCTIONS)}"):
        table("sinh", "fp16")
