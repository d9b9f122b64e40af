"""round_to, encode, decode: arrays as they come, ``out=``, choice of the back end, refusals."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracles
import pytest
from bits_assertions import as_bits, assert_same_bits, same_nan
from executors import Executor
from strategies import EDGES, NANS, boundaries, drawn, generator

import precision as pr
from precision.backends import SMALL, choose_backend


def as_float(*words: int) -> np.ndarray:
    return np.array(words, np.uint32).view(np.float32)


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


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_result_is_a_new_array(name: str) -> None:
    """JAX arrays do not change."""
    x = np.ones(5, np.float32)
    result = pr.round_to(x, "fp32", backend=name)
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


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("size", [SMALL // 4, 1 << 18])
def test_out_may_be_the_input_in_every_mode(name: str, size: int) -> None:
    for mode in ("nearest_even", "up", "to_odd", "stochastic"):
        how = {"rounding": mode, "key": 5 if mode == "stochastic" else None, "backend": name}
        x = drawn(generator(6), size, (100, 140)).view(np.float32)
        expected = pr.round_to(x, "bf16", **how)
        for place in (x[: size // 2], x[size // 2 :]):
            wanted = pr.round_to(place.copy(), "bf16", **how)
            assert pr.round_to(place, "bf16", out=place, **how) is place
            assert_same_bits(place, wanted)
        assert mode == "stochastic" or np.array_equal(as_bits(x), as_bits(expected))


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_out_may_overlap_the_input(name: str) -> None:
    """As NumPy's own functions have it: the result is that of an input copied first."""
    whole = drawn(generator(7), 5000, (100, 140)).view(np.float32)
    expected = oracles.nearest(whole[:-1].copy(), "fp16")
    pr.round_to(whole[:-1], "fp16", out=whole[1:], backend=name)
    assert_same_bits(whole[1:], expected)


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_out_of_no_or_one_element(name: str, shape: tuple[int, ...]) -> None:
    out = np.full(shape, 7, np.float32)
    assert pr.round_to(np.full(shape, 1 + 2.0**-12, np.float32), "fp16", out=out, backend=name) is out
    assert_same_bits(out, np.ones(shape, np.float32))


def test_every_nan_becomes_the_canonical_one(backend: Executor) -> None:
    words = np.concatenate([NANS, NANS | np.uint32(1 << 31), np.arange(0x7F800001, 0x80000000, 65521, np.uint32)])
    canonical = np.full(len(words), oracles.NAN_BITS, np.uint32)
    for fmt in ("fp32", "tf32", "bf16", "e4m3fn", "binary8p3ue", "e8m0"):
        assert_same_bits(backend.call(pr.round_to, words.view(np.float32), fmt=fmt), canonical, words)
    negative_zero = np.full(len(words), 1 << 31, np.uint32)
    assert_same_bits(backend.call(pr.round_to, words.view(np.float32), fmt="e2m1"), negative_zero, words)


NARROW_FLOATS = [
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e8m0fnu,
]


@pytest.mark.parametrize("dtype", NARROW_FLOATS, ids=lambda t: t.__name__)
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
    words = np.concatenate([EDGES, boundaries("fp16")[:: 1 << 6]])
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


@pytest.mark.parametrize("function", [pr.round_to, pr.encode, pr.statistics])
def test_unknown_format(function: object) -> None:
    with pytest.raises(ValueError, match=r"^unknown number format 'fp17'; known formats: fp64, fp32, [^\n]*\Z"):
        function(np.float32([1]), "fp17")


@pytest.mark.parametrize("function", [pr.round_to, pr.encode])
def test_float64_is_a_source_and_no_target(function: object) -> None:
    with pytest.raises(
        ValueError, match=r"^fp64 is a source alone, no float32 carrier can hold this format; [^\n]*\Z"
    ):
        function(np.float32([1]), "fp64")


@pytest.mark.parametrize("unhashable", [["up"], {"up": 1}])
def test_rounding_of_no_such_type(unhashable: object) -> None:
    with pytest.raises(ValueError, match=r"^rounding [^\n]* is not offered; choose one of nearest_even, [^\n]*\Z"):
        pr.round_to(np.float32([1]), "fp16", rounding=unhashable)


@pytest.mark.parametrize(
    "dtype", [np.complex64, np.complex128, np.int32, np.uint32, np.int64, np.bool_, object, np.longdouble]
)
@pytest.mark.parametrize("name", ["numpy", "numba", "jax"])
def test_dtype_that_float32_cannot_hold(dtype: type, name: str) -> None:
    x = np.ones(3, dtype)
    message = f"dtype {x.dtype} does not fit a float32 carrier exactly; convert it to float32 first"
    for function in (pr.round_to, pr.encode):
        with refuses(TypeError, message):
            function(x, "fp16", backend=name)


@pytest.mark.parametrize("function", [pr.round_to, pr.encode])
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_nan_into_an_integer_format(function: object, name: str) -> None:
    with refuses(ValueError, "int8 has no NaN, and the input holds one; remove it before rounding"):
        function(np.float32([1, np.nan]), "int8", backend=name)


def test_nan_into_an_integer_format_passes_a_trace() -> None:
    assert_same_bits(jax.jit(partial(pr.round_to, fmt="int8"))(as_float(0xFFC00001)), np.uint32([oracles.NAN_BITS]))


def test_wrong_out() -> None:
    x = np.ones((2, 3), np.float32)
    with refuses(ValueError, "out must be float32 of shape (2, 3), not float32 of shape (3, 2)"):
        pr.round_to(x, "fp16", out=np.empty((3, 2), np.float32))
    with refuses(ValueError, "out must be float32 of shape (2, 3), not float64 of shape (2, 3)"):
        pr.round_to(x, "fp16", out=np.empty((2, 3)))
    frozen = np.empty((2, 3), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out is read-only[^\n]*\Z"):
        pr.round_to(x, "fp16", out=frozen)
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


def test_python_numbers_are_float64_where_float32_would_round_them() -> None:
    """One rounding: by way of float32 this one would be a tie, and 1."""
    hard = 1 + 2.0**-8 + 2.0**-40
    assert_same_bits(pr.round_to(hard, "bf16"), np.float32(1.0078125))
    assert_same_bits(pr.round_to([0.5, hard, 1e300], "bf16"), np.float32([0.5, 1.0078125, np.inf]))
    assert_same_bits(pr.round_to([1, 2**24 + 1], "fp32", rounding="up"), np.float32([1, 2**24 + 2]))


def test_python_integers_that_float64_would_round_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^[^\n]*9007199254740993[^\n]*float64[^\n]*\Z"):
        pr.round_to(2**53 + 1, "fp32")


def test_python_numbers_that_float32_holds_are_taken() -> None:
    found = pr.round_to([0.5, 65519, -np.inf, np.nan], "fp16")
    assert_same_bits(found, np.array([0.5, 65504, -np.inf, np.nan], np.float32))


def test_nan_into_an_integer_format_is_refused_on_concrete_jax_arrays_and_kept_under_jit() -> None:
    x = jnp.array([1.0, np.nan], jnp.float32)
    with pytest.raises(ValueError, match="int8 has no NaN"):
        pr.round_to(x, "int8")
    assert np.isnan(np.asarray(jax.jit(lambda x: pr.round_to(x, "int8"))(x))[1])
