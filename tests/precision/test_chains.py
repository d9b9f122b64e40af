"""Chains of sums in registers: every bit against exact arithmetic, at every edge, and on other processors."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from oracles import Real, exponent_of, flushed, ftz_add, power, product, read, read_all, real, rounded, total, write

pytest.importorskip("numba")
from numba import njit

from precision.backends.numba_ import chains
from precision.backends.numba_.chains import CHAINS, add_flushing, flushing_offered
from precision.backends.numba_.microkernels import FLUSHING, exchange_control

STEPS = ("fp32_fma", "fp32_mul_add", "fp16_fma", "fp16_mul_add", "bf16_fma", "bf16_mul_add")
FRACTION = {"fp32": 23, "tf32": 10, "bf16": 7}
DRAWS = ("bits", "few bits", "low", "far apart", "named")
WORDS = np.zeros(1, np.int64)
FROM_ZERO = np.ones(1, np.int64)
needs_flushing = pytest.mark.skipif(not flushing_offered(), reason="no register that flushes on this processor")
Chain = Callable[[Real, Real, Real], Real]

# The definition, in rational numbers


def _fused(fmt: str) -> Chain:
    return lambda s, a, b: rounded(total(product(a, b), s), fmt)


def _separate(fmt: str) -> Chain:
    return lambda s, a, b: rounded(total(rounded(product(a, b), fmt), s), fmt)


def _flushing(s: Real, a: Real, b: Real) -> Real:
    """Subnormal operands are zero; the result is rounded with unbounded exponent, then flushed."""
    exact = total(product(flushed(a, "fp32"), flushed(b, "fp32")), flushed(s, "fp32"))
    if exact.is_nan or exact.is_infinite or not 0 < exact.magnitude < power(-100):
        return rounded(exact, "fp32")
    up = 100 - exponent_of(exact.magnitude)
    nearest = rounded(real(exact.value * power(up)), "fp32")
    return flushed(Real(nearest.negative, nearest.magnitude / power(up)), "fp32")


ORACLES: dict[str, Chain] = {
    **{name: (_fused if name.endswith("_fma") else _separate)(name.split("_")[0]) for name in STEPS},
    "fp32_fma_flushing": _flushing,
}


def oracle(name: str, a: np.ndarray, b: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Patterns (m, n) of the chains from ``start``."""
    step, out = ORACLES[name], np.empty(start.shape, np.uint32)
    rows = [read_all(row) for row in a.view(np.uint32)]
    columns = [read_all(column) for column in b.T.copy().view(np.uint32)]
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            s = read(start.view(np.uint32)[i, j])
            for x, y in zip(row, column, strict=True):
                s = step(s, x, y)
            out[i, j] = write(s)
    return out


def draw(rng: np.random.Generator, fmt: str, how: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of the format."""
    if fmt == "fp16":
        return _draw_fp16(rng, how, shape)
    fraction = FRACTION[fmt]
    if how == "named":
        names = [0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 65504, 2.0**-24, 2.0**-126, 3e38, 1e-45, -1e-40, 2.0**-133]
        words = np.array(names, np.float32).view(np.uint32)[rng.integers(0, len(names), shape)]
    else:
        words = rng.integers(0, 1 << 32, shape, np.uint32)
    words = words >> (23 - fraction) << (23 - fraction)
    if how in ("bits", "named"):
        return words.view(np.float32)
    bits = 3 if how == "few bits" else fraction
    low, high = {"few bits": (-9, 4), "low": (-76, -54), "far apart": (-40, 10)}[how]
    integers = rng.integers(-(1 << bits), (1 << bits) + 1, shape).astype(np.float32)
    return np.ldexp(integers, rng.integers(low, high, shape) - bits)


def _draw_fp16(rng: np.random.Generator, how: str, shape: tuple[int, ...]) -> np.ndarray:
    if how in ("bits", "named"):
        return rng.integers(0, 1 << 16, shape, np.uint16).view(np.float16).astype(np.float32)
    largest, low, high = {"few bits": (8, -9, 4), "low": (2048, -24, -13), "far apart": (2048, -24, 5)}[how]
    return np.ldexp(rng.integers(-largest, largest + 1, shape).astype(np.float32), rng.integers(low, high, shape))


def run(
    name: str,
    a: np.ndarray,
    b: np.ndarray,
    start: np.ndarray,
    parallel: bool = False,
    words: np.ndarray = WORDS,
) -> np.ndarray:
    out = start.copy()
    kernel = CHAINS[name]
    (kernel._parallel if parallel else kernel._serial)(a, b, out, words)
    return out


def inputs_of(name: str) -> tuple[str, ...]:
    return {"fp32": ("fp32", "fp16", "bf16"), "fp16": ("fp16", "bf16", "tf32", "fp32")}.get(
        name.split("_")[0], ("bf16", "fp16", "tf32", "fp32")
    )


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("how", DRAWS)
@pytest.mark.parametrize("name", [*STEPS, pytest.param("fp32_fma_flushing", marks=needs_flushing)])
def test_every_bit_is_that_of_exact_arithmetic(name: str, how: str) -> None:
    rng = np.random.default_rng([len(name), DRAWS.index(how)])
    for inputs in inputs_of(name):
        for other in (how, "few bits"):
            a, b = draw(rng, inputs, how, (5, 3)), draw(rng, inputs, other, (3, 19))
            for start in (draw(rng, name.split("_")[0], how, (5, 19)), np.zeros((5, 19), np.float32)):
                assert_same_bits(run(name, a[None], b[None], start[None])[0], oracle(name, a, b, start))


TIES = [
    # s, a, b as patterns and the sum: where rounding by way of float32, or of float64, is wrong
    ("fp16_fma", 0x3DBEC000, 0x42516000, 0x375D2000, None),
    ("fp16_fma", 0x33800000, 0x43A00000, 0x43008000, None),
    ("bf16_fma", 0xA1800000, 0x3F810000, 0x3FC00000, 0x3FC10000),
    ("bf16_fma", 0x00010000, 0x3F810000, 0x3FC00000, 0x3FC20000),
    ("bf16_fma", 0x80010000, 0x3F810000, 0x3FC00000, 0x3FC10000),
    ("bf16_fma", 0x00000000, 0x3F810000, 0x3FC00000, 0x3FC20000),
]


@pytest.mark.parametrize(("name", "s", "a", "b", "expected"), TIES)
def test_a_tie_is_broken_by_the_exact_sum(name: str, s: int, a: int, b: int, expected: int | None) -> None:
    start, x, y = (np.array([[word]], np.uint32).view(np.float32) for word in (s, a, b))
    words = run(name, x[None], y[None], start[None])[0]
    assert_same_bits(words, oracle(name, x, y, start))
    assert expected in (None, int(words.view(np.uint32)[0, 0]))


# A plain reference: k in a loop, whole matrices a step, in float64, where these draws are exact


def _rounded64(x: np.ndarray, fmt: str) -> np.ndarray:
    bits, lowest = {"fp32": (24, -126), "fp16": (11, -14), "bf16": (8, -126)}[fmt]
    quantum = np.ldexp(1.0, np.maximum(np.frexp(x)[1] - 1, lowest) - bits + 1)
    return np.rint(x / quantum) * quantum


def reference(name: str, a: np.ndarray, b: np.ndarray, start: np.ndarray) -> np.ndarray:
    fmt = name.split("_")[0]
    s = start.astype(np.float64)
    for k in range(a.shape[2]):
        p = a[:, :, k, None].astype(np.float64) * b[:, k, None, :]
        s = _rounded64(s + (p if name.endswith("_fma") else _rounded64(p, fmt)), fmt)
    return s.astype(np.float32)


def moderate(rng: np.random.Generator, fmt: str, shape: tuple[int, ...]) -> np.ndarray:
    """Up to 4 in magnitude; sums of products stay below fp16's largest value and within 53 bits."""
    bits = {"fp32": 11, "fp16": 11, "bf16": 8}[fmt]
    integers = rng.integers(1 - (1 << bits), 1 << bits, shape).astype(np.float32)
    return np.ldexp(integers, -bits + rng.integers(-2, 3, shape))


SHAPES = [
    (1, 1, 1, 1),
    (1, 7, 5, 3),
    (3, 8, 4, 16),
    (2, 50, 33, 65),
    (5, 9, 40, 48),
    (1, 257, 129, 193),
    (1, 1, 600, 500),
    (2, 1, 4, 16),
    (2, 2, 37, 100),
    (1, 3, 5, 48),
]


@pytest.mark.thinned(0.2)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", STEPS)
def test_every_shape_and_thread_count_gives_the_bits_of_the_plain_loop(name: str, shape: tuple[int, ...]) -> None:
    batch, m, k, n = shape
    rng = np.random.default_rng(m * n)
    fmt = name.split("_")[0]
    a, b = moderate(rng, fmt, (batch, m, k)), moderate(rng, fmt, (batch, k, n))
    start = np.zeros((batch, m, n), np.float32)
    expected = reference(name, a, b, start)
    for parallel in (False, True):
        assert_same_bits(run(name, a, b, start, parallel), expected)
        assert_same_bits(run(name, a, b, np.full_like(start, np.nan), parallel, FROM_ZERO), expected)


def test_what_others_call_with_their_own_words_starts_where_it_is_told() -> None:
    if "fp32_fma_flushing" not in CHAINS:
        pytest.skip("this processor's arithmetic has no flushing kernel")
    a, b, start = (np.full((1, 2, 2), value, np.float32) for value in (2, 3, 5))
    assert_same_bits(run("fp32_fma_flushing", a, b, start, words=FROM_ZERO), np.full((1, 2, 2), 17, np.float32))


def strided(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same values under other strides."""
    batch, rows, columns = x.shape
    apart = np.full((batch, 2 * rows, 3 * columns), np.nan, np.float32)
    apart[:, ::2, ::3] = x
    backward = x[:, ::-1, ::-1].copy()[:, ::-1, ::-1]
    transposed = np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)
    last = np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1)
    return {"transposed": transposed, "apart": apart[:, ::2, ::3], "backward": backward, "batch last": last}


@pytest.mark.parametrize("name", ["fp32_fma", "fp16_fma", "bf16_mul_add"])
def test_strides_change_nothing(name: str) -> None:
    rng = np.random.default_rng(1)
    a, b = moderate(rng, "bf16", (2, 50, 70)), moderate(rng, "bf16", (2, 70, 110))
    start = moderate(rng, "bf16", (2, 50, 110))
    expected = run(name, a, b, start)
    others = strided(b)
    for how, x in strided(a).items():
        assert_same_bits(run(name, x, others[how], start), expected)
        assert_same_bits(run(name, x, b, start, parallel=True), expected)
    same = np.broadcast_to(a[:1], a.shape)
    assert_same_bits(run(name, same, b, start), run(name, same.copy(), b, start))
    for parallel in (False, True):  # compiled once, for all of them
        assert len(CHAINS[name].compiled(parallel=parallel).signatures) == 1


@pytest.mark.parametrize("name", ["fp16_fma", "fp16_mul_add", "bf16_mul_add"])
def test_one_operand_that_is_not_narrow_changes_the_path_and_not_the_bits(name: str) -> None:
    """It stands in the last slice of k of the last rows, or columns: everything before it went the other way."""
    rng = np.random.default_rng(2)
    m, k, n = chains._BLOCK_ROWS + 9, chains._DEPTH + 5, 50
    fmt = name.split("_")[0]
    for wide_a, wide_b in ((True, False), (False, True)):
        a, b = moderate(rng, fmt, (1, m, k)) / 4, moderate(rng, fmt, (1, k, n)) / 4
        start = np.zeros((1, m, n), np.float32)
        if wide_a:
            a[0, -1, -1] = 1 + 2.0**-15
        if wide_b:
            b[0, -1, -1] = 1 + 2.0**-15
        assert_same_bits(run(name, a, b, start), reference(name, a, b, start))


@pytest.mark.parametrize("name", STEPS)
def test_no_k_leaves_the_start_and_nan_is_canonical(name: str) -> None:
    start = np.array([[[1.5, -0.0, np.inf, 0]]], np.float32)
    start.view(np.uint32)[0, 0, 3] = 0xFFFFFFFF
    none = np.empty((1, 1, 0), np.float32)
    expected = start.view(np.uint32).copy()
    expected[0, 0, 3] = 0x7FC00000
    assert_same_bits(run(name, none, none.reshape(1, 0, 4), start), expected)
    words = np.array([0x7F800001, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    zero = np.zeros((1, 4, 4), np.float32)
    expected = np.full((1, 4, 4), 0x7FC00000, np.uint32)
    assert_same_bits(run(name, words.reshape(1, 4, 1), zero[:, :1], zero), expected)
    assert_same_bits(run(name, np.full((1, 4, 1), np.inf, np.float32), zero[:, :1], zero), expected)


@pytest.mark.parametrize("name", STEPS)
def test_empty_products_are_left_alone(name: str) -> None:
    for m, n in ((0, 3), (3, 0)):
        empty = np.empty((1, m, n), np.float32)
        run(name, np.ones((1, m, 2), np.float32), np.ones((1, 2, n), np.float32), empty, parallel=True)


@pytest.mark.thinned(0.4)
@needs_flushing
@pytest.mark.parametrize("name", STEPS)
def test_a_caller_that_flushes_changes_nothing(name: str) -> None:
    serial = CHAINS[name]._serial

    @njit
    def under(control, a, b, out, words):
        before = exchange_control(control)
        serial(a, b, out, words)
        return exchange_control(before)

    rng = np.random.default_rng(3)
    fmt = name.split("_")[0]
    a, b, start = (
        draw(rng, fmt, "low", (1, 5, 3)),
        draw(rng, fmt, "low", (1, 3, 19)),
        np.zeros((1, 5, 19), np.float32),
    )
    out = start.copy()
    assert under(FLUSHING, a, b, out, WORDS) & 0xFFC0 == FLUSHING & 0xFFC0  # given back as it was
    assert_same_bits(out, run(name, a, b, start))
    assert np.any((out != 0) & (abs(out) < 2.0**-126)) == (fmt != "fp16")


@needs_flushing
def test_add_flushing() -> None:
    rng = np.random.default_rng(4)
    for how in DRAWS:
        x, y = draw(rng, "fp32", how, (2, 9, 37)), draw(rng, "fp32", how, (2, 9, 37))
        expected = [
            write(ftz_add(read(u), read(v)))
            for u, v in zip(x.view(np.uint32).flat, y.view(np.uint32).flat, strict=True)
        ]
        for function in (add_flushing._serial, add_flushing._parallel):
            out = np.empty_like(x)
            function(x, y, out)
            assert_same_bits(out, np.array(expected, np.uint32).reshape(x.shape))


PROGRAM = """
import sys, hashlib
import numpy as np
sys.path[:0] = sys.argv[1:]
from test_chains import digest
print(digest())
"""


def digest() -> str:
    """SHA-256 over products of every step, on patterns that take every path."""
    sums = hashlib.sha256()
    for name in STEPS:
        rng = np.random.default_rng(5)
        for inputs in inputs_of(name):
            for how in DRAWS:
                a, b = draw(rng, inputs, how, (2, 13, 21)), draw(rng, inputs, how, (2, 21, 53))
                sums.update(run(name, a, b, draw(rng, name.split("_")[0], how, (2, 13, 53))).tobytes())
    return sums.hexdigest()


@pytest.mark.exhaustive
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors")
@pytest.mark.parametrize("processor", [pytest.param("haswell", marks=pytest.mark.exhaustive), "generic"])
def test_other_processors_give_the_same_bits(processor: str, tmp_path: Path) -> None:
    own = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    root = Path(chains.__file__).parents[3]
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths],
        env=os.environ | own | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.stdout.strip() == digest(), finished.stderr
