"""Kernels of scaled and quantized operands, for one thread and for several, against the composed steps on NumPy."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from strategies import drawn, generator, sprinkled

import precision as pr
from precision.backends import get_backend
from precision.formats import parse_format
from precision.quantization.quantizers import quantized_parts
from precision.quantization.schemes import parse_scheme
from precision.rounding_modes import NEAREST_EVEN, Rounding
from precision.rounding_words import NOT_ROUNDED, rounding_words

NUMPY, NUMBA = get_backend("numpy"), get_backend("numba")
LAYERS = NUMBA.layers.LAYERS
VECTOR = parse_scheme("int8_vectorwise").operand(-1)
threads = pytest.mark.parametrize("parallel", [False, True])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def run(name: str, words: tuple[int, ...], results: list[np.ndarray], *operands: np.ndarray, parallel: bool) -> None:
    LAYERS[name].kernel.compiled(parallel=parallel)(*operands, *results, np.array(words, np.int64))


def patterns(seed: int, *shape: int) -> np.ndarray:
    """Of every exponent, or of a few with edges among them: one tile in two has neither NaN nor infinity."""
    rng = generator(seed)
    words = drawn(rng, shape, (100, 140) if seed % 2 else (0, 255))
    words[::2] = sprinkled(rng, words[::2], 0.02)
    return words.view(np.float32)


@pytest.mark.thinned(0.25)
@threads
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (3, 9000)])
@pytest.mark.parametrize("how", ["as it is", "e4m3fn", "e5m2", "bf16", "saturating"])
def test_times_powers(how: str, shape: tuple[int, int], seed: int, parallel: bool) -> None:
    x, powers = patterns(seed, *shape), generator(seed).integers(96, 417, (shape[0], 1 + seed % 2)).astype(np.uint32)
    expected = x
    for step in range(powers.shape[1]):
        expected = NUMPY.times_power(expected, powers[:, step : step + 1])
    words = NOT_ROUNDED
    if how != "as it is":
        rounding = Rounding(overflow="saturate") if how == "saturating" else NEAREST_EVEN
        fmt = parse_format("e4m3fn" if how == "saturating" else how)
        short, expected = rounding_words(rounding, fmt), NUMPY.round_to(expected, fmt, rounding)
        assert short is not None
        words = short
    found = np.empty_like(x)
    run("times_powers", words, [found], x, powers, parallel=parallel)
    assert_same_bits(found, expected, any_nan=how == "as it is")


@threads
@pytest.mark.parametrize("seed", range(4))
def test_scaled_sums(seed: int, parallel: bool) -> None:
    rng = generator(seed)
    sums = rng.integers(-(2**31), 2**31, (2, 19, 33)).astype(np.int32) >> rng.integers(0, 31, (2, 19, 33), np.int32)
    rows, columns, found = patterns(seed, 2, 19), patterns(seed + 1, 2, 33), np.empty((2, 19, 33), np.float32)
    run("scaled_sums", (), [found], sums, rows, columns, parallel=parallel)
    expected = NUMPY.multiply(NUMPY.multiply(sums.astype(np.float32), rows[:, :, None]), columns[:, None])
    assert_same_bits(found, expected, any_nan=True)


@threads
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 33, 7), (1, 300, 130)])
def test_codes(shape: tuple[int, ...], seed: int, parallel: bool) -> None:
    x = patterns(seed, *shape)
    record = tuple(int(word.view(np.uint32)) for word in NUMBA.quantizers.words_of(VECTOR))
    for name, tiles, count in (
        ("quantized_columns", (1, None, 1), (shape[0], shape[2])),
        ("quantized_rows", (1, 1, None), (shape[0] * shape[1],)),
    ):
        given = x if name == "quantized_columns" else x.reshape(-1, shape[-1])
        codes, scale = np.empty(given.shape, np.int8), np.empty(count, np.float32)
        run(name, record, [codes, scale], given, parallel=parallel)
        wanted = quantized_parts(NUMPY, x, VECTOR, tiles)
        assert_same_bits(codes.reshape(shape), wanted["codes"])
        assert_same_bits(scale.reshape(wanted["scale"].shape), wanted["scale"])


@pytest.mark.parametrize("shape", [(5, 40), (40,), (2, 3, 40)])
def test_jax_uses_them(shape: tuple[int, ...]) -> None:
    x = patterns(2, *shape)
    for axis in range(-x.ndim, 0):
        call = jax.jit(lambda x, axis=axis: pr.quantize(x, VECTOR, axis=axis, nonfinite="propagate"))
        assert "quantizer_layers" in call.trace(x).lower(lowering_platforms=("cpu",)).as_text()
        assert "precision_backends_numba_" not in call.trace(x).lower(lowering_platforms=("tpu",)).as_text()
        found, wanted = call(x), pr.quantize(x, VECTOR, axis=axis, nonfinite="propagate", backend="numpy")
        assert_same_bits(np.asarray(found.codes), wanted.codes)
        assert_same_bits(np.asarray(found.scale), wanted.scale)


def test_mapped_in_jax() -> None:
    x = patterns(1, 3, 5, 40)
    for axis in (-1, -2):
        mapped = jax.vmap(lambda x, axis=axis: pr.quantize(x, VECTOR, axis=axis, nonfinite="propagate").codes)
        wanted = [pr.quantize(row, VECTOR, axis=axis, nonfinite="propagate", backend="numpy").codes for row in x]
        assert_same_bits(np.asarray(jax.jit(mapped)(x)), np.stack(wanted))


def test_scale_of_a_tensor_that_holds_nan(backend: Executor) -> None:
    x = np.array([[1, np.nan, -2], [np.inf, 3, 4]], np.float32)
    assert_same_bits(backend.apply("absmax", x, axis=1), np.array([[0x7FC00000], [0x7F800000]], np.uint32))
