"""Mixed decomposition in every bit, its limits and its threshold; the longest sums that INT32 holds."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import oracles
import pytest
import quantized_product_oracle as oracle
from bits_assertions import assert_same_bits
from executors import Executor
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import ftz_multiply, real, rounded
from quantizer_cases import AFFINE, mild, with_granularity
from strategies import drawn, generator

import precision as pr
from precision.quantization.scheme import VECTOR, MatmulScheme, QScheme

LLM = pr.SCHEMES["llm_int8"]
PLAIN = pr.SCHEMES["int8_vectorwise"]
K = 9
EXACT = MatmulScheme(name="affine_mixed", x=AFFINE, w=VECTOR, threshold=6.0)


def times(x: Any, w: Any, bias: Any = None, **static: Any) -> Any:
    return pr.quantized_matmul(x, w, bias=bias, nonfinite="propagate", **static)


def product16(x: Any, w: Any, **static: Any) -> Any:
    return pr.matmul(
        pr.round_to(x, "fp16", backend=static["backend"]),
        pr.round_to(w, "fp16", backend=static["backend"]),
        accumulator="fp32_sequential",
        **static,
    )


def operands(seed: int, outliers: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes below 4, but in the named columns of x; a row of zeros, a column of zeros."""
    rng = generator(seed)
    x, w = drawn(rng, (4, K), (110, 128)), drawn(rng, (K, 5), (110, 128))
    x[1], x[:, 3], w[:, 2] = 0x80000000, 0x80000000, 0x80000000
    for column in outliers:
        x[column % 4, column] = np.float32(-6 - column).view(np.uint32)
    return x, w


@pytest.mark.parametrize("outliers", [(), (2,), (0, 3, 8), tuple(range(K))], ids=len)
def test_mixed(backend: Executor, outliers: tuple[int, ...]) -> None:
    x, w = operands(101, outliers)
    bias = mild(102, (5,))
    for given_bias in (None, bias):
        of_floats = None if given_bias is None else bias.view("f4")
        result = backend.call(times, x.view("f4"), w.view("f4"), of_floats, scheme=LLM, output="fp32")
        assert_same_bits(result, oracle.mixed(x, w, LLM, "fp32", given_bias))


@pytest.mark.parametrize("scheme", [
    EXACT,
    replace(EXACT, w=AFFINE),
    replace(EXACT, x=with_granularity(AFFINE, "group", 4)),
    replace(LLM, x=with_granularity(VECTOR, "tensor"), threshold=2.0),
    replace(LLM, working="bf16", threshold=0.5),
], ids=lambda s: f"{s.x}_{s.w}")  # fmt: skip
def test_relatives(scheme: MatmulScheme) -> None:
    """Codes of an outlier column stand for zero, whatever the zero point."""
    for outliers in ((), (2, 5)):
        x, w = operands(103, outliers)
        assert_same_bits(
            times(x.view("f4"), w.view("f4"), scheme=scheme, output="fp32"), oracle.mixed(x, w, scheme, "fp32")
        )


def test_values_below_the_threshold_do_not_leave_the_absmax() -> None:
    """``absmax_of="values"``: a row's range is over all its values below the threshold, and its codes in outlier
    columns stand for zero.  Where the other columns reach that range, it is the product of x with zeros there."""
    scheme = replace(EXACT, absmax_of="values", outlier_weights="dequantized")
    x, w = operands(104, (2,))
    x[:, 0], x[:, 1], x[[0, 1, 3], 2] = 0x40B00000, 0xC0A00000, 0x3F800000  # 5.5, -5, 1
    x, w = x.view("f4"), w.view("f4")
    kept, left = x.copy(), np.zeros_like(x)
    kept[:, 2], left[:, 2] = 0, x[:, 2]
    part = times(kept, w, scheme=replace(scheme, threshold=None), output="fp16")
    weights = pr.round_to(pr.quantize(w, VECTOR, axis=-2).dequantize(), "fp16")
    expected = pr.matmul(left, weights, c=part, inputs="fp16", accumulator="fp32_sequential", output="fp32")
    assert_same_bits(times(x, w, scheme=scheme, output="fp32"), expected)


@given(st.integers(0, 1 << 30))
def test_without_outliers_it_is_vectorwise(seed: int) -> None:
    x, w = operands(seed, ())
    x, w = x.view("f4"), w.view("f4")
    for output in ("fp16", "fp32"):
        assert_same_bits(times(x, w, scheme=LLM, output=output), times(x, w, scheme=PLAIN, output=output))


def test_without_outliers_everywhere(backend: Executor) -> None:
    """Signs of zeros included: a sum of nothing but codes of 0 is +0, times scales."""
    x, w = operands(105, ())
    mixed, plain = (
        backend.call(times, x.view("f4"), w.view("f4"), None, scheme=one, output="fp32") for one in (LLM, PLAIN)
    )
    assert_same_bits(mixed, plain)


@given(st.integers(0, 1 << 30))
def test_outliers_alone_are_the_product_in_fp16(seed: int) -> None:
    x, w = operands(seed, tuple(range(K)))
    x, w = x.view("f4"), w.view("f4")
    for output in ("fp16", "fp32"):
        assert_same_bits(times(x, w, scheme=LLM, output=output), product16(x, w, output=output, backend="numpy"))


def test_outliers_alone_everywhere(backend: Executor) -> None:
    x, w = operands(106, tuple(range(K)))
    x[2, 4], x[3, 1], x[0, 0] = 0x7F800000, 0xFF800000, 0x477FF000  # infinities, and 65520 that becomes one
    found = backend.call(times, x.view("f4"), w.view("f4"), None, scheme=LLM, output="fp32")
    expected = backend.call(product16, x.view("f4"), w.view("f4"), output="fp32")
    assert_same_bits(found, expected, any_nan=True)
    assert_same_bits(found, oracle.mixed(x, w, LLM, "fp32"), any_nan=True)


@given(st.floats(2.0**-14, 2.0**15, width=32))
@example(6.0)
@example(2.0**-10)
def test_threshold_itself_is_an_outlier(threshold: float) -> None:
    scheme = replace(LLM, threshold=threshold)
    x, w = np.full((1, 2), 0.0, np.float32), np.eye(2, dtype=np.float32) * np.float32(3)
    x[0] = np.nextafter(np.float32(threshold), np.float32(0)), -threshold
    found = times(x, w, scheme=scheme, output="fp32")
    below, at = x.copy(), x.copy()
    below[0, 1], at[0, 0] = 0, 0
    expected = times(below, w, scheme=PLAIN, output="fp32") + product16(at, w, output="fp32", backend="numpy")
    assert_same_bits(found, expected)


def test_nonfinite_values_go_apart_and_nan_does_not() -> None:
    x, w = operands(107, ())
    x[0, 2] = 0x7F800000
    assert_same_bits(
        times(x.view("f4"), w.view("f4"), scheme=LLM, output="fp32"), oracle.mixed(x, w, LLM, "fp32"), any_nan=True
    )
    x[2, 5] = 0x7FC00000
    with pytest.raises(ValueError, match=r"^x\[2, 5\] is nan, which INT8 cannot hold"):
        pr.quantized_matmul(x.view("f4"), w.view("f4"), scheme=LLM)
    result = times(x.view("f4"), w.view("f4"), scheme=LLM)
    assert np.isnan(result).all(axis=1).tolist() == [False, False, True, False]


# INT32


WIDE = replace(VECTOR, name="to_-128", bound=127.5, lowest=-128)
LONGEST = [(VECTOR, VECTOR, 133_144), (WIDE, VECTOR, 132_104), (WIDE, WIDE, 131_071), (AFFINE, VECTOR, 66_311),
           (VECTOR, AFFINE, 66_311), (AFFINE, AFFINE, 33_025)]  # fmt: skip


def extreme(scheme: QScheme, shape: tuple[int, ...], axis: int, sign: int) -> pr.QArray:
    """Codes as far from zero as the scheme has them."""
    scale, affine = np.ones((1, 1), np.float32), not scheme.symmetric
    low, high = scheme.least, scheme.largest
    code = low if sign < 0 or (-low > high and not affine) else high
    zero = np.full((1, 1), high if sign < 0 else low, np.int32) if affine else None
    return pr.QArray(codes=np.full(shape, code, np.int8), scale=scale, zero_point=zero, axis=axis, scheme=scheme)


@pytest.mark.parametrize(("x", "w", "longest"), LONGEST, ids=str)
def test_longest_sum(backend: Executor, x: QScheme, w: QScheme, longest: int) -> None:
    scheme = MatmulScheme(name="longest", x=x, w=w)
    largest = [one.largest - one.least if not one.symmetric else max(one.largest, -one.least) for one in (x, w)]
    assert longest * largest[0] * largest[1] < 2**31 <= (longest + 1) * largest[0] * largest[1]
    for signs in ((1, 1), (-1, 1), (-1, -1)):
        a, b = extreme(x, (1, longest), -1, signs[0]), extreme(w, (longest, 1), -2, signs[1])
        exact = sum_of(a, b)
        assert abs(exact) <= longest * largest[0] * largest[1]
        result = pr.quantized_matmul(a, b, scheme=scheme, output="fp32", backend=backend.name)
        assert_same_bits(result, oracles.write_all([rounded(real(exact), "fp32")]).reshape(1, 1))
    a, b = extreme(x, (1, longest + 1), -1, 1), extreme(w, (longest + 1, 1), -2, 1)
    message = f"k = {longest + 1} could overflow INT32; at most {longest} is exact, so split k"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pr.quantized_matmul(a, b, scheme=scheme, backend=backend.name)


def sum_of(a: pr.QArray, b: pr.QArray) -> int:
    parts = [q.codes.astype(np.int64).ravel() - (0 if q.zero_point is None else int(q.zero_point[0, 0]))
             for q in (a, b)]  # fmt: skip
    return int((parts[0] * parts[1]).sum())


def test_groups_are_counted_one_by_one() -> None:
    """Each sum is over one group, so that k may be longer."""
    k = 133_146
    grouped = with_granularity(VECTOR, "group", k // 2)
    x, w = np.ones((1, k), np.float32), np.ones((k, 1), np.float32)
    scheme = MatmulScheme(name="halves", x=VECTOR, w=grouped)
    step = rounded(real(oracles.power(0) / 127), "fp32")
    half = ftz_multiply(ftz_multiply(rounded(real(127**2 * k // 2), "fp32"), step), step)
    expected = oracles.write_all([oracles.ftz_add(half, half)]).reshape(1, 1)
    assert_same_bits(pr.quantized_matmul(x, w, scheme=scheme, output="fp32"), expected)
