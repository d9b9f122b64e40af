"""Codes rounded at random: one of the two neighbours, at the stated odds, the same in any cut."""

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
from quantizer_cases import AFFINE, mild, with_granularity
from strategies import finite_patterns

import precision as pr
from precision.backends.numpy_ import rounding as numpy_rounding
from precision.quantization.scheme import VECTOR, QScheme

KEY = (0xA4093822, 0x299F31D0)
RANDOM = replace(VECTOR, name="random", rounding="stochastic")
WORDS, CHUNK = 1 << 24, 1 << 15  # the top 24 bits of a word are used


def parts(x: Any, *, scheme: QScheme, counter: int = 0, backend: str | None = None, limits: Any = None) -> Any:
    q = pr.quantize(x, scheme, axis=-1, key=KEY, counter=counter, limits=limits, backend=backend)
    return q.codes, q.scale


@given(st.lists(finite_patterns, min_size=1, max_size=8), st.integers(0, 1 << 62))
def test_one_of_the_two_neighbours(patterns: list[int], counter: int) -> None:
    """Of what is rounded, which ``up`` and ``down`` tell; a whole number stays."""
    x = np.array(patterns, np.uint32).view(np.float32)
    low, high = (
        pr.quantize(x, replace(VECTOR, rounding=mode), axis=-1, backend="numpy").codes for mode in ("down", "up")
    )
    codes, scale = parts(x, scheme=RANDOM, counter=counter, backend="numpy")
    assert ((codes == low) | (codes == high)).all()
    assert_same_bits(scale, pr.quantize(x, VECTOR, axis=-1, backend="numpy").scale)


def code_of(monkeypatch: pytest.MonkeyPatch, value: float, top: np.ndarray) -> np.ndarray:
    """Codes of a value, which its scale of 1 leaves as it is, for words with those top 24 bits."""
    words = top.astype(np.uint32) << np.uint32(8)
    monkeypatch.setattr(numpy_rounding, "_words", lambda _, shape: words.reshape(shape))
    x = np.full(len(words), value, np.float32)
    return pr.quantize(x, RANDOM, axis=-1, limits=np.float32(127), key=KEY, backend="numpy").codes


def test_odds_over_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly round(f 2^24) of the 2^24 words take x / s, a fraction f beyond a code, to the next away from zero: the
    mean of the codes is within 2^-25 of x / s."""
    value, total, chosen = np.float32(-2.3), 0, 0
    for start in range(0, WORDS, CHUNK):
        codes = code_of(monkeypatch, value, np.arange(start, start + CHUNK))
        total += int(codes.sum(dtype=np.int64))
        chosen += int((codes == -3).sum())
    fraction = -Fraction(float(value)) - 2
    assert chosen == round(fraction * WORDS)
    assert total == -2 * WORDS - chosen
    assert abs(Fraction(total, WORDS) - Fraction(float(value))) <= Fraction(1, 2 * WORDS)


@given(st.floats(-127, 127, width=32))
@example(0.5)
@example(2.0**-25)
@example(1.0 - 2.0**-24)
def test_the_words_at_which_codes_change(value: float) -> None:
    """Away from zero from the word on whose top 24 bits, with round(f 2^24), reach 2^24."""
    magnitude = abs(Fraction(value))
    below = math.floor(magnitude)
    first = WORDS - round((magnitude - below) * WORDS)
    top = [t for t in (0, 1, first - 1, first, first + 1, WORDS - 1) if 0 <= t < WORDS]
    expected = [below + (t >= first) for t in top]
    with pytest.MonkeyPatch.context() as patch:
        assert np.abs(code_of(patch, value, np.array(top)).astype(int)).tolist() == expected


def test_the_same_codes_in_any_cut(backend: Executor) -> None:
    """Rows in parts by ``counter``; a tensor in parts with its range given."""
    x = mild(131, (12, 11)).view("f4")
    for scheme, limits in ((RANDOM, None), (with_granularity(RANDOM, "tensor"), np.float32(16))):
        whole, _ = backend.call(parts, x, scheme=scheme, limits=limits)
        halves = [
            backend.call(parts, x[i : i + 4], scheme=scheme, counter=11 * i, limits=limits)[0] for i in (0, 4, 8)
        ]
        assert_same_bits(np.concatenate(halves), whole)


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda x: np.repeat(x, 2, axis=1)[:, ::2]])
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_indices_are_row_major_whatever_the_layout(name: str, layout: Any) -> None:
    x = mild(132, (12, 11)).view("f4")
    for scheme in (
        RANDOM,
        with_granularity(RANDOM, "column"),
        with_granularity(replace(AFFINE, rounding="stochastic"), "group", 4),
    ):
        plain, _ = parts(x, scheme=scheme, backend=name)
        assert_same_bits(parts(layout(x), scheme=scheme, backend=name)[0], plain)


@pytest.mark.parametrize("first", [2**32 - 3, 2**63 + 5])
def test_counters_of_64_bits(backend: Executor, first: int) -> None:
    words = mild(133, (2, 11))
    index = np.arange(first, first + words.size, dtype=np.uint64).reshape(words.shape)
    expected = oracle.quantize(words, RANDOM, -1, pr.random_bits(KEY, index))
    codes, _ = backend.call(parts, words.view("f4"), scheme=RANDOM, counter=first)
    assert_same_bits(codes, expected.codes.astype(np.int8))


def test_without_key() -> None:
    with pytest.raises(ValueError, match="key"):
        pr.quantize(np.ones(3, np.float32), RANDOM, axis=-1)
