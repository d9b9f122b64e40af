"""What breaks rounding in XLA, NumPy and ml_dtypes, as facts, each beside what ``round_to`` does.

A fact that stops holding is news: a library has changed, and a guard may have become needless or useless.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bits_assertions import as_bits, assert_same_bits
from executors import EXECUTORS, Executor
from format_oracle import MODES, rounded
from jax import lax
from llvmlite.binding import get_host_cpu_features
from reals import of_float, real, write
from strategies import NANS, drawn, generator
from tracing import differing, normal, on_cpu, traced

import precision as pr

SIZE = 4096
FP16_SUBNORMALS = np.arange(1, 0x400, dtype=np.uint16).view(np.float16).astype(np.float32)
EVERY_4093RD = np.arange(0, 1 << 32, 4093, np.int64).astype(np.uint32)
KEY = (0xC0AC29B7, 0xC97C50DD)


def options(mode: str) -> dict[str, Any]:
    return {"rounding": mode} | ({"key": KEY} if mode == "stochastic" else {})


# Casts


@on_cpu
def test_reduce_precision_is_not_fp16() -> None:
    assert np.count_nonzero(traced(lambda x: lax.reduce_precision(x, 5, 10), FP16_SUBNORMALS)) == 0


@on_cpu
def test_reduce_precision_is_wrong_where_fp16_has_subnormals_and_nowhere_else() -> None:
    numbers = EVERY_4093RD[(EVERY_4093RD & 0x7FFFFFFF) <= 0x7F800000]
    reduced = traced(lambda x: lax.reduce_precision(x, 5, 10), numbers.view(np.float32))
    wrong = as_bits(reduced) != as_bits(pr.round_to(numbers.view(np.float32), "fp16"))
    assert np.count_nonzero(wrong) > len(numbers) // 25
    assert np.abs(numbers.view(np.float32)[wrong]).max() < 2.0**-14


def test_round_to_keeps_the_subnormals_of_fp16(backend: Executor) -> None:
    assert_same_bits(backend.call(pr.round_to, FP16_SUBNORMALS, fmt="fp16"), FP16_SUBNORMALS)


@on_cpu
@pytest.mark.parametrize(("fmt", "dtype"), [("fp16", jnp.float16), ("bf16", jnp.bfloat16)])
def test_casts_there_and_back_survive_on_a_cpu(fmt: str, dtype: Any) -> None:
    """XLA for GPUs removes them under jit, so they are an oracle here and the implementation nowhere."""
    words = drawn(generator(4), SIZE, (1, 254))
    cast = traced(lambda x: x.astype(dtype).astype(jnp.float32), words.view(np.float32))
    assert_same_bits(cast, pr.round_to(words.view(np.float32), fmt), words)
    assert differing(cast, words.view(np.float32)) > 0


def test_rounding_survives_jit(backend: Executor) -> None:
    x = normal(1, SIZE)
    rounded = backend.call(pr.round_to, x, fmt="bf16")
    assert_same_bits(rounded, x.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert differing(rounded, x) > SIZE // 2


# NaN


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_casts_keep_the_sign_of_a_nan_and_some_its_payload(dtype: Any) -> None:
    negative = NANS | np.uint32(1 << 31)
    with np.errstate(invalid="ignore"):
        cast = as_bits(negative.view(np.float32).astype(dtype).astype(np.float32))
    assert (cast >= 0xFF800001).all()
    assert (len(np.unique(cast)) > 1) == (dtype is np.float16)


@pytest.mark.parametrize("fmt", ["fp32", "fp16", "bf16", "e4m3fn", "e4m3fnuz", "e8m0", "binary8p3se"])
def test_every_nan_is_the_canonical_one(backend: Executor, fmt: str) -> None:
    words = np.concatenate([NANS, NANS | np.uint32(1 << 31)])
    assert_same_bits(backend.call(pr.round_to, words.view(np.float32), fmt=fmt), np.full(10, 0x7FC00000, np.uint32))


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [("e3m2", ml_dtypes.float6_e3m2fn), ("e2m3", ml_dtypes.float6_e2m3fn), ("e2m1", ml_dtypes.float4_e2m1fn)],
)
def test_where_every_code_is_a_number_a_nan_becomes_minus_zero(backend: Executor, fmt: str, dtype: Any) -> None:
    nan = np.float32([np.nan])
    assert_same_bits(backend.call(pr.round_to, nan, fmt=fmt), np.float32([-0.0]))
    assert_same_bits(nan.astype(dtype).astype(np.float32), np.float32([-0.0]))


# Float64 sources


def above_a_tie(fmt: str) -> float:
    """1, half a quantum and 2^-40: rounded to float32 on the way it is a tie, which goes to 1."""
    return 1 + pr.FORMATS[fmt].epsilon / 2 + 2.0**-40


def exactly(x: float, fmt: str) -> np.ndarray:
    return np.array([write(rounded(real(Fraction(x)), fmt))], np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        ("bf16", ml_dtypes.bfloat16),
        ("e5m2", ml_dtypes.float8_e5m2),
        ("e4m3fn", ml_dtypes.float8_e4m3fn),
        ("e2m1", ml_dtypes.float4_e2m1fn),
    ],
)
def test_ml_dtypes_rounds_float64_twice_and_round_to_does_not(fmt: str, dtype: Any) -> None:
    x = np.array([above_a_tie(fmt)])
    wanted = exactly(x[0], fmt)
    assert x.astype(dtype).astype(np.float32) == 1.0
    assert wanted == 1 + pr.FORMATS[fmt].epsilon
    for backend in EXECUTORS[:2]:
        assert_same_bits(backend.call(pr.round_to, x, fmt=fmt), wanted)


def test_bf16_of_the_known_number() -> None:
    assert pr.round_to(1 + 2.0**-8 + 2.0**-40, "bf16") == 1.0078125


def test_numpy_rounds_float64_to_float16_once() -> None:
    x = np.array([above_a_tie("fp16")])
    assert_same_bits(x.astype(np.float16).astype(np.float32), exactly(x[0], "fp16"))


@on_cpu
@pytest.mark.parametrize(("fmt", "dtype"), [("bf16", jnp.bfloat16), ("fp16", jnp.float16)])
def test_xla_rounds_float64_twice_and_round_to_does_not(fmt: str, dtype: Any) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(np.array([above_a_tie(fmt)]))
        # but for fp16 where the processor has an instruction that does it at once
        at_once = fmt == "fp16" and get_host_cpu_features().get("avx512fp16", False)
        seen = traced(lambda x: x.astype(dtype).astype(jnp.float32), x)
        assert seen == (exactly(above_a_tie(fmt), fmt) if at_once else 1.0)
        assert_same_bits(traced(lambda x: pr.round_to(x, fmt), x), exactly(above_a_tie(fmt), fmt))


def test_without_64_bit_types_jax_narrows_without_a_word() -> None:
    assert jnp.asarray(np.array([1 + 2.0**-40])) == np.float32(1)
    assert jnp.asarray(np.array([1 + 2.0**-40])).dtype == np.float32
    assert jnp.asarray(np.array([1 << 40], np.uint64)) == 0


@pytest.mark.parametrize("function", [pr.round_to, pr.encode])
def test_without_64_bit_types_float64_on_jax_is_refused(function: Any) -> None:
    x = np.array([above_a_tie("bf16")])
    message = r"^float64 on JAX needs 64-bit types; set jax_enable_x64, or pass NumPy arrays, or float32 values\Z"
    with pytest.raises(TypeError, match=message):
        function(x, "bf16", backend="jax")


def test_what_jit_narrows_no_function_sees() -> None:
    """The one way past that refusal: an argument of ``jax.jit`` is float32 before anything can look at it."""
    dtypes = []
    jax.jit(lambda x: dtypes.append(x.dtype))(np.array([above_a_tie("bf16")]))
    assert dtypes == [np.dtype(np.float32)]


# Two roundings

BESIDE_A_VALUE = 2.0**15 + 2.0**-24  # a sum of two fp16 values, exact in float64; 2^15 in float32


def test_rounding_through_float32_is_right_to_nearest_and_wrong_in_other_modes() -> None:
    """p >= 2 q + 2 holds in the nearest modes alone."""
    codes = generator(20).integers(0, 0x7C00, (2, 50_000)).astype(np.uint16)
    x, y = codes.view(np.float16).astype(np.float64)
    exact, narrow = x + y, (x + y).astype(np.float32)
    wrong = {m: differing(pr.round_to(exact, "fp16", rounding=m), pr.round_to(narrow, "fp16", rounding=m))
             for m in ("nearest_even", "nearest_away", "up", "to_odd")}  # fmt: skip
    assert wrong["nearest_even"] == wrong["nearest_away"] == 0
    assert wrong["up"] > 1000
    assert wrong["to_odd"] > 500


@pytest.mark.parametrize("mode", MODES[:-1])
def test_rounding_to_odd_on_the_way_loses_nothing(mode: str) -> None:
    codes = generator(20).integers(0, 0x7C00, (2, 50_000)).astype(np.uint16)
    x, y = codes.view(np.float16).astype(np.float64)
    odd = pr.round_to(x - y, "fp32", rounding="to_odd")
    assert_same_bits(pr.round_to(odd, "fp16", rounding=mode), pr.round_to(x - y, "fp16", rounding=mode))


@pytest.mark.parametrize("executor", EXECUTORS[:2], ids=str)
def test_a_sum_just_above_a_value_goes_up(executor: Executor) -> None:
    def upwards(x, *, backend):
        return pr.round_to(x, "fp16", rounding="up", backend=backend)

    assert executor.call(upwards, np.array([BESIDE_A_VALUE])) == 32800
    assert executor.call(upwards, np.array([BESIDE_A_VALUE], np.float32)) == 32768
    assert 2.0**15 + 2.0**-48 == 2.0**15  # float64 loses this one by itself


# E8M0


def test_ml_dtypes_rounds_ties_of_e8m0_away_from_zero() -> None:
    """Where the significand is one bit, the even code wins: 2^-127 has code 0."""
    ties = np.float32([0.75, 1.5, 3, 6])
    assert_same_bits(ties.astype(ml_dtypes.float8_e8m0fnu).astype(np.float32), np.float32([1, 2, 4, 8]))
    for backend in EXECUTORS:
        assert_same_bits(backend.call(pr.round_to, ties, fmt="e8m0"), np.float32([0.5, 2, 2, 8]))


def test_ml_dtypes_rounds_float32_subnormals_up_in_e8m0() -> None:
    """2^-127 and 1.5 times that, which is nearer to it than to 2^-126; the same without the tie."""
    words = np.array([0x400000, 0x400001, 0x5FFFFF, 0x600000, 0x600001], np.uint32)
    by_ml_dtypes = words.view(np.float32).astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    low, high = 2.0**-127, 2.0**-126
    assert_same_bits(by_ml_dtypes, np.float32([low, high, high, high, high]))
    for backend in EXECUTORS:
        found = backend.call(pr.round_to, words.view(np.float32), fmt="e8m0")
        assert_same_bits(found, np.float32([low, low, low, low, high]))


# Overflow

LARGE = np.float32([1e30, -1e30, np.inf, -np.inf])
INF, NAN = np.inf, np.nan
FP16, E4M3FN, E2M1 = 65504.0, 448.0, 6.0
NEAREST = ("nearest_even", "nearest_away", "stochastic")
CANON = {  # of 1e30, -1e30
    ("fp16", "ieee"): {
        **dict.fromkeys(NEAREST, (INF, -INF)),
        **dict.fromkeys(("toward_zero", "to_odd"), (FP16, -FP16)),
        "up": (INF, -FP16),
        "down": (FP16, -INF),
    },
    ("fp16", "inf"): dict.fromkeys(MODES, (INF, -INF)),
    ("fp16", "saturate"): dict.fromkeys(MODES, (FP16, -FP16)),
    ("e4m3fn", "ieee"): {
        **dict.fromkeys(NEAREST, (NAN, NAN)),
        **dict.fromkeys(("toward_zero", "to_odd"), (E4M3FN, -E4M3FN)),
        "up": (NAN, -E4M3FN),
        "down": (E4M3FN, NAN),
    },
    ("e4m3fn", "saturate"): dict.fromkeys(MODES, (E4M3FN, -E4M3FN)),
    ("e2m1", "ieee"): dict.fromkeys(MODES, (E2M1, -E2M1)),
    ("e2m1", "saturate"): dict.fromkeys(MODES, (E2M1, -E2M1)),
    ("int8", "ieee"): dict.fromkeys(MODES, (127.0, -128.0)),
    ("int8", "saturate"): dict.fromkeys(MODES, (127.0, -128.0)),
}
INFINITE = {  # what infinities become, in every mode
    ("fp16", "ieee"): (INF, -INF),
    ("fp16", "inf"): (INF, -INF),
    ("e4m3fn", "ieee"): (NAN, NAN),
}


@pytest.mark.parametrize(("fmt", "overflow"), CANON)
def test_canon_of_overflow(fmt: str, overflow: str) -> None:
    for mode, finite in CANON[fmt, overflow].items():
        infinite = INFINITE.get((fmt, overflow), finite)
        wanted = np.array([write(of_float(value)) for value in (*finite, *infinite)], np.uint32)
        for backend in EXECUTORS if (fmt, overflow) == ("fp16", "ieee") else EXECUTORS[:2]:
            found = backend.call(pr.round_to, LARGE, fmt=fmt, overflow=overflow, **options(mode))
            assert_same_bits(found, wanted, LARGE)


def test_chance_decides_between_the_largest_value_and_the_next_power(backend: Executor) -> None:
    """Below 2^16 an fp16 may stay at 65504 or become infinite, half of these each; from 2^16 on it cannot stay."""
    halfway, beyond = np.full(4000, 65520, np.float32), np.full(100, 65536, np.float32)
    found = backend.call(pr.round_to, halfway, fmt="fp16", **options("stochastic"))
    assert set(found.tolist()) == {65504.0, INF}
    assert abs(np.count_nonzero(np.isinf(found)) - 2000) < 6 * np.sqrt(1000)  # six standard deviations
    assert np.isinf(backend.call(pr.round_to, beyond, fmt="fp16", **options("stochastic"))).all()
