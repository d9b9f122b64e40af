"""Float32 multiply, add and fused multiply-add in integers: against fractions, and against float64 rounded to odd."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from hypothesis import given
from strategies import EDGES, drawn, every_pair, generator, patterns

from precision import soft_float

SIGN = np.uint32(1 << 31)
OPERATIONS = {"fused_multiply_add": 3, "multiply": 2, "add": 2}
DEFINITIONS = {
    "fused_multiply_add": oracles.fused_multiply_add,
    "multiply": lambda x, y: oracles.rounded(oracles.product(x, y), "fp32"),
    "add": lambda x, y: oracles.rounded(oracles.total(x, y), "fp32"),
}

# a b + c, in hexadecimal floats; each result is the exact sum rounded once
VECTORS = [
    ("0x1.4p8", "0x1.008p7", "0x1p-24", "0x1.40ap15"),  # float32: 25 bits are no tie
    ("0x1.000002p0", "0x1.000002p0", "-0x1.000004p0", "0x1p-46"),  # only the product's last bit is left
    ("0x1.fffffep127", "0x1.fffffep127", "-inf", "-inf"),
    ("0x1.fffffep127", "2", "-0x1.fffffep127", "0x1.fffffep127"),  # the product alone overflows
    ("0x1p64", "0x1p64", "-0x1p127", "0x1p127"),
    ("0x1.fffffep127", "1", "0x1p102", "0x1.fffffep127"),  # below the tie to 2^128
    ("0x1.fffffep127", "1", "0x1p103", "inf"),  # the tie
    ("0x1p-149", "0x1p-149", "0x1p-149", "0x1p-149"),
    ("0x1p-149", "0x1p-1", "0", "0"),  # tie to even
    ("0x1p-149", "0x1p-1", "0x1p-149", "0x1p-148"),  # 3/2 of the smallest: tie to even
    ("0x1p-149", "-0x1p-1", "0", "-0"),  # underflows to the zero of its sign
    ("0x1p-75", "-0x1p-75", "0", "-0"),
    ("0x1.000002p-75", "0x1p-75", "0", "0x1p-149"),  # just above half of the smallest
    ("0x1p-126", "1", "-0x1p-149", "0x1.fffffcp-127"),  # normal to subnormal
    ("0x1.fffffcp-127", "1", "0x1p-149", "0x1p-126"),  # and back
    ("0x1p-100", "0x1p-100", "1", "1"),
    ("0x1p-100", "-0x1p-100", "1", "1"),
    ("0x1p-24", "1", "1", "1"),  # tie to even
    ("0x1p-24", "0x1.000002p0", "1", "0x1.000002p0"),
    ("-0x1p-25", "0x1.000002p0", "1", "0x1.fffffep-1"),
    ("-0x1p-25", "1", "1", "1"),
    ("0", "0", "-0", "0"),
    ("0", "-0", "-0", "-0"),
    ("-0", "5", "-0", "-0"),
    ("-0", "5", "0", "0"),
    ("3", "5", "-0xf", "0"),
    ("inf", "0", "1", "nan"),
    ("inf", "2", "-inf", "nan"),
    ("inf", "-2", "-inf", "-inf"),
    ("0x1p127", "0x1p127", "-inf", "-inf"),
]


def pattern(text: str) -> int:
    return int(np.float32(float.fromhex(text)).view(np.uint32)) if text != "nan" else oracles.NAN_BITS


@cache
def operands(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, b, c: anything; sums that cancel; products and sums below 2^-126, around overflow, and far apart."""
    rng = generator(51)
    ranges = [
        ((0, 255), (0, 255), (0, 255)),
        ((110, 140), (110, 140), (100, 150)),
        ((0, 80), (0, 80), (0, 20)),
        ((40, 70), (60, 90), (0, 40)),
        ((180, 200), (180, 200), (230, 255)),
        ((0, 3), (120, 250), (0, 255)),
    ]
    parts = [[drawn(rng, count, exponents) for exponents in three] for three in ranges]
    # c near -(a b): its first 24 bits, changed in the last few
    a, b = drawn(rng, count, (64, 190)), drawn(rng, count, (64, 190))
    product = (a.view(np.float32).astype(np.float64) * b.view(np.float32)).astype(np.float32).view(np.uint32)
    parts.append([a, b, product ^ SIGN ^ (rng.integers(0, 8, count).astype(np.uint32) >> 1)])
    # c some 24 binades off the product: the last bit kept, or the first lost
    shift = rng.integers(-30, 31, count)
    distant = np.clip((product >> 23 & 0xFF).astype(int) + shift, 0, 254).astype(np.uint32) << 23
    parts.append([a, b, distant | drawn(rng, count, (0, 0))])
    return tuple(np.concatenate(words) for words in zip(*parts, strict=True))


def apply(operation: str, *words: np.ndarray) -> np.ndarray:
    return getattr(soft_float, operation)(*words)


@pytest.mark.parametrize(("a", "b", "c", "result"), VECTORS)
def test_known_vectors(a: str, b: str, c: str, result: str) -> None:
    words = [np.array([pattern(text)], np.uint32) for text in (a, b, c)]
    assert_same_bits(soft_float.fused_multiply_add(*words), np.array([pattern(result)], np.uint32))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_against_fractions(operation: str) -> None:
    words = [w.copy() for w in operands(700)[: OPERATIONS[operation]]]
    expected = map(DEFINITIONS[operation], *map(oracles.read_all, words))
    assert_same_bits(apply(operation, *words), oracles.write_all(expected), *words)


@pytest.mark.parametrize("operation", ["multiply", "add"])
def test_every_pair_of_edges(operation: str) -> None:
    words = every_pair(EDGES)
    expected = oracles.write_all(map(DEFINITIONS[operation], *map(oracles.read_all, words)))
    assert_same_bits(apply(operation, *words), expected, *words)


def test_edges_three_at_a_time() -> None:
    rng = generator(52)
    words = [rng.choice(EDGES, 8000) for _ in range(3)]
    expected = map(oracles.fused_multiply_add, *map(oracles.read_all, words))
    assert_same_bits(soft_float.fused_multiply_add(*words), oracles.write_all(expected), *words)


@given(patterns, patterns, patterns)
def test_any_three_patterns(a: int, b: int, c: int) -> None:
    words = [np.array([u], np.uint32) for u in (a, b, c)]
    expected = [oracles.write(oracles.fused_multiply_add(*map(oracles.read, (a, b, c))))]
    assert_same_bits(soft_float.fused_multiply_add(*words), np.array(expected, np.uint32), *words)


def through_float64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """RN32(a b + c): the product is exact in float64, the sum is rounded to odd there, then once to float32.

    Rounding to odd keeps, in the last of 53 bits, whether anything was lost, so the second rounding sees every tie
    for what it is.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    c = c.astype(np.float64)
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    pattern = total.view(np.int64)
    outward = (error > 0) == (total > 0)
    inexact = ((pattern & 1) == 0) & (error != 0) & np.isfinite(total)
    return (pattern + np.where(inexact, np.where(outward, 1, -1), 0)).view(np.float64).astype(np.float32)


def reference(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return through_float64(*(u.view(np.float32) for u in (a, b, c)))


def test_a_million_against_float64_rounded_to_odd() -> None:
    a, b, c = operands(130_000)
    assert a.size > 1_000_000
    for start in range(0, a.size, 1 << 17):  # in pieces that stay in the cache
        piece = slice(start, start + (1 << 17))
        words = a[piece], b[piece], c[piece]
        assert_same_bits(soft_float.fused_multiply_add(*words), reference(*words), *words, any_nan=True)


def test_float64_rounded_to_odd_against_fractions() -> None:
    words = [w[::3] for w in operands(700)]
    expected = map(oracles.fused_multiply_add, *map(oracles.read_all, words))
    assert_same_bits(reference(*words), oracles.write_all(expected), *words, any_nan=True)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_under_jit(operation: str) -> None:
    words = operands(13_000)[: OPERATIONS[operation]]
    assert words[0].size > 100_000
    traced = jax.jit(getattr(soft_float, operation))(*words)
    assert_same_bits(traced, apply(operation, *words), *words)


@pytest.mark.parametrize("name", ["multiply", "add"])
def test_commutative(name: str) -> None:
    x, y, _ = operands(2000)
    assert_same_bits(apply(name, x, y), apply(name, y, x), x, y)


def test_negation() -> None:
    """-(a b + c) = (-a) b + (-c), but for an exact zero, which is +0 in both, and NaN."""
    a, b, c = operands(2000)
    plain, negative = soft_float.fused_multiply_add(a, b, c), soft_float.fused_multiply_add(a ^ SIGN, b, c ^ SIGN)
    free = (plain != 0) & ((plain & 0x7FFFFFFF) <= 0x7F800000) & (negative != 0)
    assert_same_bits(negative[free], plain[free] ^ SIGN)
    assert not (negative[(plain == 0) & (negative != SIGN)]).any()


@pytest.mark.exhaustive
def test_many_more_against_float64_rounded_to_odd() -> None:
    """2^28 triples: uniform patterns, and drawn ones with exponents that meet."""
    for seed in range(128):
        rng = generator(1000 + seed)
        uniform = [rng.integers(0, 1 << 32, 1 << 20, np.uint32) for _ in range(3)]
        centre = 64 + seed // 2  # biased exponents of the factors; those of the product lie around 2 centre - 127
        meeting = [drawn(rng, 1 << 20, (centre - 20, centre + 20)) for _ in range(2)]
        meeting.append(drawn(rng, 1 << 20, (max(2 * centre - 177, 0), min(2 * centre - 77, 255))))
        for words in (uniform, meeting):
            assert_same_bits(soft_float.fused_multiply_add(*words), reference(*words), *words, any_nan=True)
