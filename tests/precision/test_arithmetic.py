"""Scalar operations into fp16, bf16 and fp32: every mode, special and drawn operands, three back ends."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import pytest
from arithmetic_oracle import OPERATIONS, expected, in_fractions
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor
from format_oracle import MODES
from format_search import every_value
from hypothesis import given
from hypothesis import strategies as st
from strategies import EDGES, drawn, every_pair, generator, patterns

import precision as pr

SIGN = np.uint32(1 << 31)
KEY = (0x12345678, 0x9ABCDEF0)
Words = tuple[np.ndarray, ...]

# codes of a, b, c and of the exact a b + c rounded once, where the product's or the sum's own rounding spoils it
FMA_CODES = [
    ("fp16", 0x520B, 0x00E9, 0x2FF6, 0x3001),  # float32 gives 0x3000
    ("bf16", 0x3F81, 0x3FC0, 0xA180, 0x3FC1),  # float64 gives 0x3FC2
]
# float32 operands; each result is the exact one, rounded once
VECTORS = [
    ("fma", "fp16", "nearest_even", ("0x1.4p8", "0x1.008p7", "0x1p-24"), "0x1.40cp15"),  # float32: 0x1.408p15
    ("add", "fp16", "up", ("0x1p15", "0x1p-24"), "0x1.004p15"),  # lost in float32
    ("add", "fp16", "up", ("0x1p15", "0x1p-48"), "0x1.004p15"),  # lost in float64
    ("add", "fp16", "to_odd", ("0x1p15", "-0x1p-48"), "0x1.ffcp14"),
    ("add", "fp16", "down", ("1", "-1"), "-0"),
    ("sub", "fp16", "down", ("1", "1"), "-0"),
    ("sub", "fp16", "up", ("1", "1"), "0"),
    ("fma", "fp16", "down", ("2", "3", "-6"), "-0"),
    ("add", "fp16", "down", ("-0", "0"), "-0"),
    ("add", "fp16", "nearest_even", ("-0", "-0"), "-0"),
    ("mul", "fp16", "up", ("0x1p-100", "0x1p-100"), "0x1p-24"),  # far below float32
    ("mul", "fp16", "up", ("-0x1p-100", "0x1p-100"), "-0"),
    ("mul", "fp32", "nearest_even", ("0x1p-75", "0x1p-75"), "0"),
    ("mul", "fp32", "nearest_even", ("0x1.000002p-75", "0x1p-75"), "0x1p-149"),
    ("mul", "fp32", "toward_zero", ("0x1p100", "0x1p100"), "0x1.fffffep127"),
    ("mul", "fp32", "nearest_even", ("0x1p100", "0x1p100"), "inf"),
    ("mul", "bf16", "down", ("0x1p100", "-0x1p100"), "-inf"),
    ("div", "fp16", "nearest_even", ("1", "0"), "inf"),
    ("div", "fp16", "nearest_even", ("-1", "0"), "-inf"),
    ("div", "fp16", "toward_zero", ("1", "0"), "inf"),  # not an overflow: IEEE 754-2019, 7.3
    ("div", "fp16", "nearest_even", ("1", "3"), "0x1.554p-2"),
    ("div", "fp16", "up", ("1", "-inf"), "-0"),
    ("div", "fp16", "nearest_even", ("0", "0"), "nan"),
    ("sqrt", "fp16", "nearest_even", ("-0",), "-0"),
    ("sqrt", "fp16", "nearest_even", ("-0x1p-149",), "nan"),
    ("sqrt", "fp32", "up", ("0x1p-149",), "0x1.6a09e8p-75"),
    ("add", "fp16", "nearest_even", ("inf", "-inf"), "nan"),
    ("mul", "fp16", "nearest_even", ("inf", "0"), "nan"),
]


def random_words(size: int) -> np.ndarray:
    return pr.random_bits(KEY, np.arange(size, dtype=np.uint64))


def run(operation: str, backend: Executor, words: Words, name: str, mode: str, **rules: Any) -> np.ndarray:
    """Float32 patterns in, float32 values out."""
    arrays = [backend.array(w.view(np.float32)) for w in words]
    if mode == "stochastic":
        rules["key"] = KEY
    return np.asarray(getattr(pr, operation)(*arrays, fmt=name, rounding=mode, backend=backend.name, **rules))


def by_oracle(operation: str, words: Words, name: str, mode: str, **rules: Any) -> np.ndarray:
    if mode == "stochastic":
        rules["words"] = random_words(words[0].size)
    return expected(operation, words, name, mode, **rules)


@cache
def special() -> Words:
    """All pairs of edges, with a third edge drawn for each."""
    x, y = every_pair(EDGES)
    return x, y, generator(61).choice(EDGES, x.size)


def drawn_operands(name: str, count: int, seed: int) -> Words:
    """Values of the format, by their codes; float32 near each other and anywhere; sums that cancel almost."""
    rng = generator(seed)
    quarter = count // 4
    values = drawn(rng, 1 << 16) if name == "fp32" else every_value(name)
    center = 127 if name == "fp16" else int(rng.integers(40, 215))
    parts = [[rng.choice(values, quarter) for _ in range(3)]]
    parts.append([drawn(rng, quarter, (center - 25, center + 25)) for _ in range(3)])
    parts.append([drawn(rng, quarter) for _ in range(3)])
    x, y = rng.choice(values, quarter), drawn(rng, quarter, (100, 150))
    with np.errstate(all="ignore"):
        product = (x.view(np.float32) * y.view(np.float32)).view(np.uint32)
    y = np.where(rng.random(quarter) < 0.5, y, x ^ SIGN ^ rng.integers(0, 4, quarter, np.uint32))
    parts.append([x, y, product ^ SIGN ^ rng.integers(0, 4, quarter, np.uint32)])
    return tuple(np.concatenate(words) for words in zip(*parts, strict=True))


@lru_cache(maxsize=4)
def operands(name: str) -> Words:
    """One size for all, so that JAX compiles an operation and mode once."""
    return tuple(np.concatenate(pair) for pair in zip(special(), drawn_operands(name, 200_000, 62), strict=True))


@lru_cache(maxsize=2)
def case(operation: str, name: str, mode: str, **rule: str) -> tuple[Words, np.ndarray]:
    words = operands(name)[: OPERATIONS[operation]]
    return words, by_oracle(operation, words, name, mode, **rule)


@lru_cache(maxsize=2)
def in_float32(operation: str, mode: str) -> np.ndarray:
    """Results of every 151st of the operands, in fractions."""
    words = operands("fp32")[: OPERATIONS[operation]]
    random = {"words": random_words(words[0].size)[::151]} if mode == "stochastic" else {}
    return in_fractions(operation, tuple(w[::151] for w in words), "fp32", mode, **random)


@pytest.mark.thinned(0.12)
@pytest.mark.parametrize("name", ["fp16", "bf16"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_special_and_drawn_operands(mode: str, operation: str, name: str, backend: Executor) -> None:
    words, result = case(operation, name, mode)
    assert_same_bits(run(operation, backend, words, name, mode), result, *words)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize(("operation", "name", "mode", "numbers", "result"), VECTORS)
def test_known_vectors(
    operation: str, name: str, mode: str, numbers: tuple[str, ...], result: str, backend: Executor
) -> None:
    words = tuple(np.array([float.fromhex(x)], np.float32).view(np.uint32) for x in numbers)
    pattern = 0x7FC00000 if result == "nan" else np.float32(float.fromhex(result)).view(np.uint32)
    assert_same_bits(run(operation, backend, words, name, mode), np.array([pattern], np.uint32), *words)


@pytest.mark.parametrize(("name", "a", "b", "c", "result"), FMA_CODES)
def test_fused_multiply_add_that_wider_floats_get_wrong(
    name: str, a: int, b: int, c: int, result: int, backend: Executor
) -> None:
    words = tuple(every_value(name)[[code]] for code in (a, b, c))
    assert_same_bits(run("fma", backend, words, name, "nearest_even"), every_value(name)[[result]])


@pytest.mark.thinned(0.12)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", ["nearest_even", "up", "to_odd", "stochastic"])
def test_float32_against_fractions(mode: str, operation: str, backend: Executor) -> None:
    words, result = case(operation, "fp32", mode)
    actual = run(operation, backend, words, "fp32", mode)
    assert_same_bits(actual, result, *words)
    assert_same_bits(np.ascontiguousarray(actual[::151]), in_float32(operation, mode))


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("operation", ["add", "sub", "mul", "div", "sqrt"])
def test_float32_against_the_processor(operation: str, backend: Executor) -> None:
    words = drawn_operands("fp32", 1_000_000, 63)[: OPERATIONS[operation]]
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "sqrt": np.sqrt}[operation]
    with np.errstate(all="ignore"):
        result = function(*(w.view(np.float32) for w in words))
    actual = run(operation, backend, words, "fp32", "nearest_even")
    assert_same_bits(actual, result, *words, any_nan=True)
    assert (actual.view(np.uint32)[np.isnan(actual)] == 0x7FC00000).all()


@given(patterns, patterns, patterns, st.sampled_from(sorted(OPERATIONS)), st.sampled_from(MODES))
def test_any_patterns_into_fp16(a: int, b: int, c: int, operation: str, mode: str) -> None:
    words = tuple(np.array([u], np.uint32) for u in (a, b, c))[: OPERATIONS[operation]]
    for rules in ({"overflow": "saturate"}, {"overflow": "inf"}, {"subnormals": "flush"}):
        random = {"words": random_words(1)} if mode == "stochastic" else {}
        exact = in_fractions(operation, words, "fp16", mode, **rules, **random)
        keyed = {"key": KEY} if mode == "stochastic" else {}
        arrays = (w.view(np.float32) for w in words)
        assert_same_bits(getattr(pr, operation)(*arrays, rounding=mode, **rules, **keyed), exact, *words)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("name", "mode", "rule"),
    [
        ("fp32", "down", {"overflow": "inf"}),
        ("fp32", "nearest_even", {"subnormals": "flush"}),
        ("bf16", "to_odd", {"overflow": "inf"}),
        ("fp16", "up", {"overflow": "saturate"}),
    ],
)
def test_other_options(name: str, mode: str, rule: dict[str, str], operation: str, backend: Executor) -> None:
    words, result = case(operation, name, mode, **rule)
    assert_same_bits(run(operation, backend, words, name, mode, **rule), result, *words)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["fp16", "bf16"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_ten_million_of_each(mode: str, operation: str, name: str) -> None:
    """2^24 triples for each operation, mode and format, on three back ends."""
    for seed in range(64):
        words = drawn_operands(name, 1 << 18, 1000 + seed)[: OPERATIONS[operation]]
        result = by_oracle(operation, words, name, mode)
        for backend in EXECUTORS:
            assert_same_bits(run(operation, backend, words, name, mode), result, *words)
