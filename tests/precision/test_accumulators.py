"""matmul under every accumulator, on every back end, against exact rational dot products written from definitions."""

from __future__ import annotations

import accumulator_oracle
import numpy as np
import pytest
from accumulator_cases import COMBINATIONS, DEFINITIONS, LENGTHS, Case, cases, lengths, longest, solved
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor

import precision as pr

EAGER = EXECUTORS[:2]  # JAX compiles for each shape, and is given one
FIRST = [(name, next(iter(formats))) for name, formats in LENGTHS.items()]
COUNTED = [(backend, *pair) for backend in EXECUTORS for pair in (COMBINATIONS if backend in EAGER else FIRST)]


def with_start(a: object, b: object, c: object, **static: object) -> object:
    return pr.matmul(a, b, c=c, **static)


def floats(x: np.ndarray) -> np.ndarray:
    return x.view(np.float32) if x.dtype == np.uint32 else x


def run(backend: Executor, batch: Case, start: bool = True, **static: object) -> np.ndarray:
    a, b, c = map(floats, batch)
    if start:
        return backend.call(with_start, a, b, c, **static)
    return backend.call(pr.matmul, a, b, **static)


def check(backend: Executor, name: str, inputs: str, k: int, brief: bool, **options: object) -> None:
    kinds, batch, expected, _ = solved(name, inputs, k, brief, **options)
    result = run(backend, batch, accumulator=name, inputs=inputs, **options)
    for kind, got, right in zip(kinds, result, expected, strict=True):
        assert np.array_equal(got.view(right.dtype), right), f"{kind}, k = {k}"
    assert_same_bits(result, expected)


def test_every_accumulator_is_tried() -> None:
    assert {*LENGTHS, "native"} == set(pr.ACCUMULATORS)
    for name, record in pr.ACCUMULATORS.items():
        if record.inputs and name != "int32":
            assert set(record.inputs) == set(LENGTHS[name]), name


@pytest.mark.thinned(0.12)
@pytest.mark.parametrize(("name", "inputs"), COMBINATIONS)
def test_every_kind(backend: Executor, name: str, inputs: str) -> None:
    check(backend, name, inputs, longest(name, inputs), brief=False)


@pytest.mark.thinned(0.08)
@pytest.mark.parametrize("backend", EAGER, ids=str)
@pytest.mark.parametrize(("name", "inputs"), COMBINATIONS)
def test_every_length(backend: Executor, name: str, inputs: str) -> None:
    for k in lengths(name, inputs):
        check(backend, name, inputs, k, brief=True)


@pytest.mark.thinned(0.12)
@pytest.mark.parametrize("backend", EAGER, ids=str)
@pytest.mark.parametrize(("name", "inputs"), COMBINATIONS)
def test_from_zero(backend: Executor, name: str, inputs: str) -> None:
    check(backend, name, inputs, LENGTHS[name][inputs] + 1, brief=True, start=False)


@pytest.mark.thinned(0.1)
@pytest.mark.parametrize("backend", EAGER, ids=str)
@pytest.mark.parametrize("output", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize(("name", "inputs"), [pair for pair in COMBINATIONS if pair[0] != "int32"])
def test_one_rounding_to_the_output(backend: Executor, name: str, inputs: str, output: str) -> None:
    check(backend, name, inputs, LENGTHS[name][inputs] + 1, brief=True, output=output)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("name", LENGTHS)
def test_nothing_to_add(backend: Executor, name: str) -> None:
    """k = 0: c, or +0."""
    inputs = next(iter(LENGTHS[name]))
    kind = np.int8 if inputs == "int8" else np.float32
    a, b = np.zeros((2, 0), kind), np.zeros((0, 2), kind)
    c = np.array([[1, -2], [3, 0]], np.int32) if inputs == "int8" else np.float32([[-0.0, -1.5], [2.0**-14, np.inf]])
    assert_same_bits(backend.call(with_start, a, b, c, accumulator=name, inputs=inputs), c)
    assert_same_bits(backend.call(pr.matmul, a, b, accumulator=name, inputs=inputs), np.zeros_like(c))


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 40])
def test_any_number_of_runs(parts: int, backend: Executor) -> None:
    name = f"fp32_split{parts}"
    _, batch = cases("fp32_sequential", "fp16", 33, True)
    expected = [accumulator_oracle.matmul(a, b, name, "fp16", c) for a, b, c in zip(*batch, strict=True)]
    assert_same_bits(run(backend, batch, accumulator=name, inputs="fp16"), np.stack(expected))


@pytest.mark.thinned(0.12)
@pytest.mark.parametrize(("backend", "name", "inputs"), COUNTED, ids=str)
def test_events(backend: Executor, name: str, inputs: str) -> None:
    k = longest(name, inputs)
    _, batch, expected, counts = solved(name, inputs, k)
    a, b, c = (backend.array(floats(x)) for x in batch)
    result, counters = pr.matmul(a, b, c=c, accumulator=name, inputs=inputs, counters=True, backend=backend.name)
    assert_same_bits(np.asarray(result), expected)
    assert {event: int(getattr(counters, event)) for event in counts} == counts


@pytest.mark.parametrize("backend", EAGER, ids=str)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_events_of_the_last_rounding(backend: Executor, name: str) -> None:
    _, batch, expected, counts = solved(name, "fp16", 9, True, output="bf16")
    a, b, c = (backend.array(floats(x)) for x in batch)
    result, counters = pr.matmul(a, b, c=c, accumulator=name, output="bf16", counters=True, backend=backend.name)
    assert_same_bits(np.asarray(result), expected)
    assert {event: int(getattr(counters, event)) for event in counts} == counts
