"""Arguments of matmul: what is refused, in which words, and what the others do to the result."""

from __future__ import annotations

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor
from strategies import drawn, generator

import precision as pr
from precision.gemm import _refuse_counting

M, K, N = 3, 10, 4


def refuses(message: str) -> object:
    return pytest.raises(ValueError, match=rf"^{re.escape(message)}\Z")


# Refusals


X = np.ones((2, 3), np.float32)


def test_inner_axes() -> None:
    message = "inner axes differ: a is (2, 3) and b is (2, 3), both after transposition; k is 3 in a and 2 in b"
    with refuses(message):
        pr.matmul(X, X)
    with refuses(message.replace("(2, 3)", "(3, 2)").replace("3 in a and 2 in b", "2 in a and 3 in b")):
        pr.matmul(X, X, transpose_a=True, transpose_b=True)


def test_leading_axes() -> None:
    a, b = np.ones((2, 2, 3), np.float32), np.ones((3, 3, 2), np.float32)
    with refuses("leading axes (2,) of a and (3,) of b do not broadcast"):
        pr.matmul(a, b)


def test_vectors() -> None:
    with refuses("operand a needs at least two axes, its shape is (3,)"):
        pr.matmul(X[0], X.T)
    with refuses("operand b needs at least two axes, its shape is ()"):
        pr.matmul(X, np.float32(1))


def test_shape_of_the_start() -> None:
    with refuses("c must have the shape of the product, (2, 2), not (2,)"):
        pr.matmul(X, X.T, c=X[:, 0])


def test_unknown_accumulator() -> None:
    known = ", ".join(pr.ACCUMULATORS).replace("fp32_split8", "fp32_split<K>")
    with refuses(f"unknown accumulator 'fp64'; known accumulators: {known}"):
        pr.matmul(X, X.T, accumulator="fp64")


@pytest.mark.parametrize("inputs", ["int8", ("fp16", "int8")])
def test_formats_that_a_unit_does_not_multiply(inputs: object) -> None:
    with refuses("accumulator h100 multiplies fp16 and bf16 and tf32, not int8; name one of those"):
        pr.matmul(X, X.T, inputs=inputs, accumulator="h100")
    with refuses("accumulator int32 multiplies int8 and int4 and int2, not fp16; name one of those"):
        pr.matmul(X, X.T, inputs="fp16", accumulator="int32")


def test_blocks_of_two_lengths() -> None:
    message = "accumulator h100 takes blocks of other lengths for tf32 than for fp16; pass operands of one format"
    with refuses(message):
        pr.matmul(X, X.T, inputs=("tf32", "fp16"), accumulator="h100")


def test_inputs_wider_than_the_carrier() -> None:
    with refuses("matmul takes inputs of at most 32 bits, not fp64; round them to fp32 first"):
        pr.matmul(X, X.T, inputs="fp64")


def test_whole_numbers_under_any_accumulator(backend: Executor) -> None:
    """Carriers of int8 values, and int8 arrays, are operands like others."""
    codes = generator(21).integers(-128, 128, (2, 5, 6)).astype(np.int8)
    exact = (codes[0].astype(int) @ codes[1].T.astype(int)).astype(np.float32)
    carried = codes.astype(np.float32)
    for a, b in ((codes[0], codes[1]), (carried[0], carried[1])):
        result = backend.call(pr.matmul, a, np.ascontiguousarray(b.T), inputs="int8")
        assert_same_bits(result, exact)
        whole = backend.call(pr.matmul, a, np.ascontiguousarray(b.T), accumulator="int32")
        assert_same_bits(whole, exact.astype(np.int32))


def test_products_too_wide_to_align() -> None:
    anything = dataclasses.replace(pr.ACCUMULATORS["h100"], inputs=(), blocks=())
    message = (
        "accumulator h100 aligns products of at most 24 bits, and fp32 x fp16 has 35; "
        "round the operands to fp16 or bf16"
    )
    with refuses(message):
        pr.matmul(X, X.T, inputs=("fp32", "fp16"), accumulator=anything)


def test_wide_products_are_rounded_once(backend: Executor) -> None:
    rng = generator(22)
    a, b = (
        drawn(rng, (M, K), (100, 140)),
        oracles.nearest(drawn(rng, (K, N), (110, 135)).view(np.float32), "fp16").view(np.uint32),
    )
    x, y = a.view(np.float32), b.view(np.float32)
    result = backend.call(pr.matmul, x, y, inputs=("fp32", "fp16"), accumulator="fp16_mul_add")
    assert_same_bits(result, oracles.matmul(a, b, "fp16_mul_add"))


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_k_beyond_integer_sums(name: str) -> None:
    a = np.zeros((1, 131_072), np.int8)
    with refuses("k = 131072 could overflow INT32; at most 131071 is exact, so split k"):
        pr.matmul(a, a.T, accumulator="int32", backend=name)
    largest = np.full((1, 131_071), -128, np.int8)
    assert pr.matmul(largest, largest.T, accumulator="int32", backend=name).tolist() == [[2**31 - 2**14]]
    wide = np.zeros((1, 133_145), np.float32)
    with refuses("k = 133145 could overflow the INT32 sums inside; at most 133144 is exact, so split k"):
        pr.matmul(wide, wide.T, accumulator="exact", backend=name)


def test_numbers_that_are_not_whole() -> None:
    with refuses("operand a[0, 0] = 0.5 is not a value of int8; round_to it first"):
        pr.matmul(np.float32([[0.5]]), np.float32([[1]]), accumulator="int32")
    with refuses("operand b[0, 0] = 128.0 is not a value of int8; round_to it first"):
        pr.matmul(np.float32([[1]]), np.float32([[128]]), accumulator="int32")
    with refuses("operand a[0, 0] = 9.0 is not a value of int4; round_to it first"):
        pr.matmul(np.int8([[9]]), np.int8([[1]]), inputs="int4", accumulator="int32")


def test_start_and_output_of_integer_sums() -> None:
    one = np.int8([[1]])
    with pytest.raises(TypeError, match=r"^c is float32; under int32 it is an int32 array\Z"):
        pr.matmul(one, one, c=np.float32([[1]]), accumulator="int32")
    with refuses("accumulator int32 gives int32 and no fp16; convert it, or use quantized_matmul"):
        pr.matmul(one, one, output="fp16", accumulator="int32")


def test_counters_that_nobody_can_have() -> None:
    with refuses("accumulator native cannot count what its library does inside; name another accumulator"):
        pr.matmul(X, X.T, accumulator="native", counters=True)
    message = (
        "2 rows of 536870913 products are more than 32-bit counters may hold; "
        "count parts of the product and add their counters"
    )
    with refuses(message):
        _refuse_counting(EXECUTORS[0].module, pr.ACCUMULATORS["h100"], 2, (1 << 29) + 1)


# The result


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_out(name: str) -> None:
    out = np.full((2, 2), np.nan, np.float32)
    assert pr.matmul(X, X.T, out=out, backend=name) is out
    assert out.tolist() == [[3, 3], [3, 3]]
    whole = np.empty((2, 2), np.int32)
    codes = np.ones((2, 3), np.int8)
    assert pr.matmul(codes, codes.T, accumulator="int32", out=whole, backend=name) is whole
    assert whole.tolist() == [[3, 3], [3, 3]]
    with refuses("out must be float32 of shape (2, 2), not float32 of shape (2, 3)"):
        pr.matmul(X, X.T, out=np.empty((2, 3), np.float32), backend=name)


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("accumulator", ["fp32_sequential", "h100", "exact"])
def test_output_rounded_in_other_modes(backend: Executor, accumulator: str) -> None:
    """Running sums are exact here: 1 + 2^-11 + 2^-20 to fp16, up, down, and at random as ``round_to`` does."""
    a, b = np.float32([[1, 2.0**-11, 2.0**-10]]), np.float32([[1], [1], [2.0**-10]])
    sums = np.float32([[1 + 2.0**-11 + 2.0**-20]])
    for mode, expected in (("up", 1 + 2.0**-10), ("down", 1.0), ("nearest_even", 1 + 2.0**-10)):
        result = backend.call(pr.matmul, a, b, accumulator=accumulator, output="fp16", rounding=mode)
        assert result.tolist() == [[expected]]
    drawn_at_random = backend.call(
        pr.matmul, a, b, accumulator=accumulator, output="fp16", rounding="stochastic", key=3, counter=7
    )
    assert_same_bits(drawn_at_random, pr.round_to(sums, "fp16", rounding="stochastic", key=3, counter=7))


def test_native_is_what_the_library_does(backend: Executor) -> None:
    a = generator(23).normal(size=(20, 30)).astype(np.float32)
    result = backend.call(pr.matmul, a, a.T.copy(), inputs="fp32", accumulator="native")
    assert np.abs(result - a.astype(np.float64) @ a.T).max() < 1e-4  # no bits are promised, a product is


def test_counters_add() -> None:
    one = pr.GemmCounters(products=6, swamped=1, inexact=2)
    assert one + one == pr.GemmCounters(products=12, swamped=2, inexact=4)
    whole, counters = pr.matmul(X, X.T, counters=True)
    assert counters == pr.GemmCounters(products=12)
    assert whole.tolist() == [[3, 3], [3, 3]]


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_values_that_the_format_does_not_have(name: str) -> None:
    a = np.float32([[1, 1 + 2.0**-11, np.nan]])
    with refuses("operand a[0, 1] = 1.0004883 is not a value of fp16; round_to it first"):
        pr.matmul(a, np.ones((3, 1), np.float32), check=True, backend=name)
    with refuses("operand b[1, 0] = 1.0004883 is not a value of bf16; round_to it first"):
        pr.matmul(np.ones((1, 3), np.float32), a.T, inputs=("fp16", "bf16"), check=True, backend=name)
    c = np.float32([[1 + 2.0**-11]])
    ones = np.ones((1, 1), np.float32)
    assert_same_bits(pr.matmul(ones, ones, c=c, check=True, backend=name), c + 1)
    with refuses("operand c[0, 0] = 1.0004883 is not a value of fp16; round_to it first"):
        pr.matmul(ones, ones, c=c, accumulator="fp16_mul_add", check=True, backend=name)
    special = np.float32([[np.nan, np.inf, -0.0]])
    assert np.isnan(pr.matmul(special, special.T, check=True, backend=name)).all()


def test_values_of_jax_arrays_are_checked() -> None:
    a = jnp.asarray(np.float32([[1, 1 + 2.0**-11]]))
    with refuses("operand a[0, 1] = 1.0004883 is not a value of fp16; round_to it first"):
        pr.matmul(a, a, transpose_b=True, check=True)


def test_float64_operands() -> None:
    with pytest.raises(TypeError, match="dtype float64 does not fit a float32 carrier exactly"):
        pr.matmul(np.ones((2, 2)), X)
