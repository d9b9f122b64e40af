"""Laws of rounding, over bit patterns: what holds of every number, with no oracle but order and arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bits_assertions import as_bits, assert_same_bits
from format_oracle import INTEGERS, MODES, STANDARDS, standard
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import finite_patterns, patterns, without_nan

import precision as pr

DETERMINISTIC = MODES[:-1]
WIDE = ("e6m9", "e5m13", "e8m20")
MIRROR = {"up": "down", "down": "up"}
SIGN = np.uint32(1 << 31)
KEY = 20240229

names = st.sampled_from([*STANDARDS, *WIDE])
signed_names = st.sampled_from([name for name in [*STANDARDS, *WIDE] if standard(name).signed])
modes = st.sampled_from(MODES)
rules = st.sampled_from(["keep", "flush"])
arrays = st.lists(patterns, min_size=1, max_size=12).map(lambda words: np.array(words, np.uint32))
finite_arrays = st.lists(finite_patterns, min_size=2, max_size=12).map(lambda words: np.array(words, np.uint32))


def rounded(words: np.ndarray, name: str, mode: str, **how: Any) -> np.ndarray:
    """Results on NumPy; the stochastic mode under one key."""
    if mode == "stochastic":
        how = {"key": KEY, **how}
    return pr.round_to(words.view(np.float32), name, rounding=mode, backend="numpy", **how)


def admitted(words: np.ndarray, name: str) -> np.ndarray:
    return without_nan(words) if name in INTEGERS else words


def within(words: np.ndarray, name: str) -> np.ndarray:
    """Finite patterns, those beyond the format's range replaced by its ends."""
    fmt = pr.parse_format(name)
    low, high = (max(fmt.minimum, fmt.min_normal), fmt.maximum) if name == "e8m0" else (fmt.minimum, fmt.maximum)
    return as_bits(np.clip(words.view(np.float32), np.float32(low), np.float32(high)))


@given(names, modes, rules, arrays)
def test_idempotent(name: str, mode: str, subnormals: str, words: np.ndarray) -> None:
    words = admitted(words, name)
    once = as_bits(rounded(words, name, mode, subnormals=subnormals))
    for again in MODES:
        assert_same_bits(rounded(once, name, again, subnormals=subnormals), once, words)


@given(names, st.sampled_from(DETERMINISTIC), rules, finite_arrays)
def test_monotone(name: str, mode: str, subnormals: str, words: np.ndarray) -> None:
    x = np.sort(within(words, name).view(np.float32))
    result = rounded(as_bits(x), name, mode, subnormals=subnormals)
    assert (result[:-1] <= result[1:]).all(), (x, result)


@given(signed_names, st.sampled_from(DETERMINISTIC), st.sampled_from(["ieee", "saturate"]), arrays)
def test_symmetric(name: str, mode: str, overflow: str, words: np.ndarray) -> None:
    """-round(x) = round(-x), up and down exchanged; one zero has one sign, two's complement one more below zero."""
    words = within(without_nan(words), name) if name in INTEGERS else without_nan(words)
    here = as_bits(rounded(words, name, mode, overflow=overflow))
    there = as_bits(rounded(words ^ SIGN, name, MIRROR.get(mode, mode), overflow=overflow))
    same = (here | there) & ~SIGN == 0 if not standard(name).signed_zero else np.zeros(len(words), bool)
    same |= (here == 0x7FC00000) & (there == 0x7FC00000)
    if name in INTEGERS:
        same |= here.view(np.float32) == INTEGERS[name][0]
        same |= there.view(np.float32) == INTEGERS[name][0]
    assert_same_bits(np.where(same, 0, here), np.where(same, 0, there ^ SIGN), words)


@given(names, modes, finite_arrays)
def test_enclosed_by_down_and_up(name: str, mode: str, words: np.ndarray) -> None:
    """down(x) <= x <= up(x), with no value in between, and every mode gives one of the two."""
    words = within(words, name)
    x = words.view(np.float32)
    low, high = rounded(words, name, "down"), rounded(words, name, "up")
    result = rounded(words, name, mode)
    low, result = (np.where(x < pr.parse_format(name).min_normal, high, v) if name == "e8m0" else v
                   for v in (low, result))  # fmt: skip
    assert ((low <= x) & (x <= high)).all() or name == "e8m0"
    assert ((result == low) | (result == high)).all(), (x, low, result, high)
    exact = low == high
    assert (x[exact] == low[exact]).all() or name == "e8m0"


@given(names, finite_arrays)
def test_nearest_is_nearest(name: str, words: np.ndarray) -> None:
    words = within(words, name)
    x = words.view(np.float32).astype(np.float64)
    low, high = rounded(words, name, "down"), rounded(words, name, "up")
    best = np.minimum(x - low, high - x)
    even, away = rounded(words, name, "nearest_even"), rounded(words, name, "nearest_away")
    for result in (even, away):
        assert (np.abs(result - x) == np.abs(best)).all(), (x, result)
    tie = (x - low == high - x) & (low != high)
    assert (np.abs(away[tie]) == np.maximum(np.abs(low), np.abs(high))[tie]).all()
    assert (pr.encode(even[tie], name, backend="numpy") % 2 == 0).all()


@given(names, finite_arrays)
def test_toward_zero_is_the_smaller_magnitude(name: str, words: np.ndarray) -> None:
    words = within(words, name)
    low, high = rounded(words, name, "down"), rounded(words, name, "up")
    smaller = np.where(np.abs(low) <= np.abs(high), low, high)
    assert (rounded(words, name, "toward_zero") == smaller).all()


@given(names, finite_arrays)
def test_to_odd_is_odd_where_it_is_not_exact(name: str, words: np.ndarray) -> None:
    words = within(words, name)
    x, result = words.view(np.float32), rounded(words, name, "to_odd")
    inexact = (result != x) & (np.abs(x) >= (pr.parse_format(name).min_normal if name == "e8m0" else 0))
    # an even largest value has no odd neighbour above it within the format
    inner = np.abs(result) < pr.parse_format(name).maximum
    assert (pr.encode(result[inexact & inner], name, backend="numpy") % 2 != 0).all()


@pytest.mark.parametrize(("wide", "name"), [("tf32", "bf16"), ("e5m13", "fp16"), ("fp16", "e5m2"), ("e8m20", "tf32")])
@given(arrays)
def test_to_odd_first_makes_a_second_rounding_harmless(wide: str, name: str, words: np.ndarray) -> None:
    """p >= q + 2 and the same exponents: rounding to odd in the wide format loses nothing a later one needs."""
    odd = as_bits(rounded(words, wide, "to_odd"))
    finite = np.isfinite(odd.view(np.float32)) & np.isfinite(words.view(np.float32))
    for mode in DETERMINISTIC:
        assert_same_bits(rounded(odd[finite], name, mode), rounded(words[finite], name, mode), words[finite])


@given(names, rules, modes, arrays)
@example("fp16", "keep", "nearest_even", np.array([0x80000001, 0x7F800000, 0xFFC00001], np.uint32))
def test_decode_of_encode_is_round_to(name: str, subnormals: str, mode: str, words: np.ndarray) -> None:
    words = admitted(words, name)
    how = {"rounding": mode, "subnormals": subnormals, "backend": "numpy"}
    how |= {"key": KEY} if mode == "stochastic" else {}
    codes = pr.encode(words.view(np.float32), name, **how)
    assert_same_bits(pr.decode(codes, name, backend="numpy"), pr.round_to(words.view(np.float32), name, **how), words)


@given(
    st.sampled_from([name for name in [*STANDARDS, *WIDE] if standard(name).fraction_bits and name not in INTEGERS]),
    modes,
    st.integers(0, 2**23 - 1),
    st.booleans(),
    st.data(),
)
def test_powers_of_two_pass_through(name: str, mode: str, fraction: int, negative: bool, data: st.DataObject) -> None:
    """round(2^k x) = 2^k round(x) while both stay among the normal values."""
    fmt = standard(name)
    low, high = max(fmt.emin, -126), fmt.emax - 1
    if high < low:
        return
    here, there = (data.draw(st.integers(low, high)) for _ in range(2))
    sign = negative << 31 if fmt.signed else 0
    x, y = (np.array([sign | e + 127 << 23 | fraction], np.uint32) for e in (here, there))
    scaled = np.ldexp(rounded(x, name, mode).astype(np.float64), there - here)
    assert_same_bits(rounded(y, name, mode), scaled.astype(np.float32), x)


@given(names, arrays)
def test_flushing_leaves_zeros_and_normal_values(name: str, words: np.ndarray) -> None:
    words = admitted(words, name)
    kept, flushed = (rounded(words, name, "nearest_even", subnormals=rule) for rule in ("keep", "flush"))
    smallest = 0 if name in INTEGERS else pr.parse_format(name).min_normal
    small = np.abs(kept) < smallest
    assert (flushed[small] == 0).all()
    assert_same_bits(flushed[~small], kept[~small])


@given(names, arrays)
def test_saturation_stays_within_the_range(name: str, words: np.ndarray) -> None:
    words = without_nan(words)
    fmt = pr.parse_format(name)
    for mode in MODES:
        result = rounded(words, name, mode, overflow="saturate")
        within_range = (fmt.minimum <= result) & (result <= fmt.maximum)
        assert (within_range | (np.isnan(result) & (name == "e8m0"))).all()
