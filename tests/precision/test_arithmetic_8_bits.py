"""Binary operations on every pair of values of formats of at most 8 bits."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from arithmetic_oracle import expected
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor
from format_oracle import MODES, STANDARDS
from format_search import every_value
from strategies import every_pair

import precision as pr

SMALL = tuple(name for name, fmt in STANDARDS.items() if fmt.bits <= 8)
OPERATIONS = ("add", "sub", "mul", "div")
KEY = 8


@lru_cache(maxsize=2)
def pairs(operation: str, name: str, mode: str) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Every pair and the result of each; of integers, but for x / 0."""
    words = every_pair(every_value(name))
    if operation == "div" and STANDARDS[name].twos_complement:
        words = tuple(w[words[1] != 0] for w in words)
    random = pr.random_bits((0, KEY), np.arange(words[0].size, dtype=np.uint64))
    result = expected(operation, words, name, mode, **({"words": random} if mode == "stochastic" else {}))
    return words, result


def run(operation: str, backend: Executor, words: tuple[np.ndarray, ...], **options: Any) -> np.ndarray:
    arrays = [backend.array(w.view(np.float32)) for w in words]
    return np.asarray(getattr(pr, operation)(*arrays, backend=backend.name, **options))


def check(operation: str, name: str, mode: str, backend: Executor) -> None:
    words, result = pairs(operation, name, mode)
    key = {"key": KEY} if mode == "stochastic" else {}
    assert_same_bits(run(operation, backend, words, fmt=name, rounding=mode, **key), result, *words)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("name", ["e4m3fn", "e5m2"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", ["nearest_even", "down"])
def test_every_pair(mode: str, operation: str, name: str, backend: Executor) -> None:
    check(operation, name, mode, backend)


@pytest.mark.parametrize("name", SMALL)
def test_every_format_in_some_mode(name: str) -> None:
    """One operation and one mode for each, NumPy's; all of them are left to the exhaustive run."""
    place = SMALL.index(name)
    check(OPERATIONS[place % len(OPERATIONS)], name, MODES[place % len(MODES)], EXECUTORS[0])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_pair_of_every_format_in_every_mode(operation: str, name: str) -> None:
    for mode in MODES:
        for backend in EXECUTORS:
            check(operation, name, mode, backend)


def compared(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Comparisons by NumPy, whose float unit keeps subnormals."""
    with np.errstate(invalid="ignore"):
        return {"equal": x == y, "less": x < y, "less_equal": x <= y}


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2"])
def test_every_pair_compared(name: str, backend: Executor) -> None:
    words = every_pair(every_value(name))
    for relation, result in compared(*(w.view(np.float32) for w in words)).items():
        assert np.array_equal(run(relation, backend, words), result)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SMALL)
def test_every_pair_of_every_format_compared(name: str) -> None:
    for backend in EXECUTORS:
        test_every_pair_compared(name, backend)
