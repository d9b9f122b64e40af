"""round_to in every format, mode, overflow and subnormal rule: every value, every midpoint, their neighbours."""

from __future__ import annotations

from itertools import cycle, islice, product
from typing import Any

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor
from format_oracle import MODES, STANDARDS, overflows, rounded, standard
from format_search import searched
from hypothesis import given
from hypothesis import strategies as st
from reals import read, read_all, write, write_all
from strategies import EDGES, NANS, drawn, generator, patterns, sources, without_nan

import precision as pr

EAGER = EXECUTORS[:2]
JAX = EXECUTORS[2]
REPRESENTATIVE = ("fp16", "bf16", "e4m3fn", "e2m1", "int8", "binary8p3ue")
KEY = (0x243F6A88, 0x85A308D3)
RULES = {name: list(product(MODES, overflows(name), ("keep", "flush"))) for name in STANDARDS}
WIDE = ("e6m9", "e8m14", "e2m20", "e8m22", "e5m23")


def random_words(count: int) -> np.ndarray:
    return pr.random_bits(KEY, np.arange(count))


def options(mode: str, overflow: str = "ieee", subnormals: str = "keep") -> dict[str, Any]:
    chosen = {"rounding": mode, "overflow": overflow, "subnormals": subnormals}
    return chosen | ({"key": KEY, "random_bits": 11} if mode == "stochastic" else {})


def check(executor: Executor, name: str, words: np.ndarray, *rules: str) -> None:
    """round_to of float32 patterns against the search."""
    mode, overflow, subnormals = rules
    how = {"overflow": overflow, "subnormals": subnormals, "words": random_words(len(words)), "random_bits": 11}
    expected = searched(words.view(np.float32), name, mode, **how)
    found = executor.call(pr.round_to, words.view(np.float32), fmt=name, **options(*rules))
    assert_same_bits(found, expected, words)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_every_mode(backend: Executor, name: str, mode: str) -> None:
    check(backend, name, sources(name), mode, "ieee", "keep")


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("executor", EAGER, ids=str)
@pytest.mark.parametrize("name", [name for name in STANDARDS if name not in REPRESENTATIVE])
def test_every_format(executor: Executor, name: str) -> None:
    for mode in MODES:
        check(executor, name, sources(name), mode, "ieee", "keep")


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("executor", EAGER, ids=str)
@pytest.mark.parametrize("name", STANDARDS)
def test_every_rule(executor: Executor, name: str) -> None:
    words = np.concatenate([EDGES, sources(name)[:: 1 if standard(name).bits <= 8 else 97]])
    words = without_nan(words) if standard(name).twos_complement else words
    for rules in RULES[name]:
        check(executor, name, words, *rules)


def turns(name: str, count: int) -> list[tuple[str, ...]]:
    """Some of the rules, others for each format."""
    start = list(STANDARDS).index(name) * 5 % len(RULES[name])
    return list(islice(cycle(RULES[name]), start, start + 5 * count, 5))


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("name", [name for name in STANDARDS if name not in REPRESENTATIVE])
def test_every_format_under_jit(name: str) -> None:
    check(JAX, name, sources(name), *turns(name, 1)[0])


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_some_rules_under_jit(name: str) -> None:
    for rules in turns(name, 2):
        check(JAX, name, sources(name), *rules)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", STANDARDS)
def test_every_rule_under_jit(name: str) -> None:
    for rules in RULES[name]:
        check(JAX, name, sources(name), *rules)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WIDE)
def test_formats_by_exponent_and_significand(name: str, mode: str) -> None:
    fmt = standard(name)
    around = (max(fmt.emin - fmt.fraction_bits + 125, 0), min(fmt.emax + 129, 255))
    words = np.concatenate([EDGES, NANS, drawn(generator(5), 300, around), drawn(generator(6), 100)])
    chosen = options(mode)
    random = random_words(len(words)).tolist()
    numbers = zip(read_all(words), random, strict=True)
    expected = write_all(rounded(x, name, mode, word=word, random_bits=11) for x, word in numbers)
    for executor in EXECUTORS if mode in ("nearest_even", "to_odd") else EAGER:
        assert_same_bits(executor.call(pr.round_to, words.view(np.float32), fmt=name, **chosen), expected, words)


@given(st.sampled_from([*STANDARDS, *WIDE]), st.sampled_from(MODES), st.sampled_from(["keep", "flush"]), st.data())
def test_any_pattern_in_fractions(name: str, mode: str, subnormals: str, data: st.DataObject) -> None:
    words = np.array(data.draw(st.lists(patterns, min_size=1, max_size=8)), np.uint32)
    words = without_nan(words) if standard(name).twos_complement else words
    overflow = data.draw(st.sampled_from(overflows(name)))
    random = random_words(len(words)).tolist()
    how = {"overflow": overflow, "subnormals": subnormals, "random_bits": 11}
    pairs = zip(words.tolist(), random, strict=True)
    expected = np.array([write(rounded(read(u), name, mode, word=word, **how)) for u, word in pairs], np.uint32)
    for executor in EAGER:
        found = executor.call(pr.round_to, words.view(np.float32), fmt=name, **options(mode, overflow, subnormals))
        assert_same_bits(found, expected, words)


# Refusals


@pytest.mark.parametrize("name", [name for name in STANDARDS if standard(name).infinity is None])
def test_overflow_to_an_infinity_that_is_not_there(name: str) -> None:
    for function in (pr.round_to, pr.encode):
        with pytest.raises(ValueError, match=rf"^[^\n]*{name}[^\n]*infinit[^\n]*\Z"):
            function(np.float32([1]), name, overflow="inf")


@pytest.mark.parametrize("argument", ["rounding", "overflow", "subnormals"])
@pytest.mark.parametrize("function", [pr.round_to, pr.encode])
def test_unknown_rules(function: Any, argument: str) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*{argument}[^\n]*'sideways'[^\n]*\Z"):
        function(np.float32([1]), "fp16", **{argument: "sideways"})
