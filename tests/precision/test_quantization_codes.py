"""Codes, scales and zero points of every family of schemes, in every bit, on every back end."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import quantizer_oracle as oracle
from bits_assertions import assert_same_bits
from executors import Executor
from hypothesis import given
from hypothesis import strategies as st
from quantizer_cases import (
    AFFINE,
    COLUMNS,
    GRANULARITIES,
    OTHERS,
    PACKAGES,
    ROUNDED_SCALES,
    WIDTHS,
    hard,
    mild,
    with_granularity,
)
from strategies import finite_patterns, generator

import precision as pr
from precision.quantization.scheme import VECTOR, QScheme

KEY = (0xA4093822, 0x299F31D0)
EAGER = ("numpy", "numba")
UNDER_JIT = (
    WIDTHS[2],
    ROUNDED_SCALES[0],
    ROUNDED_SCALES[4],
    *(one for one in OTHERS if one.name in ("affine2", "scale", "percentile_group", "mse_group", "to_odd")),
    with_granularity(VECTOR, "tensor"),
    with_granularity(AFFINE, "column"),
    with_granularity(AFFINE, "group", 4),
    with_granularity(VECTOR, "block", 3),
)


def parts(x: Any, *, scheme: QScheme, axis: int, backend: str | None = None, **options: Any) -> tuple[Any, ...]:
    q = pr.quantize(x, scheme, axis=axis, nonfinite="propagate", backend=backend, **options)
    return q.codes, q.scale, q.zero_point, q.dequantize(backend=backend)


def check(found: tuple[Any, ...], words: np.ndarray, scheme: QScheme, axis: int, expected: Any = None) -> None:
    """Against the oracle."""
    expected = oracle.quantize(words, scheme, axis) if expected is None else expected
    codes, scale, zero, values = found
    assert_same_bits(codes, expected.codes.astype(scheme.code_dtype), words)
    assert_same_bits(scale, expected.scale)
    assert (zero is None) == (expected.zero is None)
    if zero is not None:
        assert_same_bits(zero, expected.zero)
    assert_same_bits(values, oracle.dequantized(expected, scheme, axis), words, any_nan=True)


@cache
def of_hard(scheme: QScheme, axis: int) -> oracle.Result:
    return oracle.quantize(hard(), scheme, axis)


@pytest.mark.parametrize("scheme", [*WIDTHS, *ROUNDED_SCALES, *OTHERS], ids=str)
def test_families(scheme: QScheme) -> None:
    for name in EAGER:
        found = parts(hard().view("f4"), scheme=scheme, axis=-1, backend=name)
        check(found, hard(), scheme, -1, of_hard(scheme, -1))


@pytest.mark.parametrize("scheme", PACKAGES, ids=str)
def test_records_of_packages(scheme: QScheme) -> None:
    words = hard() if scheme.source == "fp32" else mild(72, (20, COLUMNS))
    for name in EAGER:
        check(parts(words.view("f4"), scheme=scheme, axis=-1, backend=name), words, scheme, -1)


@pytest.mark.parametrize(("granularity", "group"), GRANULARITIES)
@pytest.mark.parametrize("base", [VECTOR, AFFINE], ids=str)
def test_granularities(base: QScheme, granularity: str, group: int | None) -> None:
    scheme = with_granularity(base, granularity, group)
    axis = -2 if granularity in ("vector", "group") else -1  # along columns: rows are tried by the families
    for name in EAGER:
        found = parts(hard().view("f4"), scheme=scheme, axis=axis, backend=name)
        check(found, hard(), scheme, axis, of_hard(scheme, axis))


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("scheme", UNDER_JIT, ids=str)
def test_under_jit(scheme: QScheme) -> None:
    found = Executor("jax").call(parts, hard().view("f4"), scheme=scheme, axis=-1)
    check(found, hard(), scheme, -1, of_hard(scheme, -1))


@pytest.mark.parametrize(("granularity", "group"), GRANULARITIES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_three_axes(granularity: str, group: int | None, axis: int) -> None:
    words = hard().reshape(4, 5, COLUMNS)
    for base in (VECTOR, AFFINE):
        scheme = with_granularity(base, granularity, group)
        check(parts(words.view("f4"), scheme=scheme, axis=axis, backend="numpy"), words, scheme, axis - 3)


def test_three_axes_everywhere(backend: Executor) -> None:
    words = hard().reshape(4, 5, COLUMNS)
    scheme = with_granularity(AFFINE, "block", 3)
    check(backend.call(parts, words.view("f4"), scheme=scheme, axis=1), words, scheme, -2)


@pytest.mark.parametrize(("granularity", "group"), GRANULARITIES)
@pytest.mark.parametrize("base", [VECTOR, AFFINE, *OTHERS[6:10:2]], ids=str)
def test_empty_axes(base: QScheme, granularity: str, group: int | None) -> None:
    scheme = with_granularity(base, granularity, group)
    for shape, axis, name in product([(0, 3), (3, 0), (0, 0), (2, 0, 3)], (-1, -2), EAGER):
        words = np.zeros(shape, np.uint32)
        check(parts(words.view("f4"), scheme=scheme, axis=axis, backend=name), words, scheme, axis)


def test_empty_axes_under_jit() -> None:
    for scheme, shape in ((VECTOR, (0, 3)), (AFFINE, (3, 0)), (with_granularity(AFFINE, "group", 2), (3, 0))):
        found = Executor("jax").call(parts, np.zeros(shape, np.float32), scheme=scheme, axis=-1)
        check(found, np.zeros(shape, np.uint32), scheme, -1)


@pytest.mark.parametrize("scheme", [VECTOR, AFFINE, with_granularity(VECTOR, "block", 3)], ids=str)
def test_any_layout(scheme: QScheme) -> None:
    x = hard().view(np.float32)
    layouts = (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1].copy()[::-1])
    for same, name in product(layouts, EAGER):
        check(parts(same, scheme=scheme, axis=-1, backend=name), hard(), scheme, -1, of_hard(scheme, -1))


@given(st.data())
def test_any_array_under_any_scheme(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(1, 7), (3, 5), (6, 1), (2, 3, 4)]))
    size = int(np.prod(shape))
    words = np.array(data.draw(st.lists(finite_patterns, min_size=size, max_size=size)), np.uint32).reshape(shape)
    base = data.draw(st.sampled_from([*WIDTHS, *ROUNDED_SCALES, *OTHERS]))
    granularity, group = data.draw(st.sampled_from(GRANULARITIES))
    axis = data.draw(st.integers(-len(shape), -1))
    scheme = with_granularity(base, granularity, group)
    check(parts(words.view("f4"), scheme=scheme, axis=axis, backend="numpy"), words, scheme, axis)


# Random rounding


@pytest.mark.parametrize("base", [VECTOR, with_granularity(AFFINE, "group", 4)], ids=str)
def test_stochastic(backend: Executor, base: QScheme) -> None:
    """Element i, row-major, takes word ``counter`` + i, wherever its tile stands."""
    scheme = replace(base, name="stochastic", rounding="stochastic")
    index = np.arange(5, 5 + hard().size, dtype=np.uint64).reshape(hard().shape)
    expected = oracle.quantize(hard(), scheme, -2, pr.random_bits(KEY, index))
    found = backend.call(parts, hard().view("f4"), scheme=scheme, axis=-2, key=KEY, counter=5)
    check(found, hard(), scheme, -2, expected)


# NaN and infinity


def spoilt() -> tuple[np.ndarray, list[tuple[int, int]]]:
    words, places = hard(), [(13, 2), (15, 0), (15, 7), (0, 10), (19, 4)]
    for place, word in zip(places, (0x7FC00000, 0x7F800000, 0xFF800000, 0xFF800001, 0x7F800000), strict=True):
        words[place] = word
    return words, places


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("scheme", [VECTOR, AFFINE, OTHERS[8]], ids=str)
def test_nonfinite_tiles_alone_are_spoilt(backend: Executor, scheme: QScheme) -> None:
    words, places = spoilt()
    found = backend.call(parts, words.view("f4"), scheme=scheme, axis=-1)
    check(found, words, scheme, -1)
    wrong = sorted({row for row, _ in places})
    assert np.flatnonzero(np.isnan(found[1])).tolist() == wrong
    assert not found[0][wrong].any()


@pytest.mark.parametrize(("granularity", "group", "tile"), [
    ("tensor", None, "x[:, :]"),
    ("row", None, "x[13, :]"),
    ("column", None, "x[:, 2]"),
    ("vector", None, "x[13, :]"),
    ("group", 4, "x[13, 8:11]"),
    ("block", 3, "x[12:15, 9:11]"),
])  # fmt: skip
def test_nonfinite_values_are_refused_by_tile(granularity: str, group: int | None, tile: str) -> None:
    column = 2 if granularity in ("tensor", "row", "column", "vector") else 9
    scheme = with_granularity(VECTOR, granularity, group)
    for value in (np.nan, np.inf, -np.inf):
        x = np.ones((20, COLUMNS), np.float32)
        x[13, column] = value
        message = f"x[13, {column}] is {value}, which INT8 cannot hold: {tile} has no scale in {scheme.name}; mend it"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            pr.quantize(x, scheme, axis=-1)


def test_flat_vectors() -> None:
    rng = generator(73)
    for n in (1, 2, 255):
        words = mild(int(rng.integers(1 << 30)), (n,))
        for scheme in (VECTOR, AFFINE, with_granularity(VECTOR, "group", 4), with_granularity(VECTOR, "row")):
            check(parts(words.view("f4"), scheme=scheme, axis=0, backend="numpy"), words, scheme, -1)
