"""Float64 sources: one rounding, never by way of float32."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor
from format_oracle import INTEGERS, MODES, STANDARDS, overflows, rounded, standard
from format_search import as_codes, encoded, searched
from hypothesis import example, given
from hypothesis import strategies as st
from reals import read_double, write
from strategies import doubles, doubles_near, generator

import precision as pr

EAGER = EXECUTORS[:2]
KEY = (0x082EFA98, 0xEC4E6C89)
WIDE = ("e6m9", "e8m14", "e5m23")
NAN = 0x7FF << 52

# value, format, result to nearest even, result by way of float32
HARD = [
    (1 + 2.0**-8 + 2.0**-40, "bf16", 1.0078125, 1.0),
    (1 + 2.0**-11 + 2.0**-50, "fp16", 1 + 2.0**-10, 1.0),
    (-1 - 2.0**-8 - 2.0**-52, "bf16", -1.0078125, -1.0),
    (1 + 3 * 2.0**-8 - 2.0**-45, "bf16", 1.0078125, 1 + 2.0**-6),
    (65520 - 2.0**-20, "fp16", 65504.0, np.inf),
    (464 + 2.0**-40, "e4m3fn", np.nan, 448.0),
    (2.0**-25 + 2.0**-70, "fp16", 2.0**-24, 0.0),
    (2.0**-150 + 2.0**-200, "fp32", 2.0**-149, 0.0),
    (2.0**128 - 2.0**103 - 2.0**75, "fp32", 2.0**128 - 2.0**104, np.inf),
    (127.5 - 2.0**-44, "int8", 127.0, 127.0),
    (2.5 + 2.0**-50, "int8", 3.0, 2.0),
]


def options(mode: str) -> dict:
    return {"rounding": mode} | ({"key": KEY, "random_bits": 13} if mode == "stochastic" else {})


def by_search(words: np.ndarray, name: str, mode: str, **how: str) -> np.ndarray:
    random = pr.random_bits(KEY, np.arange(len(words)))
    return searched(words.view(np.float64), name, mode, words=random, random_bits=13, **how)


@pytest.mark.parametrize("executor", EAGER, ids=str)
@pytest.mark.parametrize(("x", "name", "once", "twice"), HARD)
def test_hard_cases(executor: Executor, x: float, name: str, once: float, twice: float) -> None:
    found = executor.call(pr.round_to, np.array([x]), fmt=name)
    assert_same_bits(found, np.float32([once]))
    if name != "fp32":
        with np.errstate(over="ignore"):
            assert_same_bits(executor.call(pr.round_to, np.float32([x]), fmt=name), np.float32([twice]))


@pytest.mark.parametrize("executor", EAGER, ids=str)
@pytest.mark.parametrize("name", STANDARDS)
def test_every_mode(executor: Executor, name: str) -> None:
    words = doubles_near("bf16" if name == "fp32" else name, 21, 4000)
    for mode in MODES:
        found = executor.call(pr.round_to, words.view(np.float64), fmt=name, **options(mode))
        assert found.dtype == np.float32
        assert_same_bits(found, by_search(words, name, mode), words.view(np.float64))


@pytest.mark.parametrize("executor", EAGER, ids=str)
@pytest.mark.parametrize("name", ["fp32", "fp16", "e4m3fn", "e2m1", "int4", "e8m0", "binary8p1ue"])
def test_overflow_and_subnormals(executor: Executor, name: str) -> None:
    words = doubles_near("bf16" if name == "fp32" else name, 22, 1000)
    for mode in MODES:
        for overflow in overflows(name):
            how = {"overflow": overflow, "subnormals": "flush"}
            found = executor.call(pr.round_to, words.view(np.float64), fmt=name, **options(mode), **how)
            assert_same_bits(found, by_search(words, name, mode, **how), words.view(np.float64))


@pytest.mark.parametrize("executor", EAGER, ids=str)
@pytest.mark.parametrize("mode", MODES[:-1])
def test_around_float32_values(executor: Executor, mode: str) -> None:
    """fp32 has no table: values beside any float32, its midpoints, its subnormals, 2^-k of an ulp away."""
    rng = generator(23)
    base = rng.integers(0, 0x7F800000, 20000, np.uint32).view(np.float32).astype(np.float64)
    ulp = np.spacing(base.astype(np.float32)).astype(np.float64)
    near = base + ulp * rng.integers(0, 3, 20000) / 2
    near += ulp * rng.integers(-1, 2, 20000) * np.ldexp(1.0, -rng.integers(1, 40, 20000))
    words = near.view(np.uint64) | rng.integers(0, 2, 20000, np.uint64) << np.uint64(63)
    found = executor.call(pr.round_to, words.view(np.float64), fmt="fp32", **options(mode))
    assert_same_bits(found, by_search(words, "fp32", mode), words.view(np.float64))


@given(
    st.sampled_from([*STANDARDS, *WIDE]), st.sampled_from(MODES), st.lists(doubles, min_size=1, max_size=8), st.data()
)
@example("bf16", "up", [1], None)
@example("fp32", "to_odd", [0x36A0000000000001, 0x47EFFFFFE0000001], None)
def test_any_pattern_in_fractions(name: str, mode: str, drawn: list[int], data: st.DataObject | None) -> None:
    near = data.draw(st.integers(-3, 3)) if data else 0
    around = [1023 + standard(name).emin + near << 52 | u & (1 << 52) - 1 for u in drawn]
    words = np.array([u for u in [*drawn, *around] if u & ~(1 << 63) <= NAN or name not in INTEGERS], np.uint64)
    random = pr.random_bits(KEY, np.arange(len(words))).tolist()
    pairs = zip(words.tolist(), random, strict=True)
    exact = [rounded(read_double(u), name, mode, word=word, random_bits=13) for u, word in pairs]
    for executor in EAGER:
        found = executor.call(pr.round_to, words.view(np.float64), fmt=name, **options(mode))
        assert_same_bits(found, np.array([write(x) for x in exact], np.uint32), words.view(np.float64))


@pytest.mark.parametrize("executor", EAGER, ids=str)
@pytest.mark.parametrize("name", ["fp16", "bf16", "e4m3fn", "e2m1", "int4"])
def test_codes(executor: Executor, name: str) -> None:
    words = doubles_near(name, 24, 2000)
    expected = as_codes(encoded(by_search(words, name, "down"), name), name)
    assert_same_bits(executor.call(pr.encode, words.view(np.float64), fmt=name, rounding="down"), expected)


@pytest.mark.parametrize("executor", EAGER, ids=str)
def test_every_shape_and_order(executor: Executor) -> None:
    words = doubles_near("fp16", 25, 3000)[:3000].reshape(60, 50)
    expected = by_search(words.ravel(), "fp16", "up").reshape(60, 50)
    x = words.view(np.float64)
    for view, wanted in ((x, expected), (x.T, expected.T), (x[::-2, 3:9], expected[::-2, 3:9])):
        assert_same_bits(executor.call(pr.round_to, view, fmt="fp16", rounding="up"), np.ascontiguousarray(wanted))
    assert executor.call(pr.round_to, np.float64(0.1), fmt="fp16").shape == ()
    out = np.empty((60, 50), np.float32)
    assert pr.round_to(x, "fp16", rounding="up", out=out, backend=executor.name) is out
    assert_same_bits(out, expected)


def test_jax_refuses_them_where_64_bit_types_are_off() -> None:
    for function in (pr.round_to, pr.encode):
        with pytest.raises((TypeError, ValueError), match=r"^[^\n]*float64[^\n]*\Z"):
            function(np.array([1 / 3]), "fp16", backend="jax")


def test_jax_rounds_them_once_where_64_bit_types_are_on() -> None:
    with jax.enable_x64(True):
        for name, mode in (("fp16", "nearest_even"), ("bf16", "stochastic"), ("fp32", "up"), ("int4", "to_odd")):
            words = doubles_near("bf16" if name == "fp32" else name, 26, 2000)
            found = EXECUTORS[2].call(pr.round_to, words.view(np.float64), fmt=name, **options(mode))
            assert_same_bits(found, by_search(words, name, mode), words.view(np.float64))
        x = jax.numpy.array([1 + 2.0**-8 + 2.0**-40])
        assert x.dtype == np.float64
        assert_same_bits(pr.round_to(x, "bf16"), np.float32([1.0078125]))
