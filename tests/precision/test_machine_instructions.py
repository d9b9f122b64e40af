"""Emulated accumulators against the processor's own instructions, bit for bit; skipped where it lacks them."""

from __future__ import annotations

from functools import cache
from typing import Any

import machine_definitions
import machine_instructions
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from strategies import generator

import precision as pr

SIZE = 256  # 65,536 outputs a case, 24 or 30 cases an instruction
DEPTHS = (2, 4, 32, 64, 100)
KINDS = ("patterns", "normal", "cancelling", "wide", "tiny", "special")
RECORDS = {
    "dot_bf16": ("avx512_bf16", "bf16"),
    "tile_bf16": ("amx_bf16", "bf16"),
    "fused_fp16": ("avx512_fp16", "fp16"),
}
FLOATS = pytest.mark.parametrize("name", RECORDS)


@pytest.fixture(autouse=True)
def _has(request: pytest.FixtureRequest) -> None:
    name = request.getfixturevalue("name") if "name" in request.fixturenames else "dot_int8"
    reason = machine_instructions.missing(name)
    if reason:
        pytest.skip(reason)


# Operands as patterns: (exponent bits, fraction bits)


LAYOUTS = {"bf16": (8, 7), "fp16": (5, 10), "fp32": (8, 23)}


def drawn(rng: np.random.Generator, fmt: str, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Patterns of biased exponents from low to high, sign and fraction uniform."""
    exponent, fraction = LAYOUTS[fmt]
    word = np.uint32 if fmt == "fp32" else np.uint16
    sign, e = rng.integers(0, 2, shape), rng.integers(low, high + 1, shape)
    parts = (sign << (exponent + fraction)) | (e << fraction) | rng.integers(0, 1 << fraction, shape)
    return parts.astype(word)


def normal(rng: np.random.Generator, fmt: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal values; those of bf16 and float32 cut off."""
    values = rng.standard_normal(shape).astype(np.float32)
    if fmt == "fp16":
        return values.astype(np.float16).view(np.uint16)
    words = values.view(np.uint32)
    return words if fmt == "fp32" else (words >> 16).astype(np.uint16)


def operands(kind: str, fmt: str, k: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a (size, k), b (k, size), c (size, size) as patterns; c in the format of the sums."""
    rng = generator(KINDS.index(kind) * 1000 + k)
    sums = "fp16" if fmt == "fp16" else "fp32"
    shapes = ((fmt, (size, k)), (fmt, (k, size)), (sums, (size, size)))
    top = (1 << LAYOUTS[fmt][0]) - 1
    if kind in ("patterns", "wide"):  # of all exponents, or of the finite ones
        a, b, c = (drawn(rng, *shape, 0, top - (kind == "wide")) for shape in shapes)
    elif kind == "tiny":  # products around the smallest normal value, operands now and then below it
        low, high = (0, 14) if fmt == "fp16" else (40, 90)
        a, b = (drawn(rng, *shape, low, high) for shape in shapes[:2])
        c = drawn(rng, *shapes[2], 0, 3)
    else:
        a, b, c = (normal(rng, *shape) for shape in shapes)
    if kind == "cancelling":  # the second half takes back the first, but for the last bit here and there
        half, sign = k // 2, 1 << 15
        a[:, half:] = (a[:, :half] ^ sign) ^ (rng.integers(0, 8, (size, half)) == 0)
        b[half:] = b[:half]
        c = (c & ~np.array(0x7C00 if fmt == "fp16" else 0x7F800000, c.dtype)) | np.array(
            0x0400 if fmt == "fp16" else 100 << 23, c.dtype
        )
    if kind == "special":  # about one in k
        for x in (a, b, c):
            some = rng.random(x.shape) < 1 / k
            width = 8 * x.itemsize
            x[some] = rng.integers(0, 1 << width, int(some.sum()), np.uint64).astype(x.dtype)
            extreme = rng.random(x.shape) < 0.5 / k
            ones = np.array((top << LAYOUTS[sums if x is c else fmt][1]), x.dtype)
            x[extreme] |= ones
    return a, b, c


@cache
def recorded(name: str, kind: str, k: int, size: int = SIZE) -> tuple[np.ndarray, ...]:
    """Operands and what the instruction makes of them."""
    case = operands(kind, RECORDS[name][1], k, size)
    return (*case, machine_instructions.run(name, *case))


def carriers(fmt: str, x: np.ndarray) -> np.ndarray:
    """Patterns as float32 values; NaN payloads of bf16 kept."""
    if x.dtype == np.uint32:
        return x.view(np.float32)
    if fmt == "bf16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):
        return x.view(np.float16).astype(np.float32)


def compare(name: str, actual: Any, expected: np.ndarray) -> None:
    """float32 patterns against the instruction's: NaN payloads count but for fp16."""
    fp16 = name == "fused_fp16"
    wanted = carriers("fp16", expected) if fp16 else expected
    assert_same_bits(actual, wanted, any_nan=fp16)


# The definition, which shares nothing with the instructions or with the emulation


def defined(name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    if name == "fused_fp16":
        with np.errstate(invalid="ignore"):  # a signalling NaN that is converted
            values = [carriers("fp16", x).astype(np.float64) for x in (a, b, c)]
            return machine_definitions.fused_fp16(*values).astype(np.float32)
    patterns = (x.astype(np.uint32) << 16 for x in (a, b))
    return getattr(machine_definitions, name)(*patterns, c)


@FLOATS
@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_definition(name: str, kind: str, k: int) -> None:
    a, b, c, expected = recorded(name, kind, k)
    compare(name, defined(name, a, b, c), expected)


# The emulation


def emulated(name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, backend: str) -> Any:
    accumulator, fmt = RECORDS[name]
    a, b, c = carriers(fmt, a), carriers(fmt, b), carriers(fmt, c)
    return pr.matmul(a, b, c=c, inputs=fmt, accumulator=accumulator, output=None, backend=backend)


@FLOATS
@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_numba(name: str, kind: str, k: int) -> None:
    a, b, c, expected = recorded(name, kind, k)
    compare(name, emulated(name, a, b, c, "numba"), expected)


@FLOATS
@pytest.mark.parametrize("k", [2, 32, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_numpy(name: str, kind: str, k: int) -> None:
    """On fewer outputs, as it is slower."""
    a, b, c, expected = recorded(name, kind, k, 32)
    compare(name, emulated(name, a, b, c, "numpy"), expected)


@FLOATS
def test_odd_depth(name: str) -> None:
    """k = 35: filled up with +0, which makes a sum of -0 +0."""
    rng = generator(7)
    fmt = RECORDS[name][1]
    a, b, _ = operands("normal", fmt, 35, 32)
    c = (rng.integers(0, 2, (32, 32)) << (15 if fmt == "fp16" else 31)).astype(
        np.uint16 if fmt == "fp16" else np.uint32
    )
    a[::2] &= 1 << 15  # zeros of either sign
    compare(name, emulated(name, a, b, c, "numba"), machine_instructions.run(name, a, b, c))


@FLOATS
def test_how_many_are_special(name: str) -> None:
    """The cases mean something: NaN, infinities, zeros and numbers come out of each."""
    outputs = np.concatenate(
        [carriers(RECORDS[name][1], recorded(name, kind, k)[3]).ravel() for kind in KINDS for k in DEPTHS]
    )
    assert outputs.size >= 10**6
    for few in (np.isnan(outputs), np.isinf(outputs), outputs == 0):
        assert few.sum() > 100
    assert np.isfinite(outputs).mean() > 0.5


# INT8


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("k", DEPTHS)
def test_int8(k: int) -> None:
    """a + 128 as unsigned bytes, from c - 128 times the sums of b's columns, modulo 2^32."""
    rng = generator(k)
    size = 512  # five times 262,144 outputs
    a, b = rng.integers(-128, 128, (size, k), np.int8), rng.integers(-128, 128, (k, size), np.int8)
    c = rng.integers(-(2**31), 2**31, (size, size)).astype(np.int32)
    start = (c - 128 * b.sum(0, dtype=np.int64)).astype(np.int32)
    instruction = machine_instructions.run("dot_int8", a.view(np.uint8) ^ np.uint8(128), b, start)
    for backend in ("numba", "numpy"):
        assert_same_bits(pr.matmul(a, b, c=c, accumulator="int32", backend=backend), instruction)
