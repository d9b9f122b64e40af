"""Counters, histogram and extremes: equal to a recount in exact rational numbers, under every rule, at every size."""

from __future__ import annotations

from itertools import cycle, islice, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from event_oracle import Recount, recount, table_of, telling_patterns
from format_oracle import MODES, overflows
from hypothesis import given
from hypothesis import strategies as st
from strategies import EDGES, drawn, generator, patterns, sprinkled, without_nan

import precision as pr
from precision.backends.numba_ import rounding as numba_rounding
from precision.backends.numba_.compilation import Kernel
from precision.significands import COLUMNS
from precision.statistics import BLOCK, COUNTERS, EXPONENT_BINS, LOWEST_EXPONENT, Statistics

FORMATS = (
    "fp32", "tf32", "fp16", "bf16", "e5m2", "e4m3fn", "e4m3fnuz", "e8m0", "e2m1", "int8", "binary8p3se",
    "binary8p3ue",
)  # fmt: skip
EAGER = ("numpy", "numba")
KEY = (0x082EFA98, 0xEC4E6C89)
RANDOM_BITS = 11
RULES = {name: list(product(MODES, overflows(name), ("keep", "flush"))) for name in FORMATS}
CHUNK = numba_rounding.CHUNK
SIZES = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK - 1, CHUNK, CHUNK + 1)


def random_words(size: int) -> np.ndarray:
    return pr.random_bits(KEY, np.arange(size))


def options(mode: str, overflow: str = "ieee", subnormals: str = "keep") -> dict[str, Any]:
    chosen = {"rounding": mode, "overflow": overflow, "subnormals": subnormals}
    return chosen | ({"key": KEY, "random_bits": RANDOM_BITS} if mode == "stochastic" else {})


def expected(words: np.ndarray, name: str, mode: str, overflow: str = "ieee", subnormals: str = "keep") -> Recount:
    how: dict[str, Any] = {"overflow": overflow, "subnormals": subnormals}
    if mode == "stochastic":
        how |= {"random": random_words(words.size).reshape(words.shape), "random_bits": RANDOM_BITS}
    return recount(words, name, mode, **how)


def agree(found: Statistics, told: Recount, name: str) -> None:
    """Every field; the sums, whose bits are not promised, within the relative error of so many float64 additions."""
    count = told.results.size
    assert (found.format, found.count) == (name, count)
    wrong = {n: (getattr(found, n), told.counts[n]) for n in (*COUNTERS, "compared")}
    assert {n: pair for n, pair in wrong.items() if pair[0] != pair[1]} == {}
    histogram = {int(i) + LOWEST_EXPONENT: int(found.exponents[i]) for i in np.flatnonzero(found.exponents)}
    assert histogram == dict(told.exponents)
    assert table_of(found.significands) == told.significands
    assert (found.largest, found.smallest) == (told.largest, told.smallest)
    for measured, exact in ((found.signal, told.signal), (found.noise, told.noise)):
        assert measured == pytest.approx(float(exact), rel=(count + 4) * 2.0**-52, abs=0)


def check(backend: str, name: str, words: np.ndarray, told: Recount, *rules: str) -> None:
    """Statistics and rounded values of float32 patterns."""
    x = words.view(np.float32)
    x = jnp.asarray(x) if backend == "jax" else x
    rounded, found = pr.round_with_statistics(x, name, backend=backend, **options(*rules))
    agree(found, told, name)
    assert_same_bits(np.asarray(rounded), told.results, words)
    plain = pr.round_to(x, name, backend=backend, **options(*rules))
    assert_same_bits(np.asarray(rounded), np.asarray(plain), words)


# Every rule


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("name", FORMATS)
def test_every_rule(name: str) -> None:
    words = telling_patterns(name, 30)
    for rules in RULES[name]:
        told = expected(words, name, *rules)
        for backend in EAGER:
            check(backend, name, words, told, *rules)


def turn(name: str) -> tuple[str, ...]:
    """One of the rules, another for each format."""
    return next(islice(cycle(RULES[name]), 5 * FORMATS.index(name), None))


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize(
    ("name", "rules"), [*((n, turn(n)) for n in FORMATS), *(("fp16", (mode,)) for mode in MODES)]
)
def test_on_jax(name: str, rules: tuple[str, ...]) -> None:
    words = telling_patterns(name, 30)
    check("jax", name, words, expected(words, name, *rules), *rules)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FORMATS)
def test_every_rule_on_jax(name: str) -> None:
    words = telling_patterns(name, 30)
    for rules in RULES[name]:
        check("jax", name, words, expected(words, name, *rules), *rules)


@given(st.sampled_from(FORMATS), st.lists(patterns, min_size=1, max_size=12), st.data())
def test_any_patterns(name: str, words: list[int], data: st.DataObject) -> None:
    rules = data.draw(st.sampled_from(RULES[name]))
    u = np.array(words, np.uint32)
    u = without_nan(u) if name == "int8" else u
    for backend in EAGER:
        check(backend, name, u, expected(u, name, *rules), *rules)


# Every size


def ordinary(name: str) -> np.ndarray:
    """A few patterns of normal values well inside the range: no block of them has anything rare."""
    exponents = (127, 127) if name == "e2m1" else (127, 131)
    return drawn(generator(3), 40, exponents)


def placed(name: str, size: int, where: str) -> np.ndarray:
    """Ordinary values, with the telling ones nowhere, at one end, at every place, or in the second block alone."""
    rng = generator(size)
    words, rare = rng.choice(ordinary(name), size), rng.choice(telling_patterns(name, 5), size)
    at = {"none": slice(0), "first": slice(1), "last": slice(max(size - 1, 0), size), "anywhere": slice(size),
          "second block": slice(BLOCK, 2 * BLOCK)}[where]  # fmt: skip
    words[at] = rare[at]
    return words


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("where", ["none", "first", "last", "anywhere", "second block"])
@pytest.mark.parametrize("name", ["fp16", "bf16", "e2m1", "int8"])
def test_every_size(name: str, where: str) -> None:
    for size in SIZES if where in ("last", "anywhere") else (1, BLOCK + 1, CHUNK + 1):
        words = placed(name, size, where)
        told = expected(words, name, "nearest_even")
        for backend in EAGER:
            check(backend, name, words, told, "nearest_even")


@pytest.mark.parametrize("size", [0, 1, CHUNK + 1])
def test_every_size_on_jax(size: int) -> None:
    words = placed("fp16", size, "anywhere")
    check("jax", "fp16", words, expected(words, "fp16", "nearest_even"), "nearest_even")


@pytest.mark.parametrize("size", [1, BLOCK + 1])
def test_random_words_follow_the_elements(size: int) -> None:
    words = placed("fp16", size, "anywhere")
    told = expected(words, "fp16", "stochastic")
    for backend in EAGER:
        check(backend, "fp16", words, told, "stochastic")


@pytest.mark.parametrize("backend", [*EAGER, "jax"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3, 40)])
def test_shapes(backend: str, shape: tuple[int, ...]) -> None:
    words = np.resize(telling_patterns("e5m2", 5), shape).astype(np.uint32)
    check(backend, "e5m2", words, expected(words, "e5m2", "nearest_even"), "nearest_even")


@pytest.mark.parametrize("rules", [("nearest_even",), ("toward_zero",), ("stochastic",)])
def test_threads_change_nothing(rules: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x = placed("fp16", 3 * CHUNK + 5, "anywhere").view(np.float32)
    found = []
    for threshold in (1 << 62, 0):
        monkeypatch.setattr(Kernel, "PARALLEL_FROM", threshold)
        found.append(pr.round_with_statistics(x, "fp16", backend="numba", **options(*rules)))
    (serial, of_one), (parallel, of_all) = found
    assert_same_bits(parallel, serial)
    assert of_all == of_one
    assert (of_all.signal, of_all.noise) == (of_one.signal, of_one.noise)  # chunks are the same, so are the sums
    assert np.array_equal(of_all.exponents, of_one.exponents)


# More than 32 bits can count


@pytest.mark.parametrize("name", ["fp16", "bf16", "int8"])
def test_counters_pass_2_to_the_32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each part had counted 2^32 - 1 of everything before; no block is long enough to overflow a word."""
    assert BLOCK < 1 << 32
    assert CHUNK % BLOCK == 0
    before = (1 << 32) - 1

    def advanced(parts: int) -> tuple[np.ndarray, np.ndarray]:
        counts = np.full((parts, len(COUNTERS)), before)
        return counts, np.full((parts, EXPONENT_BINS, COLUMNS), before)

    x = placed(name, 2 * CHUNK + 7, "anywhere").view(np.float32)
    plain = pr.statistics(x, name, backend="numba")
    parts = numba_rounding.count_parts(x.size)
    monkeypatch.setattr(numba_rounding, "_empty_counts", advanced)
    found = pr.statistics(x, name, backend="numba")
    for counter in COUNTERS:
        assert getattr(found, counter) == getattr(plain, counter) + parts * before
    assert np.array_equal(found.significands, plain.significands + parts * before)
    assert (found + found).significands.min() > 1 << 32


def test_no_part_counts_more_than_a_word_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_rounding, "LONGEST_PART", 1000)
    assert numba_rounding.count_parts(10_001) == 11
    x = placed("fp16", 10_001, "anywhere").view(np.float32)
    found = pr.statistics(x, "fp16", backend="numba")
    assert np.array_equal(found.significands, pr.statistics(x, "fp16", backend="numpy").significands)
    rounded, kernel = pr.round_to(x, "fp16"), numba_rounding.statistics
    assert np.array_equal(kernel(x, rounded, pr.FP16)[1], found.significands)


def test_jax_refuses_more_at_once_than_its_counters_hold() -> None:
    """By shape alone: nothing of this size is allocated.  Joined, there may be more."""
    module = pr.backends.get_backend("jax")
    many, most = (jax.ShapeDtypeStruct((size,), np.float32) for size in (1 << 31, (1 << 31) - 1))
    message = r"^statistics of 2147483648 values[^\n]*int32 counters[^\n]*of parts[^\n]*(\Z|\n-+\nFor simplicity)"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: pr.statistics(x, "fp16"), many)

    def seen(x):
        return module.observe(x, x, pr.FP16)

    assert jax.eval_shape(seen, most)[1].dtype == np.int32
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(seen, many)
    joined = jax.eval_shape(lambda x, y: module.join(seen(x), seen(y)), most, most)
    assert joined[0].shape == ((1 << 32) - 2, 0)


# Where the rounded values go


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize("rules", [("nearest_even",), ("up",)])
def test_out(backend: str, rules: tuple[str, ...]) -> None:
    words = sprinkled(generator(9), np.resize(EDGES, (30, 301)), 0.5)
    told = expected(words, "fp16", *rules)

    def into(x: np.ndarray, out: np.ndarray) -> None:
        rounded, found = pr.round_with_statistics(x, "fp16", out=out, backend=backend, **options(*rules))
        assert rounded is out
        assert_same_bits(out, told.results)
        agree(found, told, "fp16")

    x = words.view(np.float32)
    into(x, np.empty_like(x))
    into(x, np.empty((30, 602), np.float32)[:, ::2])
    into(np.asfortranarray(x), np.empty_like(x))
    into(x, np.empty((301, 30), np.float32).T)
    own = x.copy()
    into(own, own)
    row = np.append(x.ravel(), np.float32(0))
    into(row[:-1].reshape(x.shape), row[1:].reshape(x.shape))  # overlapping
    frozen = x.copy()
    frozen.flags.writeable = False
    into(frozen, np.empty_like(x))
