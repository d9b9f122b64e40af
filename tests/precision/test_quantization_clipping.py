"""Percentiles and least squares by their definition; given ranges."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import quantizer_oracle as oracle
from bits_assertions import assert_same_bits
from executors import Executor
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import read, real
from quantizer_cases import AFFINE, hard, with_granularity
from strategies import drawn, finite_patterns, generator

import precision as pr
from precision.quantization.scheme import VECTOR, Clipping, QScheme

words = st.lists(finite_patterns, min_size=1, max_size=12)


def clipped(method: Any, bits: int = 8, **facts: Any) -> QScheme:
    return replace(VECTOR, name=method, bits=bits, clipping=Clipping(method=method, **facts))


def range_of(x: np.ndarray, scheme: QScheme) -> float:
    """What the largest code of a vector stands for."""
    return pr.calibrate([x], scheme, axis=-1).high.ravel()[0]


# Percentiles


@given(words, st.integers(1, 1000))
@example([1, 2, 3, 4], 250)
@example([1, 2, 3, 4], 251)
@example([0x3F800000] * 7 + [0x7F7FFFFF], 875)
def test_nearest_rank(patterns: list[int], tenths: int) -> None:
    """The least magnitude of which at least that share of all magnitudes are no larger."""
    x, share = np.array(patterns, np.uint32).view(np.float32), Fraction(tenths, 1000)
    found = range_of(x, clipped("percentile", percentile=tenths / 10))
    magnitudes = sorted(abs(Fraction(v)) for v in x.tolist())
    chosen = Fraction(float(found))
    assert chosen in magnitudes
    assert sum(m <= chosen for m in magnitudes) >= share * len(x)
    assert sum(m < chosen for m in magnitudes) < share * len(x)


@pytest.mark.parametrize(("percentile", "n"), [(99.9, 1000), (0.1, 1000), (70.0, 10), (55.0, 20), (33.3, 1000)])
def test_shares_are_decimal(percentile: float, n: int) -> None:
    """99.9 % of 1,000 are 999; in binary it is a little more, and would be all."""
    x = np.arange(1, n + 1, dtype=np.float32)
    assert range_of(x, clipped("percentile", percentile=percentile)) == round(percentile * n / 100)


@given(words)
def test_all_of_it_is_absmax(patterns: list[int]) -> None:
    x = np.array(patterns, np.uint32).view(np.float32)
    plain, whole = (
        pr.quantize(x, s, axis=-1, backend="numpy") for s in (VECTOR, clipped("percentile", percentile=100))
    )
    assert_same_bits(whole.codes, plain.codes)
    assert_same_bits(whole.scale, plain.scale)


# Least squares


def squared_error(x: np.ndarray, q: pr.QArray) -> Fraction:
    scale = Fraction(float(q.scale[0]))
    return sum(
        ((Fraction(v) - c * scale) ** 2 for v, c in zip(x.tolist(), q.codes.tolist(), strict=True)), Fraction()
    )


@given(words, st.integers(2, 8), st.sampled_from([2, 3, 20]))
@example([0x00000001, 0x07800000], 2, 20)
@example([0x7E7FFFFF, 0x3F800000, 0x7E000000], 2, 20)
def test_never_worse_than_absmax(patterns: list[int], bits: int, candidates: int) -> None:
    x = np.array(patterns, np.uint32).view(np.float32)
    plain, chosen = (
        pr.quantize(x, s, axis=-1, backend="numpy")
        for s in (replace(VECTOR, bits=bits), clipped("mse", bits, candidates=candidates))
    )
    assert squared_error(x, chosen) <= squared_error(x, plain)


VECTORS, LENGTH = 100, 64
# bits: vectors of 100 with a smaller squared error than absmax gives, of normal and of Laplace variables
BETTER = {2: (100, 100), 3: (100, 100), 4: (95, 98), 5: (75, 75), 6: (46, 54), 7: (13, 15), 8: (0, 0)}


def samples(kind: str) -> np.ndarray:
    return getattr(generator(121), kind)(size=(VECTORS, LENGTH)).astype(np.float32)


@pytest.mark.parametrize("bits", range(2, 9))
def test_how_often_better(bits: int) -> None:
    found = []
    for kind in ("standard_normal", "laplace"):
        x = samples(kind)
        schemes = replace(VECTOR, bits=bits), clipped("mse", bits)
        plain, chosen = (pr.quantize(x, s, axis=-1, backend="numpy") for s in schemes)
        pairs = [(squared_error(x[i], chosen[i]), squared_error(x[i], plain[i])) for i in range(VECTORS)]
        assert all(new <= old for new, old in pairs)
        found.append(sum(new < old for new, old in pairs))
    assert tuple(found) == BETTER[bits]


def root_above(x: Fraction) -> Fraction:
    return Fraction(math.isqrt(math.ceil(x * 2**120)) + 1, 2**60)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_no_candidate_is_much_better(bits: int) -> None:
    """With e the error of what is chosen and e_i that of any candidate, absmax a included:

        ||e|| <= (||e_i|| + 4 sqrt(n) 2^-22 a) (1 + 2^-15)

    as errors are known to 2^-22 a each, and a narrower range is taken only where it surely is better.
    """
    scheme = clipped("mse", bits, candidates=20)
    for x in samples("laplace")[:8]:
        error = squared_error(x, pr.quantize(x, scheme, axis=-1))
        absmax = np.abs(x).max()
        slack = root_above(Fraction(LENGTH)) * 4 * Fraction(2) ** -22 * Fraction(float(absmax))
        for i in range(1, 21):
            limit = absmax * (np.float32(i) / np.float32(20))
            other = pr.quantize(x, replace(VECTOR, bits=bits), axis=-1, limits=limit)
            allowed = (root_above(squared_error(x, other)) + slack) * (1 + Fraction(2) ** -15)
            assert error <= allowed**2


# Given ranges


def given_range(x: Any, low: Any, high: Any, *, scheme: QScheme, backend: str | None = None) -> Any:
    q = pr.quantize(x, scheme, axis=-1, limits=(low, high), backend=backend)
    return q.codes, q.scale


def test_symmetric_range_is_the_larger_magnitude(backend: Executor) -> None:
    """Of each tile by itself; whatever lies beyond has the last code."""
    x = drawn(generator(122), (4, 11), (118, 130))
    low, high = np.float32([[-1], [-3], [-4], [-2]]), np.float32([[2], [1], [-3], [2]])
    absmax = [2, 3, 4, 2]
    codes, scale = backend.call(given_range, x.view("f4"), low, high, scheme=VECTOR)
    for i, a in enumerate(absmax):
        tile = oracle.of_absmax([read(u) for u in x[i]], real(a), VECTOR, [0] * 11)
        assert codes[i].tolist() == tile.codes
        assert read(scale.view(np.uint32)[i, 0]) == tile.scale


def test_affine_range_is_widened_to_hold_zero(backend: Executor) -> None:
    x = drawn(generator(123), (3, 11), (118, 130)).view("f4")
    low, high = np.float32([[1], [-5], [-1]]), np.float32([[4], [-2], [3]])
    found = backend.call(given_range, x, low, high, scheme=AFFINE)
    wide = backend.call(given_range, x, np.minimum(low, 0), np.maximum(high, 0), scheme=AFFINE)
    for one, other in zip(found, wide, strict=True):
        assert_same_bits(one, other)
    q = pr.quantize(x, AFFINE, axis=-1, limits=(low, high))
    assert ((q.zero_point >= -128) & (q.zero_point <= 127)).all()


@pytest.mark.parametrize("scheme", [VECTOR, AFFINE, clipped("percentile", percentile=80), clipped("mse", 3),
                                    with_granularity(AFFINE, "group", 4)], ids=str)  # fmt: skip
def test_calibrated_on_itself(scheme: QScheme) -> None:
    x = hard().view(np.float32)
    plain = pr.quantize(x, scheme, axis=-1)
    same = pr.quantize(x, scheme, axis=-1, limits=pr.calibrate([x], scheme, axis=-1))
    assert_same_bits(same.codes, plain.codes)
    assert_same_bits(same.scale, plain.scale)
