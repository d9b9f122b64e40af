"""Vector-wise INT8: codes, scales and products against the definition in fractions, and the error bound."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from hypothesis import assume, example, given
from hypothesis import strategies as st
from strategies import drawn, finite_patterns, generator, sprinkled

import precision as pr
from precision.quantization.schemes import known_names

COLUMNS = 9
HALF_STEP = Fraction(1, 2) + Fraction(1, 1 << 15)


def quantized(x: Any, *, axis: int, backend: str | None = None) -> tuple[Any, Any]:
    q = pr.quantize(x, axis=axis, nonfinite="propagate", backend=backend)
    return q.codes, q.scale


def row(*values: float) -> np.ndarray:
    """COLUMNS values: those given, then the first of them over and over."""
    return np.array([*values, *[values[0]] * COLUMNS][:COLUMNS], np.float32)


def vectors() -> np.ndarray:
    """Hard rows: (rows, COLUMNS) of patterns."""
    rng = generator(21)
    tiny, smallest = 2.0**-149, 2.0**-112
    named = [
        row(0.0, -0.0),
        row(-0.0),
        row(tiny, -tiny, 0.0),
        row(2.0**-127, 2.0**-130),
        row(np.nextafter(np.float32(smallest), np.float32(0)), 2.0**-120),
        row(smallest, -smallest / 2, smallest / 127, tiny),
        row(2.0**-111, 2.0**-127, -tiny),
        row(127, *np.arange(-0.5, 7)),  # x / s exactly halfway between two codes
        row(-127, 0.5, 1.5, 2.5, 126.5, -126.5, 125.5),
        row(254, 1, 3, 5, -1, -3, 253),
        row(3.0, 3.0 / 254, -3.0 / 254),
        row(3.0e38, 1.0, 1e-30, -1e37),  # one outlier, all else lost
        row(np.finfo(np.float32).max, -np.finfo(np.float32).max, 1.3e38),
        row(1.0, np.nextafter(np.float32(1), np.float32(0)), -1.0, 0.5),
        row(np.nan, 1.0),
        row(1.0, np.inf, 2.0),
        row(-np.inf, np.nan, 0.0),
    ]
    ranges = ((0, 20), (14, 16), (100, 110), (120, 130), (126, 127), (127, 127), (200, 254), (0, 254))
    random = [drawn(rng, (20, COLUMNS), exponents) for exponents in ranges]
    random.append(sprinkled(rng, drawn(rng, (20, COLUMNS), (120, 130)), 0.2))
    return np.concatenate([np.array(named).view(np.uint32), *random])


def test_codes_and_scales(backend: Executor) -> None:
    words = vectors()
    codes, scale = backend.call(quantized, words.view(np.float32), axis=-1)
    expected_codes, expected_scale = oracles.quantize_rows(words)
    assert_same_bits(codes, expected_codes, words)
    assert_same_bits(scale, expected_scale)
    assert codes.dtype == np.int8
    assert codes.min() >= -127


@pytest.mark.parametrize("axis", [-1, 1, -2, 0])
def test_columns_are_rows_of_the_transpose(backend: Executor, axis: int) -> None:
    words = vectors()[:40]
    words = words if axis in (-1, 1) else words.T
    codes, scale = backend.call(quantized, words.view(np.float32), axis=axis)
    across = words if axis in (-1, 1) else words.T
    expected_codes, expected_scale = oracles.quantize_rows(across)
    transpose = (lambda x: x) if axis in (-1, 1) else np.transpose
    assert_same_bits(codes, np.ascontiguousarray(transpose(expected_codes)))
    assert_same_bits(scale, np.ascontiguousarray(transpose(expected_scale)))


def test_middle_axis_of_three(backend: Executor) -> None:
    words = drawn(generator(22), (2, COLUMNS, 4), (110, 130))
    codes, scale = backend.call(quantized, words.view(np.float32), axis=1)
    assert scale.shape == (2, 1, 4)
    flat = np.moveaxis(words, 1, -1).reshape(-1, COLUMNS)
    expected_codes, expected_scale = oracles.quantize_rows(flat)
    assert_same_bits(np.moveaxis(codes, 1, -1).reshape(-1, COLUMNS).copy(), expected_codes)
    assert_same_bits(scale.reshape(-1, 1), expected_scale)


@pytest.mark.parametrize(("shape", "axis"), [((0, 3), -1), ((3, 0), -1), ((3, 0), -2), ((0,), 0), ((1,), 0)])
def test_empty_and_single_axes(backend: Executor, shape: tuple[int, ...], axis: int) -> None:
    codes, scale = backend.call(quantized, np.full(shape, 127.0, np.float32), axis=axis)
    assert_same_bits(codes, np.full(shape, 127, np.int8))
    wanted = list(shape)
    wanted[axis] = 1
    value = np.float32(127) * np.float32(1 / 127) if shape[axis] else np.float32(0)
    assert_same_bits(scale, np.full(wanted, value, np.float32))


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_any_layout_and_narrow_types(name: str) -> None:
    x = oracles.nearest(drawn(generator(23), (30, 40), (118, 130)).view(np.float32), "bf16")
    whole = pr.quantize(x, axis=-1, backend=name)
    x.flags.writeable = False
    for same in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x, x.astype(ml_dtypes.bfloat16)):
        q = pr.quantize(same, axis=-1, backend=name)
        assert_same_bits(q.codes, whole.codes)
        assert_same_bits(q.scale, whole.scale)


# Laws


@given(st.lists(finite_patterns, min_size=1, max_size=8))
@example([0x07800000])  # 2^-112, the smallest absmax with a scale
@example([0x077FFFFF])
@example([0x7F7FFFFF, 0x7F7FFFFE, 0x00000001])
@example([0x42FE0000, 0x3F000000, 0x3FC00000])  # 127, 1/2, 3/2
def test_error_bound(words: list[int]) -> None:
    """|x - q s| <= s (1/2 + 2^-15); of a vector below 2^-112 the error is x itself."""
    x = np.array(words, np.uint32).view(np.float32)
    q = pr.quantize(x, axis=0, backend="numpy")
    scale = Fraction(float(q.scale[0]))
    for value, code in zip(x.tolist(), q.codes.tolist(), strict=True):
        error = abs(Fraction(value) - code * scale)
        assert error <= scale * HALF_STEP if scale else abs(value) < 2.0**-112


@pytest.mark.parametrize("exponents", [(15, 16), (120, 127), (127, 127), (250, 254)])
def test_error_bound_on_many(exponents: tuple[int, int]) -> None:
    """In float64, where x, q s and their difference are exact: 24 and 31 bits, s at most 2^8 below the largest x."""
    x = drawn(generator(24), (2000, 64), exponents).view(np.float32)
    q = pr.quantize(x, axis=-1, backend="numba")
    error = np.abs(x.astype(np.float64) - q.codes * q.scale.astype(np.float64))
    assert (error <= q.scale.astype(np.float64) * float(HALF_STEP)).all()


@given(st.lists(st.integers(0x30000000, 0x4FFFFFFF), min_size=1, max_size=8), st.integers(-60, 60))
def test_power_of_two_moves_the_scale_alone(words: list[int], exponent: int) -> None:
    x = np.array(words, np.uint32).view(np.float32)
    plain, scaled = (pr.quantize(v, axis=0, backend="numpy") for v in (x, np.ldexp(x, exponent)))
    assert_same_bits(scaled.codes, plain.codes, x)
    assert_same_bits(scaled.scale, np.ldexp(plain.scale, exponent))


@given(st.lists(finite_patterns, min_size=1, max_size=8))
def test_negation_negates_the_codes(words: list[int]) -> None:
    x = np.array(words, np.uint32).view(np.float32)
    plain, negative = (pr.quantize(v, axis=0, backend="numpy") for v in (x, -x))
    assert_same_bits(negative.codes, -plain.codes)
    assert_same_bits(negative.scale, plain.scale)


@given(st.lists(finite_patterns, min_size=1, max_size=8))
def test_largest_value_has_the_largest_code(words: list[int]) -> None:
    x = np.array(words, np.uint32).view(np.float32)
    assume(np.abs(x).max() >= 2.0**-112)
    codes = pr.quantize(x, axis=0, backend="numpy").codes.astype(int)
    assert abs(codes[np.argmax(np.abs(x))]) == np.abs(codes).max() == 127


# QArray


def test_qarray() -> None:
    x = drawn(generator(25), (6, 5), (118, 130)).view(np.float32)
    q = pr.quantize(x, axis=-2)
    assert (q.shape, q.dtype, q.axis, q.scale.shape) == ((6, 5), np.int8, -2, (1, 5))
    expected = [
        oracles.ftz_multiply(oracles.real(int(code)), oracles.read(scale))
        for code, scale in zip(q.codes.ravel(), np.broadcast_to(q.scale.view(np.uint32), (6, 5)).ravel(), strict=True)
    ]
    assert_same_bits(q.dequantize(), oracles.write_all(expected).reshape(6, 5))


def test_dequantized_is_the_same_everywhere(backend: Executor) -> None:
    words = vectors()[::3]
    codes, scale = oracles.quantize_rows(words)
    scales = [oracles.read(u) for u in np.broadcast_to(scale, words.shape).ravel()]
    pairs = zip(codes.ravel().tolist(), scales, strict=True)
    expected = oracles.write_all(oracles.ftz_multiply(oracles.real(code), s) for code, s in pairs)
    assert_same_bits(backend.call(there_and_back, words.view("f4")), expected.reshape(words.shape), any_nan=True)


def there_and_back(x: Any, *, backend: str | None = None) -> Any:
    return pr.quantize(x, axis=-1, nonfinite="propagate", backend=backend).dequantize()


# Products


def operands(seed: int, exponents: tuple[int, int] = (118, 130)) -> tuple[np.ndarray, np.ndarray]:
    rng = generator(seed)
    x, w = drawn(rng, (4, COLUMNS), exponents), drawn(rng, (COLUMNS, 3), exponents)
    x[1], w[:, 2] = 0, 1  # a zero row, a column of subnormals
    return x, w


@pytest.mark.parametrize("output", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("biased", [False, True])
def test_product(backend: Executor, output: str, biased: bool) -> None:
    for seed, exponents in ((26, (118, 130)), (27, (60, 80)), (28, (175, 195)), (29, (120, 254))):
        x, w = operands(seed, exponents)
        bias = drawn(generator(seed), 3, (100, 140)) if biased else None
        given_bias = bias.view(np.float32) if biased else None
        result = backend.call(product, x.view("f4"), w.view("f4"), given_bias, output=output)
        assert_same_bits(result, oracles.quantized_matmul(x, w, output, bias))


def product(x: Any, w: Any, bias: Any, **static: Any) -> Any:
    return pr.quantized_matmul(x, w, bias=bias, **static)


def test_leading_axes_are_rows(backend: Executor) -> None:
    x, w = drawn(generator(30), (2, 3, COLUMNS), (118, 130)), operands(31)[1]
    result = backend.call(product, x.view("f4"), w.view("f4"), None, output="fp16")
    assert_same_bits(result.reshape(6, 3), oracles.quantized_matmul(x.reshape(6, COLUMNS), w))


@pytest.mark.parametrize("axis", [-2, 0])
def test_weights_quantized_once(backend: Executor, axis: int) -> None:
    x, w = operands(32)
    result = backend.call(product_of_quantized, x.view("f4"), w.view("f4"), axis=axis)
    assert_same_bits(result, oracles.quantized_matmul(x, w))


def product_of_quantized(x: Any, w: Any, *, axis: int, backend: str | None = None) -> Any:
    return pr.quantized_matmul(x, pr.quantize(w, axis=axis, backend=backend), backend=backend)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_empty_products(backend: Executor, m: int, k: int, n: int) -> None:
    result = backend.call(product, np.ones((m, k), "f4"), np.ones((k, n), "f4"), None, output="fp32")
    assert_same_bits(result, np.full((m, n), 0, np.float32))


def test_longest_exact_sum(backend: Executor) -> None:
    """k = 133,144 products of 127^2 are 2,147,479,576, below 2^31 and, rounded once, 2^31 in float32."""
    x, w = np.ones((1, 133_144), np.float32), np.ones((133_144, 1), np.float32)
    step = oracles.rounded(oracles.real(Fraction(1, 127)), "fp32")
    total = oracles.rounded(oracles.real(127**2 * 133_144), "fp32")
    assert total.magnitude == 2_147_479_552
    expected = oracles.ftz_multiply(oracles.ftz_multiply(total, step), step)
    result = backend.call(product, x, w, None, output="fp32")
    assert_same_bits(result, oracles.write_all([expected]).reshape(1, 1))


def test_a_row_that_is_not_finite_is_nan(backend: Executor) -> None:
    x, w = operands(33)
    x[2, 3] = 0x7F800000

    def propagate(x: Any, w: Any, *, backend: str | None = None) -> Any:
        q = pr.quantize(x, axis=-1, nonfinite="propagate", backend=backend)
        v = pr.quantize(w, axis=-2, backend=backend)
        return q.codes, q.scale, v.codes, v.scale

    codes, scale, _, _ = backend.call(propagate, x.view("f4"), w.view("f4"))
    assert_same_bits(np.isnan(scale).ravel(), np.array([False, False, True, False]))
    assert not codes[2].any()
    if backend.name == "jax":  # traced code propagates
        result = backend.call(product, x.view("f4"), w.view("f4"), None, output="fp16")
        assert_same_bits(result, oracles.quantized_matmul(x, w))
        assert np.isnan(result[2]).all()


# Refusals


def refuses(message: str) -> object:
    return pytest.raises(ValueError, match=rf"^{re.escape(message)}\Z")


ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_nonfinite_values_are_named_by_position(name: str) -> None:
    for value in (np.nan, np.inf, -np.inf):
        x = ONES.copy()
        x[1, 2] = value
        message = (
            f"x[1, 2] is {value}, which INT8 cannot hold: x[1, :] has no scale in int8_vector; mend it, or pass "
            "nonfinite='propagate'"
        )
        with refuses(message):
            pr.quantize(x, axis=-1, backend=name)
        with refuses(message):
            pr.quantized_matmul(x, ONES.T, backend=name)


def test_unknown_scheme() -> None:
    message = f"unknown quantization scheme 'int4'; known schemes: {', '.join(known_names())}"
    with refuses(message):
        pr.quantize(ONES, "int4", axis=0)
    with refuses(message):
        pr.quantized_matmul(ONES, ONES.T, scheme="int4")


def test_axis_out_of_range() -> None:
    for axis in (2, -3):
        with refuses(f"axis {axis} does not exist in an array of shape (2, 3)"):
            pr.quantize(ONES, axis=axis)


def test_sum_that_could_overflow() -> None:
    k = 133_145
    with refuses(f"k = {k} could overflow INT32; at most 133144 is exact, so split k"):
        pr.quantized_matmul(np.ones((1, k), np.float32), np.ones((k, 1), np.float32))


@pytest.mark.parametrize(("x", "w"), [((2, 3), (2, 3)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 3), (1, 3, 2))])
def test_shapes_that_do_not_multiply(x: tuple[int, ...], w: tuple[int, ...]) -> None:
    weights = pr.QArray(codes=np.ones(w, np.int8), scale=np.ones(w, np.float32), axis=-min(2, len(w)))
    with refuses(f"x of shape {x} and w of shape {w} do not multiply; x is (..., m, k), w (k, n)"):
        pr.quantized_matmul(np.ones(x, np.float32), weights)


def test_weights_quantized_along_the_wrong_axis() -> None:
    with refuses("w is quantized along axis -1; quantize it along its contraction axis, -2"):
        pr.quantized_matmul(ONES, pr.quantize(ONES.T, axis=-1))


def test_float64_is_refused() -> None:
    with pytest.raises(TypeError, match="dtype float64 does not fit a float32 carrier exactly"):
        pr.quantize(np.ones((2, 3)), axis=-1)


def test_jax_arrays_on_another_back_end() -> None:
    with refuses("backend 'numpy' cannot take JAX arrays; convert them with numpy.asarray first"):
        pr.quantized_matmul(jnp.ones((2, 3)), ONES.T, backend="numpy")
