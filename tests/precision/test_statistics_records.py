"""``Statistics`` as a record: its fields, sums, ratios and JSON; what is refused; what a training step uses."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from event_oracle import recount, telling_patterns
from executors import Executor
from hypothesis import given
from hypothesis import strategies as st
from strategies import drawn, generator, without_nan

import precision as pr
from precision.backends import get_backend
from precision.backends.jax_.counting import by_products, by_scattering
from precision.significands import COLUMNS
from precision.statistics import COUNTERS, EXPONENT_BINS, LOWEST_EXPONENT

X = telling_patterns("fp16", 80)[:330].reshape(2, -1).view(np.float32)
EAGER = ("numpy", "numba")


def counters(words: np.ndarray, name: str) -> dict[str, int]:
    told = recount(words, name)
    return {counter: told.counts[counter] for counter in COUNTERS}


# Fields


@pytest.mark.parametrize("backend", [*EAGER, "jax"])
def test_types(backend: str) -> None:
    found = pr.statistics(jnp.asarray(X) if backend == "jax" else X, "fp16", backend=backend)
    assert all(type(getattr(found, name)) is int for name in ("count", "compared", *COUNTERS))
    assert all(type(getattr(found, name)) is float for name in ("largest", "smallest", "signal", "noise"))
    assert found.exponents.dtype == np.int64
    assert found.exponents.shape == (EXPONENT_BINS,)
    assert found.exponents.sum() + found.zero + found.nan + found.infinite == found.count == X.size


def test_narrower_types_are_widened() -> None:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        x = X.astype(ml_dtypes.bfloat16)
    assert pr.statistics(x, "e4m3fn") == pr.statistics(x.astype(np.float32), "e4m3fn", backend="numba")
    assert pr.statistics(jnp.asarray(x), "e4m3fn") == pr.statistics(x, "e4m3fn")
    assert pr.statistics([1, 2.5, 2.0**100], "fp16").overflowed == 1


def test_on_jax_with_64_bit_types() -> None:
    plain = pr.statistics(X, "fp16", backend="numpy")
    with jax.enable_x64(True):
        found = pr.statistics(jnp.asarray(X), "fp16")
    assert found == plain
    assert np.array_equal(found.exponents, plain.exponents)


def test_unsigned_formats_end_at_zero() -> None:
    """Negative values are beyond that end; in E8M0, which has no zero, the smallest of them, too."""
    x = np.float32([0, -0.0, -1, -(2.0**-149), 1, np.inf, -np.inf])
    kept, saturated = (pr.statistics(x, "binary8p3ue", overflow=rule) for rule in ("ieee", "saturate"))
    assert (kept.overflowed, kept.saturated, kept.underflowed, kept.compared) == (1, 0, 1, 4)
    assert (saturated.overflowed, saturated.saturated, saturated.underflowed) == (1, 3, 3)
    scales = pr.statistics(x, "e8m0")
    assert (scales.overflowed, scales.saturated, scales.underflowed, scales.compared) == (2, 0, 0, 1)


def test_integers_saturate_beyond_their_ends_and_have_no_subnormals() -> None:
    x = np.float32([-128.5, -128.6, 127.49, 127.5, -129, 300, 0.5, -0.5, 0.51, np.inf])
    found = pr.statistics(x, "int8")
    assert (found.overflowed, found.saturated, found.underflowed, found.became_subnormal) == (4, 5, 2, 0)


# Ratios


@pytest.mark.parametrize("backend", [*EAGER, "jax"])
@pytest.mark.parametrize("name", ["fp16", "e4m3fn", "int8"])
def test_noise_in_float64(backend: str, name: str) -> None:
    """Within the relative error of 10,000 float64 additions."""
    x = drawn(generator(5), 10_000, (100, 132)).view(np.float32)
    y = pr.round_to(x, name, backend="numpy")
    found = pr.statistics(jnp.asarray(x) if backend == "jax" else x, name, backend=backend)
    kept = np.isfinite(y)
    before, error = x[kept].astype(np.float64), y[kept].astype(np.float64) - x[kept].astype(np.float64)
    assert found.compared == np.count_nonzero(kept)
    assert found.rmse == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-11)
    assert found.sqnr == pytest.approx(10 * np.log10(np.sum(before**2) / np.sum(error**2)), abs=1e-10)


def test_ratios_where_a_sum_is_zero() -> None:
    exact, lost, nothing = (pr.statistics(np.float32(x), "fp16") for x in ([1, 2], [1e-30], [np.nan]))
    assert (exact.sqnr, exact.rmse) == (math.inf, 0.0)
    assert lost.sqnr == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(nothing.sqnr)
    assert math.isnan(nothing.rmse)
    assert pr.statistics(np.float32([0.0]), "fp16").rmse == 0.0


# Sums


@pytest.mark.parametrize("backend", EAGER)
def test_sum_is_the_count_of_both(backend: str) -> None:
    whole = pr.statistics(X, "bf16", backend=backend)
    first, second = (pr.statistics(x, "bf16", backend=backend) for x in X)
    assert first + second == second + first == whole
    assert np.array_equal((first + second).exponents, whole.exponents)
    assert (first + second).signal == pytest.approx(whole.signal, rel=X.size * 2.0**-52)
    assert (first + second).noise == pytest.approx(whole.noise, rel=X.size * 2.0**-52)


def test_nothing_is_neutral() -> None:
    some, none = (pr.statistics(x, "fp16") for x in (np.float32([3, -0.25]), np.float32([])))
    assert (none.largest, none.smallest) == (0.0, 0.0)
    assert some + none == none + some == some
    assert ((some + none).largest, (some + none).smallest) == (3.0, 0.25)


def test_sums_of_unlike_formats_are_refused() -> None:
    x = np.float32([1])
    message = "statistics of fp16 and of bf16 do not add; keep them apart"
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}\Z"):
        pr.statistics(x, "fp16") + pr.statistics(x, "bf16")


# JSON


def test_json() -> None:
    x = np.float32([0, 1, 1.5, -3, 1e-30, 1e30, np.inf, np.nan, 2.0**-149, 2.0**-20])
    record = pr.statistics(x, "fp16").as_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    kept = [Fraction(v) for v in (0, 1, 1.5, -3, float(x[4]), 2.0**-149, 2.0**-20)]
    assert record.pop("signal") == pytest.approx(float(sum(v * v for v in kept)), rel=2.0**-50)
    assert record.pop("noise") == pytest.approx(float(x[4]) ** 2, rel=2.0**-50)
    assert record == {
        "format": "fp16",
        "count": 10,
        "zero": 1,
        "nan": 1,
        "infinite": 1,
        "subnormal": 1,
        "became_subnormal": 1,
        "underflowed": 2,
        "overflowed": 1,
        "saturated": 0,
        "inexact": 3,
        "compared": 7,
        "largest": float(np.float32(1e30)),
        "smallest": 2.0**-149,
        "exponents": {"-149": 1, "-100": 1, "-20": 1, "0": 2, "1": 1, "99": 1},
        "significands": {
            "-149": [1],
            "-100": [0, 0, 1],
            "-20": [1],
            "0": [1, 0, 0, 1],
            "1": [0, 0, 0, 1],
            "99": [0, 0, 0, 1],
        },
    }


@pytest.mark.parametrize("name", ["fp16", "bf16", "int8"])
def test_json_is_read_back(name: str) -> None:
    x = without_nan(telling_patterns(name)).view(np.float32)
    first, second = pr.statistics(x, name), pr.statistics(x[:7], name)
    for found in (first, first + second):
        read = pr.Statistics.from_json(json.loads(json.dumps(found.as_json())))
        assert read == found
        assert (read.signal, read.noise) == (found.signal, found.noise)
        assert np.array_equal(read.significands, found.significands)


def test_json_keeps_the_extremes_where_all_overflowed_and_leaves_out_what_was_not_measured() -> None:
    assert pr.statistics(np.float32([1e30]), "fp16").as_json()["largest"] == float(np.float32(1e30))
    assert "largest" not in pr.statistics(np.float32([np.nan]), "fp16").as_json()
    counted = pr.Statistics.from_counts(pr.FP16, 0, np.zeros(len(COUNTERS)), np.zeros((EXPONENT_BINS, COLUMNS)))
    assert set(counted.as_json()) == {"format", "count", *COUNTERS, "exponents", "significands"}


# Refusals


def refuses(error: type[Exception], *parts: str) -> Any:
    """One sentence that names these; JAX may append a line about its own frames."""
    lookahead = "".join(rf"(?=[^\n]*{re.escape(part)})" for part in parts)
    return pytest.raises(error, match=rf"^{lookahead}[^\n]*(\Z|\n-+\nFor simplicity)")


@pytest.mark.parametrize("function", [pr.statistics, pr.round_with_statistics])
def test_traced_arrays(function: Any) -> None:
    with refuses(TypeError, "traced", "outside jit"):
        jax.jit(lambda x: function(x, "fp16"))(X)


@pytest.mark.parametrize("backend", [*EAGER, "jax"])
def test_wrong_arguments(backend: str) -> None:
    x = np.float32([1, np.nan])
    with refuses(TypeError, "float64", "float32"):
        pr.statistics(np.ones(3), "fp16", backend=backend)
    with refuses(ValueError, "int8", "NaN"):
        pr.statistics(x, "int8", backend=backend)
    with refuses(ValueError, "stochastic", "key"):
        pr.statistics(x, "fp16", rounding="stochastic", backend=backend)
    with refuses(ValueError, "e4m3fn", "infinity"):
        pr.statistics(x, "e4m3fn", overflow="inf", backend=backend)


def test_wrong_out() -> None:
    with refuses(ValueError, "out must be float32 of shape (2,)", "(3,)"):
        pr.round_with_statistics(np.float32([1, 2]), "fp16", out=np.empty(3, np.float32))
    with refuses(TypeError, "out=", "NumPy"):
        pr.round_with_statistics(jnp.ones(2), "fp16", out=np.empty(2, np.float32))


# What a step uses: of values that were rounded to nearest


def counted(x: Any, *, fmt: str, backend: str) -> Any:
    """The back end's own arrays, which a trace can return."""
    module = get_backend(backend)
    return module.statistics(x, module.round_to(x, pr.FORMATS[fmt]), pr.FORMATS[fmt])


@pytest.mark.parametrize("fmt", ["fp32", "tf32", "fp16", "bf16", "e5m2", "e4m3fn", "int8"])
def test_recount(backend: Executor, fmt: str) -> None:
    words = telling_patterns(fmt, 30)
    counts, significands = backend.call(counted, words.view(np.float32), fmt=fmt)
    exponents = significands.sum(axis=1)
    assert dict(zip(COUNTERS, counts.tolist(), strict=True)) == counters(words, fmt)
    found = {int(i) + LOWEST_EXPONENT: int(exponents[i]) for i in np.flatnonzero(exponents)}
    assert found == dict(recount(words, fmt).exponents)


@pytest.mark.parametrize("shape", [(0,), (), (3, 0), (2, 2, 2)])
def test_shapes(backend: Executor, shape: tuple[int, ...]) -> None:
    counts, exponents = backend.call(counted, np.full(shape, 1e-8, np.float32), fmt="fp16")
    size = math.prod(shape)
    expected = dict.fromkeys(COUNTERS, 0) | {"underflowed": size, "inexact": size}
    assert dict(zip(COUNTERS, counts.tolist(), strict=True)) == expected
    assert exponents.sum() == size


def test_several_arrays_are_counted_together(backend: Executor) -> None:
    """``observe``, ``join`` and ``count``, equal to ``statistics`` of each array."""
    module = backend.module
    formats = {"a": pr.FP16, "b": pr.BF16, "c": pr.FP16}
    arrays = {"a": X[0], "b": X[1], "c": X[1, :100]}

    def step(arrays: dict) -> dict:
        rounded = {name: module.round_to(v, formats[name]) for name, v in arrays.items()}
        seen = {name: module.observe(v, rounded[name], formats[name]) for name, v in arrays.items()}
        seen["a"] = module.join(seen["a"], seen["a"])
        return module.count(seen, formats)

    found = (jax.jit(step) if backend.name == "jax" else step)(arrays)
    for name, x in arrays.items():
        times = 2 if name == "a" else 1
        told = recount(x.view(np.uint32), formats[name].name)
        seen = pr.Statistics.from_counts(formats[name], *found[name])
        assert seen.count == times * x.size
        assert {c: getattr(seen, c) for c in COUNTERS} == {c: times * told.counts[c] for c in COUNTERS}
        assert int(seen.exponents.sum()) == times * sum(told.exponents.values())


def test_counts_on_jax_add_up_beyond_32_bits() -> None:
    """64 values joined with themselves 2^30 times, and digits carried as Python's integers say."""
    x = np.float32([0, 1e-8, 3e-6, 70000, 1 / 3, -1, np.inf, np.nan] * 8)
    module = get_backend("jax")

    @jax.jit
    def step(x: Any) -> Any:
        seen = module.observe(x, module.round_to(x, pr.FP16), pr.FP16)
        for _ in range(30):
            seen = module.join(seen, seen)
        return module.count({"x": seen}, {"x": pr.FP16})["x"]

    found = pr.Statistics.from_counts(pr.FP16, *step(x))
    told = recount(x.view(np.uint32), "fp16")
    assert found.count == 64 << 30
    assert [getattr(found, name) for name in COUNTERS] == [told.counts[name] << 30 for name in COUNTERS]
    assert found.exponents.tolist() == [told.exponents.get(i - 149, 0) << 30 for i in range(EXPONENT_BINS)]


@given(st.lists(st.integers(0, (1 << 31) - 1), min_size=2, max_size=8))
def test_carried_digits_are_the_same_number(counts: list[int]) -> None:
    module = get_backend("jax")
    total = jnp.zeros(2, jnp.int32)
    for count in counts:
        total = module.carried(total + module.addable(jnp.int32(count)), 0)
    low, high = map(int, total)
    assert low + (high << 16) == sum(counts)
    assert low < 1 << 16


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("shape", [(0,), (), (7,), (1 << 16,), (100_001,), (3, 300, 130), (5, 70_001), (4, 0)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_tables_by_products_are_those_by_scattering(shape: tuple[int, ...], dtype: Any) -> None:
    """What a TPU computes; of patterns of all kinds, in whole blocks and in others."""
    words = generator(7).integers(0, 1 << 32, shape, np.uint32)
    x = jax.lax.bitcast_convert_type(jnp.asarray(words), jnp.float32).astype(dtype)
    found = by_products(x)
    assert np.array_equal(found, by_scattering(x))
    assert np.array_equal(found, pr.statistics(np.asarray(x, np.float32), "fp32", backend="numpy").significands)


def test_join_all_is_joining_in_turn(backend: Executor) -> None:
    """Of observations, and of stacks of them as of layers in parts of a batch."""
    module, arrays = backend.module, np.resize(telling_patterns("fp16", 8).view(np.float32), (3, 2, 50))

    def step(arrays: Any) -> Any:
        def seen(carry: Any, x: Any) -> Any:
            return carry, module.observe(x["x"], module.round_to(x["x"], pr.FP16), pr.FP16)

        stacked = module.scan(lambda c, x: (c, module.scan(seen, (), x)[1]), (), {"x": arrays})[1]
        apart = [tuple(part[i] for part in stacked) for i in range(3)]
        both = {"all": module.join_all(stacked), "turns": module.join(module.join(*apart[:2]), apart[2])}
        return module.count(both, dict.fromkeys(both, pr.FP16))

    found = jax.device_get((jax.jit(step) if backend.name == "jax" else step)(arrays))
    for layer in range(2):
        of_all, in_turn = (
            pr.Statistics.from_counts(pr.FP16, *(part[layer] for part in found[name])) for name in ("all", "turns")
        )
        told = pr.statistics(np.ascontiguousarray(arrays[:, layer]), "fp16", backend="numpy")
        assert of_all == in_turn
        assert of_all.count == 150
        assert np.array_equal(of_all.significands, in_turn.significands)
        assert np.array_equal(of_all.significands, told.significands)
        assert [getattr(of_all, name) for name in COUNTERS] == [getattr(told, name) for name in COUNTERS]
