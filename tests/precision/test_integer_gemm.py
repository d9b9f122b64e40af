"""INT8 products in INT32: every unit that a processor may have, against 64-bit integers taken modulo 2^32."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import jax
import numba
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from strategies import generator

from precision.backends import numba_
from precision.backends.jax_.products import padded_integer_matmul
from precision.backends.numba_.compilation import Kernel
from precision.backends.numba_.integer_kernels import multiply_add
from precision.backends.numba_.integer_tiles import UNIT, target_features, unit_for

NO_WORDS = np.empty(0, np.int64)
EVERY_CODE = np.arange(-128, 128).astype(np.int8)
SHAPES = [
    (2, 1, 37, 600),
    (1, 1, 0, 5),
    # B, m, k, n: odd sizes, empty ones, one beside a tile, a depth that is packed in two goes
    (1, 1, 1, 1),
    (1, 3, 7, 5),
    (2, 13, 0, 9),
    (3, 0, 4, 4),
    (3, 4, 4, 0),
    (0, 4, 4, 4),
    (2, 6, 4, 64),
    (2, 7, 5, 65),
    (3, 12, 1025, 70),
    (64, 8, 9, 10),
    (1, 100, 1031, 81),
    (1, 257, 129, 193),
]
# how an operand lies in memory
LAYOUTS = ("rows", "columns", "apart", "backwards", "the same for all B")


@pytest.fixture(params=["serial", "parallel"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One thread, then all, whatever the size."""
    monkeypatch.setattr(Kernel, "PARALLEL_FROM", 0 if request.param == "parallel" else 1 << 62)
    return request.param


def expected(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """c + a b by its definition: no sum of these sizes leaves 64 bits."""
    total = c.astype(np.int64) + a.astype(np.int64) @ b.astype(np.int64)
    return (total & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The values of x, or of its first matrix over and over, with other strides."""
    if layout == "columns":
        return np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    if layout == "apart":
        spread = np.zeros((x.shape[0], 2 * x.shape[1], 3 * x.shape[2]), np.int8)
        spread[:, ::2, ::3] = x
        return spread[:, ::2, ::3]
    if layout == "backwards":
        return np.ascontiguousarray(x[:, ::-1, ::-1])[:, ::-1, ::-1]
    if layout == "the same for all B" and len(x):
        return np.broadcast_to(x[0], x.shape)
    return x


def codes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-128, 128, shape, np.int8)


def starts(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-(2**31), 2**31, shape, np.int64).astype(np.int32)


def check(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    total = c.copy()
    multiply_add(a, b, total, NO_WORDS)
    assert_same_bits(total, expected(a, b, c))


@pytest.mark.thinned(0.25)
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape: tuple[int, int, int, int]) -> None:
    blocks, m, k, n = shape
    rng = generator(1)
    check(codes(rng, blocks, m, k), codes(rng, blocks, k, n), starts(rng, blocks, m, n))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 19, 3), (2, 16, 0, 5), (1, 16, 32, 48)], ids=str)
def test_padding_for_a_gpu(shape: tuple[int, int, int, int]) -> None:
    """It changes no sum; that it is needed there shows on a GPU alone."""
    blocks, m, k, n = shape
    rng = generator(7)
    a, b = codes(rng, blocks, m, k), codes(rng, blocks, k, n)
    found = jax.jit(padded_integer_matmul)(a, b)
    assert_same_bits(np.asarray(found), expected(a, b, np.zeros((blocks, m, n), np.int32)))


PAIRS = [*product(LAYOUTS, LAYOUTS)]
# on all threads, whose loops find the same rows of the same operands, each layout with itself; others take longer
ON_THREADS = [("serial", *pair) for pair in PAIRS]
ON_THREADS += [
    pytest.param("parallel", *pair, marks=[] if pair[0] == pair[1] else pytest.mark.exhaustive) for pair in PAIRS
]


@pytest.mark.thinned(0.2)
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("threads", "of_a", "of_b"), ON_THREADS, indirect=["threads"])
def test_strides(of_a: str, of_b: str) -> None:
    rng = generator(2)
    a, b = laid_out(codes(rng, 3, 14, 23), of_a), laid_out(codes(rng, 3, 23, 75), of_b)
    check(a, b, starts(rng, 3, 14, 75))


def test_every_pair_of_codes() -> None:
    """Each alone, at each place of a word."""
    for place in range(4):
        a, b = np.zeros((1, 256, 4), np.int8), np.full((1, 4, 256), -128, np.int8)
        a[0, :, place], b[0, place] = EVERY_CODE, EVERY_CODE
        total = np.zeros((1, 256, 256), np.int32)
        multiply_add(a, b, total, NO_WORDS)
        assert_same_bits(total[0], np.multiply.outer(EVERY_CODE.astype(np.int32), EVERY_CODE.astype(np.int32)))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("x", "y"), [(-128, -128), (-128, 127), (127, 127)])
def test_wraps(x: int, y: int) -> None:
    """131,072 products of -128 and -128 are 2^31; the sums here pass 2^31 from either side, and 2^32."""
    k = 300_001
    a, b = np.full((1, 2, k), x, np.int8), np.full((1, k, 3), y, np.int8)
    for start in (0, 2**31 - 1, -(2**31)):
        check(a, b, np.full((1, 2, 3), start, np.int32))


def test_integer_matmul_starts_at_zero() -> None:
    rng = generator(3)
    a, b = codes(rng, 2, 33, 70), codes(rng, 2, 70, 41)
    assert_same_bits(numba_.integer_matmul(a, b), expected(a, b, np.zeros((2, 33, 41), np.int32)))


# Units other than this processor's


def digest() -> str:
    """Hash of products that take every path."""
    rng = generator(4)
    digest = hashlib.sha256()
    for blocks, m, k, n in SHAPES:
        total = starts(rng, blocks, m, n)
        multiply_add(codes(rng, blocks, m, k), codes(rng, blocks, k, n), total, NO_WORDS)
        digest.update(total.tobytes())
    return digest.hexdigest()


HERE = Path(__file__).resolve().parents[1]
RUN = "import runpy, sys; test = runpy.run_path(sys.argv[1]);print(test['UNIT'].name, test['digest']())"


@pytest.mark.thinned(0.2)
@pytest.mark.skipif(numba.config.CPU_NAME is not None, reason="Numba is told which processor to compile for")
@pytest.mark.parametrize(
    ("name", "features", "unit"),
    [
        ("haswell", None, "bytes"),
        ("haswell", "+avx2", "pairs256"),
        ("haswell", "+avx2,+avxvnni", "vnni256"),
        ("skylake-avx512", "+avx2,+avx512f,+avx512bw,+avx512vl", "pairs512"),
        ("x86-64", "", "bytes"),
    ],
)
def test_other_units(tmp_path: Path, name: str, features: str | None, unit: str) -> None:
    """The same bits where Numba compiles for less than the host, which must have it."""
    named = {feature[1:] for feature in (features or "").split(",") if feature}
    if not named <= target_features():
        pytest.skip(f"this processor lacks {', '.join(sorted(named - target_features()))}")
    environment = os.environ | {"NUMBA_CPU_NAME": name, "NUMBA_CACHE_DIR": str(tmp_path)}
    environment |= {} if features is None else {"NUMBA_CPU_FEATURES": features}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])
    command = [sys.executable, "-c", RUN, str(Path(__file__).resolve())]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    assert run.stdout.split() == [unit, digest()]


def test_which_unit() -> None:
    assert unit_for(target_features()) is UNIT
    assert unit_for({"avx512f", "avx512bw", "avx512vl", "avx512vnni", "avxvnni", "avx2"}).name == "vnni512"
    assert unit_for({"avxvnni", "avx2"}).name == "vnni256"
    assert unit_for({"avx512f", "avx512bw", "avx2"}).name == "pairs512"
    assert unit_for({"avx2"}).name == "pairs256"
    assert unit_for({"neon"}).name == "bytes"
