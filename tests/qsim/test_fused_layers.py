"""Whole layers as single kernels against the composed steps on NumPy: the same bits, of every kind of value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import LAYERS, Inputs, assert_same_results, inputs

from precision.backends import get_backend
from qsim.policy import Arithmetic, parse_policy
from qsim.recorders import Recorder
from qsim.sites import Calculator

POLICIES = ("fp32", "bf16", "fp16")
# rows by columns: one of either, odd ones, more than a thread's part, powers of two
SHAPES = ((6, 1), (6, 5), (18, 7), (24, 128), (36, 130), (12, 64))
by_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def check(layer: Callable, ar: Calculator, x: Inputs) -> None:
    assert_same_results(layer, layer(ar, x), layer(Calculator(ar.policy, "numpy"), x))


@pytest.mark.thinned(0.12)
@by_layer
@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=20)
@given(seed=st.integers(0, 1 << 32), shape=st.sampled_from(SHAPES))
def test_numba(layer: Callable, policy: str, seed: int, shape: tuple[int, int]) -> None:
    with np.errstate(all="ignore"):
        check(layer, Calculator(parse_policy(policy), "numba"), inputs(seed, *shape))


@pytest.mark.thinned(0.12)
@by_layer
@pytest.mark.parametrize("policy", POLICIES)
def test_threads(layer: Callable, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled for threads, at sizes that several of them share."""
    for one in get_backend("numba").layers.LAYERS.values():
        monkeypatch.setattr(one.kernel, "PARALLEL_FROM", 0)
    for seed in range(9):
        check(layer, Calculator(parse_policy(policy), "numba"), inputs(seed, *((6, 5), (18, 7), (36, 130))[seed % 3]))


def flushing(policy: Arithmetic) -> Arithmetic:
    """Outputs rounded in a way of which kernels know nothing."""
    rows = tuple((site, way, replace(row, subnormals="flush")) for site, way, row in policy.sites)
    return replace(policy, sites=rows)


@by_layer
def test_a_rounding_that_kernels_do_not_know(layer: Callable) -> None:
    ar = Calculator(flushing(parse_policy("fp16")), "numba")
    for seed in range(5):
        check(layer, ar, inputs(seed, 18, 7))


@by_layer
def test_what_is_recorded_is_the_same(layer: Callable) -> None:
    x = inputs(1, 18, 7)
    records = []
    for backend in ("numpy", "numba"):
        ar = Calculator(parse_policy("bf16"), backend, Recorder())
        layer(ar, x)
        records.append(ar.recorder.results(ar.backend))  # type: ignore[union-attr]
    assert records[0].keys() == records[1].keys()
    for key, wanted in records[0].items():
        assert all(np.array_equal(a, b) for a, b in zip(records[1][key], wanted, strict=True)), key


def test_an_inner_format_is_composed() -> None:
    ar = Calculator(parse_policy("fp16-pure"), "numba")
    for seed in range(3):
        for layer in LAYERS:
            check(layer, ar, inputs(seed, 18, 7))


def test_numpy_has_no_kernels() -> None:
    names = get_backend("numba").layers.LAYERS
    assert all(get_backend("numpy").fused_layer(name) is None for name in names)
