"""round_to, encode, decode: every code, every midpoint, their neighbours, on every back end, by definition."""

from __future__ import annotations

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracles
import pytest
from bits_assertions import as_bits, assert_same_bits, same_nan
from executors import EXECUTORS, Executor
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import EDGES, drawn, generator, patterns

import precision as pr
from precision.backends import SMALL, choose_backend

SIXTEEN = ("fp16", "bf16")
ENUMERATED = (*SIXTEEN, "e5m2", "int8", "int4")
ALL = (*ENUMERATED, "tf32", "fp32")
NANS = np.array([0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FC00001, 0x7FFFFFFF], np.uint32)
BIG = np.array([0x7F7FFFFE, 0x7F7FFFFF, 0x7F800000], np.uint32)
SUBNORMALS = np.arange(1, 0x800000, 1021, np.uint32)  # of float32; a prime stride meets every low bit pattern


def with_neighbours(magnitudes: np.ndarray) -> np.ndarray:
    """The patterns, the float32 before each and the float32 after; zero has none before it."""
    around = magnitudes.astype(np.int64)[:, None] + np.array([-1, 0, 1])
    return np.unique(np.clip(around, 0, 0x7F800000)).astype(np.uint32)


@cache
def boundaries(fmt: str) -> np.ndarray:
    """Float32 patterns, both signs: every value of the format, the points halfway between them and on the way to
    overflow, and the two float32 beside each; infinities, NaNs, float32 subnormals, float32's largest."""
    if fmt in oracles.INTEGERS:
        values = np.arange(0.0, oracles.INTEGERS[fmt][1] + 3)
    else:
        values = oracles.positive_values(fmt)
    halves = (values[1:] + values[:-1]) / 2
    both = np.concatenate([values, halves])
    with np.errstate(over="ignore"):
        words = both.astype(np.float32).view(np.uint32)
    parts = (with_neighbours(words), with_neighbours(EDGES & 0x7FFFFFFF), BIG, SUBNORMALS, NANS)
    magnitudes = np.unique(np.concatenate(parts))
    return np.concatenate([magnitudes, magnitudes | np.uint32(1 << 31)])


@cache
def rounded(fmt: str) -> np.ndarray:
    return oracles.nearest(boundaries(fmt).view(np.float32), fmt)


def without_nan(words: np.ndarray) -> np.ndarray:
    return words[(words & 0x7FFFFFFF) <= 0x7F800000]


def inputs(fmt: str) -> np.ndarray:
    """``boundaries``, without NaN where the format has none: that is refused."""
    return without_nan(boundaries(fmt)) if fmt in oracles.INTEGERS else boundaries(fmt)


# The oracles themselves


@pytest.mark.parametrize("fmt", ENUMERATED)
def test_search_among_the_values_is_rounding_in_fractions(fmt: str) -> None:
    words = np.concatenate([boundaries(fmt)[::61], EDGES])
    by_search = oracles.nearest(words.view(np.float32), fmt)
    in_fractions = oracles.write_all(oracles.rounded(x, fmt) for x in oracles.read_all(words))
    assert_same_bits(by_search, in_fractions, words)


@pytest.mark.parametrize("fmt", ENUMERATED)
def test_codes_and_values_are_inverse_in_the_oracle(fmt: str) -> None:
    for code in oracles.codes(fmt)[:: 5 if fmt in SIXTEEN else 1]:
        x = oracles.value_of_code(code, fmt)
        assert x.is_nan or oracles.code_of(x, fmt) == code
        assert oracles.write(x) == oracles.every_value(fmt)[code]


# Enumerated: no mismatch anywhere


@pytest.mark.parametrize("fmt", ENUMERATED)
def test_round_to(backend: Executor, fmt: str) -> None:
    words = inputs(fmt)
    expected = oracles.nearest(words.view(np.float32), fmt)
    assert_same_bits(backend.call(pr.round_to, words.view(np.float32), fmt=fmt), expected, words)


def code_type(fmt: str) -> np.dtype:
    if fmt in oracles.INTEGERS:
        return np.dtype(np.int8)
    return np.dtype(np.uint8 if len(oracles.codes(fmt)) <= 256 else np.uint16)


@pytest.mark.parametrize("fmt", ["fp16", "bf16", "e5m2", "int8"])
def test_decode_every_code(backend: Executor, fmt: str) -> None:
    codes = np.array(oracles.codes(fmt), f"u{code_type(fmt).itemsize}").view(code_type(fmt))
    assert_same_bits(backend.call(pr.decode, codes, fmt=fmt), oracles.every_value(fmt), codes)


@pytest.mark.parametrize("fmt", ["fp16", "bf16", "e5m2", "int8"])
def test_encode(backend: Executor, fmt: str) -> None:
    words = inputs(fmt)
    values, code_of_value = np.unique(oracles.every_value(fmt), return_index=True)  # one code a value; one NaN
    result = oracles.nearest(words.view(np.float32), fmt).view(np.uint32)
    expected = code_of_value[np.searchsorted(values, result)]
    expected[result == oracles.NAN_BITS] = oracles.code_of(oracles.NAN, fmt) if fmt not in oracles.INTEGERS else 0
    expected = expected.astype(f"u{code_type(fmt).itemsize}").view(code_type(fmt))
    assert_same_bits(backend.call(pr.encode, words.view(np.float32), fmt=fmt), expected, words)


@pytest.mark.parametrize("fmt", ["tf32", "fp32"])
def test_formats_too_wide_to_enumerate(backend: Executor, fmt: str) -> None:
    words = np.concatenate([EDGES, drawn(generator(1), 4000), drawn(generator(2), 1000, (0, 2))])
    numbers = [oracles.rounded(x, fmt) for x in oracles.read_all(words)]
    assert_same_bits(backend.call(pr.round_to, words.view(np.float32), fmt=fmt), oracles.write_all(numbers), words)
    codes = np.array([oracles.code_of(x, fmt) for x in numbers], np.uint32)
    assert_same_bits(backend.call(pr.encode, words.view(np.float32), fmt=fmt), codes, words)
    assert_same_bits(backend.call(pr.decode, codes, fmt=fmt), oracles.write_all(numbers), codes)


@pytest.mark.parametrize("fmt", ENUMERATED)
def test_flushed_subnormals(backend: Executor, fmt: str) -> None:
    words = inputs(fmt)[::7]
    result = backend.call(pr.round_to, words.view(np.float32), fmt=fmt, subnormals="flush")
    kept = oracles.nearest(words.view(np.float32), fmt).view(np.uint32)
    if fmt not in oracles.INTEGERS:
        smallest_normal = oracles.write(oracles.Real(False, oracles.power(oracles.FLOATS[fmt].emin)))
        kept = np.where((kept & 0x7FFFFFFF) < smallest_normal, kept & np.uint32(1 << 31), kept)
    assert_same_bits(result, kept, words)


def test_integer_codes_are_the_integers(backend: Executor) -> None:
    for fmt, (low, high) in oracles.INTEGERS.items():
        integers = np.arange(low, high + 1)
        codes = backend.call(pr.encode, integers.astype(np.float32), fmt=fmt)
        assert_same_bits(codes, as_bits(integers.astype(pr.FORMATS[fmt].dtype)).view(np.int8), integers)
        assert_same_bits(backend.call(pr.decode, codes, fmt=fmt), integers.astype(np.float32), integers)


def by_library(words: np.ndarray, fmt: str) -> np.ndarray:
    """Rounded by NumPy and ml_dtypes, whose conversions from float32 the search confirms at every boundary."""
    x = words.view(np.float32)
    with np.errstate(all="ignore"):
        if fmt in oracles.INTEGERS:
            return np.clip(np.rint(x), *oracles.INTEGERS[fmt]) + np.float32(0)  # -0 + 0 is +0
        if fmt == "tf32":
            return tf32_in_float64(x)
        return same_nan(as_bits(x.astype(pr.FORMATS[fmt].dtype).astype(np.float32)))


def tf32_in_float64(x: np.ndarray) -> np.ndarray:
    """Scaled so that the last of 11 digits, or of those that a subnormal keeps, counts one; then to an integer."""
    exponent = np.maximum(np.frexp(x.astype(np.float64))[1], -125)
    rounded = np.ldexp(np.rint(np.ldexp(x.astype(np.float64), 11 - exponent)), exponent - 11).astype(np.float32)
    return same_nan(as_bits(np.where(np.isfinite(x), rounded, x)))


@pytest.mark.parametrize("fmt", ALL)
def test_libraries_agree_with_the_search(fmt: str) -> None:
    words = inputs(fmt) if fmt in ENUMERATED else np.concatenate([EDGES, drawn(generator(7), 3000)])
    if fmt in ENUMERATED:
        expected = oracles.nearest(words.view(np.float32), fmt)
    else:
        expected = oracles.write_all(oracles.rounded(x, fmt) for x in oracles.read_all(words))
    assert_same_bits(by_library(words, fmt), expected, words)


@pytest.mark.exhaustive
@pytest.mark.parametrize("fmt", ALL)
def test_every_float32(fmt: str) -> None:
    """All 2^32 patterns; NumPy computes by the same kernel, at a tenth of the speed, and is spared."""
    chunk = 1 << 22
    for start in range(0, 1 << 32, chunk):
        words = np.arange(start, start + chunk, dtype=np.uint32)
        if fmt in oracles.INTEGERS:  # NaN is refused
            words = np.where((words & 0x7FFFFFFF) > 0x7F800000, np.uint32(0), words)
        expected = by_library(words, fmt)
        for backend in EXECUTORS[1:]:
            assert_same_bits(backend.call(pr.round_to, words.view(np.float32), fmt=fmt), expected, words)


# Laws, over float32 patterns


def as_float(*words: int) -> np.ndarray:
    return np.array(words, np.uint32).view(np.float32)


def round_numpy(words: np.ndarray, fmt: str) -> np.ndarray:
    return pr.round_to(words.view(np.float32), fmt, backend="numpy").view(np.uint32)


@pytest.mark.parametrize("fmt", ALL)
@given(st.lists(patterns, min_size=1, max_size=16))
def test_idempotent_symmetric_and_nearest(fmt: str, drawn_words: list[int]) -> None:
    words = without_nan(np.array(drawn_words, np.uint32))
    once = round_numpy(words, fmt)
    assert_same_bits(round_numpy(once, fmt), once, words)
    in_fractions = oracles.write_all(oracles.rounded(x, fmt) for x in oracles.read_all(words))
    assert_same_bits(once, in_fractions, words)
    if fmt not in oracles.INTEGERS:
        assert_same_bits(round_numpy(words ^ np.uint32(1 << 31), fmt), once ^ np.uint32(1 << 31), words)


@pytest.mark.parametrize("fmt", ALL)
@given(patterns, patterns)
def test_monotone(fmt: str, first: int, second: int) -> None:
    x = as_float(first, second)
    if np.isnan(x).any():
        return
    low, high = np.sort(x)
    assert float(pr.round_to(low, fmt)) <= float(pr.round_to(high, fmt))


@pytest.mark.parametrize("fmt", ["fp16", "bf16", "e5m2", "int8"])
@given(u=patterns)
@example(u=0x80000001)
@example(u=0x7F800000)
def test_decode_of_encode_is_round_to(fmt: str, u: int) -> None:
    x = as_float(u)
    if np.isnan(x).any() and fmt == "int8":
        return
    assert_same_bits(pr.decode(pr.encode(x, fmt), fmt), pr.round_to(x, fmt), x)


# Arrays as they come


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3, 5), (SMALL + 1,)])
def test_shapes_are_kept(backend: Executor, shape: tuple[int, ...]) -> None:
    x = np.full(shape, 1 + 2.0**-12, np.float32)
    for result in (backend.call(pr.round_to, x, fmt="fp16"), backend.call(pr.encode, x, fmt="fp16")):
        assert result.shape == shape
    assert_same_bits(backend.call(pr.round_to, x, fmt="fp16"), np.ones(shape, np.float32))
    assert_same_bits(backend.call(pr.encode, x, fmt="fp16"), np.full(shape, 0x3C00, np.uint16))
    assert_same_bits(
        backend.call(pr.decode, np.full(shape, 0x3C00, np.uint16), fmt="fp16"), np.ones(shape, np.float32)
    )


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x[::-2],
        lambda x: x.reshape(64, -1).T,
        lambda x: np.asfortranarray(x.reshape(64, -1)),
        lambda x: np.broadcast_to(x[:50, None], (50, 3)),
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1),  # unaligned and read-only
    ],
    ids=("strided", "transposed", "fortran", "broadcast", "unaligned"),
)
def test_any_layout(name: str, arrange: object) -> None:
    x = arrange(drawn(generator(3), 4096, (100, 140)).view(np.float32))
    before = as_bits(x).copy()
    result = pr.round_to(x, "bf16", backend=name)
    assert_same_bits(result, oracles.nearest(np.array(x), "bf16"))
    codes = pr.encode(x, "bf16", backend=name)
    assert_same_bits(pr.decode(codes, "bf16", backend=name), result)
    assert_same_bits(pr.decode(codes.T, "bf16", backend=name), np.array(result.T))
    assert_same_bits(as_bits(x), before)


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_read_only_input_is_read(name: str) -> None:
    x = drawn(generator(4), 2000).view(np.float32)
    writeable = pr.round_to(x, "fp16", backend=name)
    x.flags.writeable = False
    assert_same_bits(pr.round_to(x, "fp16", backend=name), writeable)
    assert pr.round_to(x, "fp32", backend=name).flags.writeable


def test_result_is_a_new_array(backend: Executor) -> None:
    if backend.name == "jax":
        pytest.skip("JAX arrays do not change")
    x = np.ones(5, np.float32)
    result = pr.round_to(x, "fp32", backend=backend.name)
    result[:] = 2
    assert x.tolist() == [1.0] * 5


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_out_is_filled_and_returned(name: str) -> None:
    x = drawn(generator(5), (40, 50), (100, 140)).view(np.float32)
    out = np.empty((50, 40), np.float32).T
    assert pr.round_to(x, "fp16", out=out, backend=name) is out
    assert_same_bits(np.array(out), oracles.nearest(x, "fp16"))
    assert pr.round_to(x, "fp16", out=x, backend=name) is x
    assert_same_bits(x, np.array(out))


@pytest.mark.parametrize(
    "dtype",
    [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn],
    ids=lambda t: t.__name__,
)
def test_narrow_floats_widen_exactly(backend: Executor, dtype: type) -> None:
    width = np.dtype(dtype).itemsize
    x = np.arange(256**width, dtype=f"u{width}").view(dtype)
    with np.errstate(invalid="ignore"):
        expected = same_nan(as_bits(x.astype(np.float32)))
    assert_same_bits(backend.call(pr.round_to, x, fmt="fp32"), expected, x)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_small_integers_widen_exactly(backend: Executor, dtype: type) -> None:
    limits = np.iinfo(dtype)
    x = np.array([limits.min, limits.min + 1, 0, 1, limits.max - 1, limits.max], dtype)
    assert_same_bits(backend.call(pr.round_to, x, fmt="fp32"), x.astype(np.float32), x)


def test_jax_arrays_stay_jax_and_eager_is_jitted() -> None:
    words = np.concatenate([EDGES, boundaries("fp16")[:: 1 << 12]])
    x = jnp.asarray(words.view(np.float32))
    rounded = pr.round_to(x, "fp16")
    codes = pr.encode(x, "fp16")
    values = pr.decode(codes, "fp16")
    assert all(isinstance(result, jax.Array) for result in (rounded, codes, values))
    assert_same_bits(rounded, oracles.nearest(words.view(np.float32), "fp16"), words)
    assert_same_bits(values, rounded, words)
    assert isinstance(pr.round_to(words.view(np.float32), "fp16"), np.ndarray)
    assert isinstance(pr.round_to(words.view(np.float32), "fp16", backend="jax"), jax.Array)


def test_choice_of_back_end() -> None:
    small, large = np.zeros(SMALL, np.float32), np.zeros(SMALL + 1, np.float32)
    assert choose_backend(small).name == "numpy"
    assert choose_backend(large).name == "numba"
    assert choose_backend(small, small, None).name == "numba"
    assert choose_backend(jnp.asarray(small)).name == "jax"
    assert choose_backend(large, jnp.asarray(small)).name == "jax"
    assert jax.jit(lambda x: x if choose_backend(x).name == "jax" else None)(jnp.asarray(small)) is not None
    for name in pr.BACKENDS:
        assert choose_backend(small, backend=name).name == name


# Refusals


def refuses(error: type[Exception], message: str) -> object:
    return pytest.raises(error, match=rf"^{re.escape(message)}\Z")


KNOWN = "fp32, tf32, fp16, bf16, e5m2, int8, int4"


@pytest.mark.parametrize("function", [pr.round_to, pr.encode, pr.statistics])
def test_unknown_format(function: object) -> None:
    with refuses(ValueError, f"unknown number format 'fp17'; known formats: {KNOWN}"):
        function(np.float32([1]), "fp17")


@pytest.mark.parametrize("function", [pr.round_to, pr.encode])
def test_unknown_rounding(function: object) -> None:
    with refuses(ValueError, "rounding 'up' is not offered; choose 'nearest_even'"):
        function(np.float32([1]), "fp16", rounding="up")


def test_unknown_subnormals() -> None:
    with refuses(ValueError, "subnormals must be 'keep' or 'flush', not 'drop'"):
        pr.round_to(np.float32([1]), "fp16", subnormals="drop")


@pytest.mark.parametrize(
    "dtype", [np.float64, np.complex64, np.complex128, np.int32, np.uint32, np.int64, np.bool_, object, np.longdouble]
)
@pytest.mark.parametrize("name", ["numpy", "numba", "jax"])
def test_dtype_that_float32_cannot_hold(dtype: type, name: str) -> None:
    x = np.ones(3, dtype)
    message = f"dtype {x.dtype} does not fit a float32 carrier exactly; convert it to float32 first"
    for function in (pr.round_to, pr.encode, pr.statistics):
        with refuses(TypeError, message):
            function(x, "fp16", backend=name)


@pytest.mark.parametrize("function", [pr.round_to, pr.encode])
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_nan_into_an_integer_format(function: object, name: str) -> None:
    with refuses(ValueError, "int8 has no NaN, and the input holds one; remove it before rounding"):
        function(np.float32([1, np.nan]), "int8", backend=name)


def test_nan_into_an_integer_format_passes_a_trace() -> None:
    assert_same_bits(jax.jit(partial(pr.round_to, fmt="int8"))(as_float(0xFFC00001)), np.uint32([oracles.NAN_BITS]))


def test_wrong_codes() -> None:
    with refuses(TypeError, "codes of fp16 are uint16, not uint8; view or convert them first"):
        pr.decode(np.zeros(3, np.uint8), "fp16")
    with refuses(TypeError, "codes of int8 are int8, not uint8; view or convert them first"):
        pr.decode(np.zeros(3, np.uint8), "int8")


def test_wrong_out() -> None:
    x = np.ones((2, 3), np.float32)
    with refuses(ValueError, "out must be float32 of shape (2, 3), not float32 of shape (3, 2)"):
        pr.round_to(x, "fp16", out=np.empty((3, 2), np.float32))
    with refuses(ValueError, "out must be float32 of shape (2, 3), not float64 of shape (2, 3)"):
        pr.round_to(x, "fp16", out=np.empty((2, 3)))
    with refuses(TypeError, "out= is for NumPy arrays; a JAX result is a new array"):
        pr.round_to(jnp.asarray(x), "fp16", out=np.empty((2, 3), np.float32))


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_jax_array_on_another_back_end(name: str) -> None:
    message = f"backend '{name}' cannot take JAX arrays; convert them with numpy.asarray first"
    for function in (pr.round_to, pr.encode, pr.statistics):
        with refuses(ValueError, message):
            function(jnp.ones(3), "fp16", backend=name)


def test_unknown_back_end() -> None:
    with refuses(ValueError, "unknown backend 'torch'; choose one of numpy, numba, jax"):
        pr.round_to(np.float32([1]), "fp16", backend="torch")


@pytest.mark.parametrize("value", [0.1, [0.5, 0.1], [1, 2**24 + 1], 1e300])
def test_python_numbers_that_float32_would_round_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="is not a float32 value; pass"):
        pr.round_to(value, "fp16")


def test_python_numbers_that_float32_holds_are_taken() -> None:
    found = pr.round_to([0.5, 65519, -np.inf, np.nan], "fp16")
    assert_same_bits(found, np.array([0.5, 65504, -np.inf, np.nan], np.float32))


def test_nan_into_an_integer_format_is_refused_on_concrete_jax_arrays_and_kept_under_jit() -> None:
    x = jnp.array([1.0, np.nan], jnp.float32)
    with pytest.raises(ValueError, match="int8 has no NaN"):
        pr.round_to(x, "int8")
    assert np.isnan(np.asarray(jax.jit(lambda x: pr.round_to(x, "int8"))(x))[1])
