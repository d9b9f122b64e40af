"""Counters and exponent histograms: equal to a plain recount in Python, on every back end."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from executors import Executor
from hypothesis import given
from hypothesis import strategies as st
from strategies import EDGES, drawn, generator, patterns, sprinkled

import precision as pr
from precision.backends import get_backend
from precision.statistics import COUNTERS, EXPONENT_BINS, LOWEST_EXPONENT

FORMATS = ("fp32", "tf32", "fp16", "bf16", "e5m2", "int8")


def largest_magnitude(fmt: str, negative: bool) -> float:
    if fmt in oracles.INTEGERS:
        return float(abs(oracles.INTEGERS[fmt][0 if negative else 1]))
    layout = oracles.FLOATS[fmt]
    return (2 - 2.0 ** (1 - layout.p)) * 2.0**layout.emax


def beyond(value: float, fmt: str) -> bool:
    """Whether a finite value, rounded as if there were no largest one, is beyond the largest."""
    x = oracles.real(value)
    if fmt in oracles.INTEGERS:
        return abs(round(x.value)) > largest_magnitude(fmt, x.negative)
    return oracles.rounded(x, fmt).is_infinite


def recount(words: np.ndarray, fmt: str) -> tuple[dict[str, int], dict[int, int]]:
    """Counters and histogram, one value at a time."""
    counts = dict.fromkeys(COUNTERS, 0)
    exponents: dict[int, int] = {}
    for value in words.view(np.float32).ravel().tolist():
        if math.isnan(value):
            counts["nan"] += 1
            continue
        result = oracles.rounded(
            oracles.Real(value < 0, abs(value)) if math.isinf(value) else oracles.real(value), fmt
        )
        counts["zero"] += value == 0
        counts["infinite"] += math.isinf(value)
        counts["inexact"] += abs(value) != result.magnitude
        counts["underflowed"] += value != 0 and result.magnitude == 0
        counts["overflowed"] += not math.isinf(value) and beyond(value, fmt)
        if fmt not in oracles.INTEGERS:
            counts["subnormal"] += 0 < result.magnitude < oracles.power(oracles.FLOATS[fmt].emin)
        if value != 0 and not math.isinf(value):
            exponent = math.frexp(value)[1] - 1
            exponents[exponent] = exponents.get(exponent, 0) + 1
    return counts, exponents


def values() -> np.ndarray:
    rng = generator(61)
    ranges = ((0, 255), (100, 146), (0, 3), (0, 0), (120, 136))
    parts = [EDGES, *(drawn(rng, 200, exponents) for exponents in ranges)]
    parts.append(sprinkled(rng, drawn(rng, 200, (100, 140)), 0.3))
    return np.concatenate(parts)[:1280].reshape(2, -1)


def counted(x: Any, *, fmt: str, backend: str) -> Any:
    """The back end's own arrays, which a trace can return."""
    module = get_backend(backend)
    return module.statistics(x, module.round_to(x, pr.FORMATS[fmt]), pr.FORMATS[fmt])


@pytest.mark.parametrize("fmt", FORMATS)
def test_recount(backend: Executor, fmt: str) -> None:
    words = values()
    counts, exponents = backend.call(counted, words.view(np.float32), fmt=fmt)
    expected_counts, expected_exponents = recount(words, fmt)
    assert dict(zip(COUNTERS, counts.tolist(), strict=True)) == expected_counts
    found = {i + LOWEST_EXPONENT: int(n) for i, n in enumerate(exponents) if n}
    assert found == dict(sorted(expected_exponents.items()))
    assert exponents.shape == (EXPONENT_BINS,)
    assert sum(expected_counts[name] for name in ("zero", "nan", "infinite")) + exponents.sum() == words.size


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_record(name: str) -> None:
    words = values()
    found = pr.statistics(words.view(np.float32), "fp16", backend=name)
    counts, exponents = recount(words, "fp16")
    assert (found.format, found.count) == ("fp16", words.size)
    assert {counter: getattr(found, counter) for counter in COUNTERS} == counts
    assert all(type(getattr(found, counter)) is int for counter in ("count", *COUNTERS))
    assert found.exponents.dtype == np.int64
    assert found.exponents.sum() == sum(exponents.values())


def test_record_from_a_jax_array() -> None:
    words = values()
    found = pr.statistics(jnp.asarray(words.view(np.float32)), "fp16")
    plain = pr.statistics(words.view(np.float32), "fp16", backend="numpy")
    assert found == plain
    assert np.array_equal(found.exponents, plain.exponents)


@pytest.mark.parametrize("fmt", FORMATS)
@given(words=st.lists(patterns, min_size=1, max_size=12))
def test_any_patterns(fmt: str, words: list[int]) -> None:
    x = np.array(words, np.uint32)
    for name in ("numpy", "numba"):
        found = pr.statistics(x.view(np.float32), fmt, backend=name)
        counts, exponents = recount(x, fmt)
        assert {counter: getattr(found, counter) for counter in COUNTERS} == counts
        assert found.as_json()["exponents"] == {str(e): n for e, n in sorted(exponents.items())}


def test_sum_is_the_count_of_both(backend: Executor) -> None:
    if backend.name == "jax":
        pytest.skip("records hold NumPy arrays on every back end")
    x = values().view(np.float32)
    whole = pr.statistics(x, "bf16", backend=backend.name)
    parts = pr.statistics(x[0], "bf16", backend=backend.name) + pr.statistics(x[1], "bf16", backend=backend.name)
    assert parts == whole
    assert np.array_equal(parts.exponents, whole.exponents)


def test_sums_of_unlike_formats_are_refused() -> None:
    x = np.float32([1])
    message = "statistics of fp16 and of bf16 do not add; keep them apart"
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}\Z"):
        pr.statistics(x, "fp16") + pr.statistics(x, "bf16")


def test_json() -> None:
    x = np.float32([0, 1, 1.5, -3, 1e-30, 1e30, np.inf, np.nan, 2.0**-149, 2.0**-20])
    record = pr.statistics(x, "fp16").as_json()
    assert json.loads(json.dumps(record)) == record
    assert record == {
        "format": "fp16",
        "count": 10,
        "zero": 1,
        "nan": 1,
        "infinite": 1,
        "subnormal": 1,
        "underflowed": 2,
        "overflowed": 1,
        "inexact": 3,
        "exponents": {"-149": 1, "-100": 1, "-20": 1, "0": 2, "1": 1, "99": 1},
    }


@pytest.mark.parametrize("shape", [(0,), (), (3, 0), (2, 2, 2)])
def test_shapes(backend: Executor, shape: tuple[int, ...]) -> None:
    counts, exponents = backend.call(counted, np.full(shape, 1e-8, np.float32), fmt="fp16")
    size = math.prod(shape)
    assert dict(zip(COUNTERS, counts.tolist(), strict=True)) == dict.fromkeys(COUNTERS, 0) | {
        "underflowed": size,
        "inexact": size,
    }
    assert exponents.sum() == size


def test_integer_formats_saturate_beyond_their_ends() -> None:
    x = np.float32([-128.5, -128.6, 127.49, 127.5, -129, 300, 0.5, -0.5, 0.51])
    found = pr.statistics(x, "int8")
    assert (found.overflowed, found.underflowed, found.subnormal) == (4, 2, 0)


def test_several_arrays_are_counted_together(backend: Executor) -> None:
    """``observe``, ``join`` and ``count``: what a step uses, equal to ``statistics`` of each array."""
    module = backend.module
    formats = {"a": pr.FP16, "b": pr.BF16, "c": pr.FP16}
    x = values().view(np.float32)
    arrays = {"a": x[0], "b": x[1], "c": x[1, :100]}

    def step(arrays: dict) -> dict:
        rounded = {name: module.round_to(v, formats[name]) for name, v in arrays.items()}
        seen = {name: module.observe(v, rounded[name], formats[name]) for name, v in arrays.items()}
        seen["a"] = module.join(seen["a"], seen["a"])
        return module.count(seen, formats)

    found = (jax.jit(step) if backend.name == "jax" else step)(arrays)
    for name, x in arrays.items():
        times = 2 if name == "a" else 1
        counts, exponents = recount(x.view(np.uint32), formats[name].name)
        size, found_counts, found_exponents = found[name]
        assert int(size) == times * x.size
        assert np.asarray(found_counts).tolist() == [times * counts[counter] for counter in COUNTERS]
        assert int(np.asarray(found_exponents).sum()) == times * sum(exponents.values())
