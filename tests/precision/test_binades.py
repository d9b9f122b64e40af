"""Losses told from counts per binade, against rounding every value at every scale."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
from event_oracle import telling_patterns
from format_oracle import standard
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import EDGES, drawn, generator, patterns, sprinkled

import precision as pr
from precision.backends import get_backend
from precision.binades import Binades, largest_exponent, smallest_exponent
from precision.formats import BF16, E4M3FN, E5M2, FP16, Format, parse_format
from precision.formats import FORMATS as REGISTERED
from precision.rounding_modes import NEAREST_EVEN, Rounding

FORMATS = (FP16, BF16, E5M2, E4M3FN)
SCALES = range(-8, 25)
POSITIVE = st.integers(1, 0x7F7FFFFF)
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=str)
TOLD = tuple(
    fmt
    for fmt in REGISTERED.values()
    if fmt.signed and fmt.zero and not fmt.is_integer and fmt.significand_bits and fmt.name != "fp64"
)


def as_floats(words: np.ndarray) -> np.ndarray:
    return np.asarray(words, np.uint32).view(np.float32)


def by_rounding(x: np.ndarray, fmt: Format, scale: int) -> tuple[int, int]:
    """(nonzero values that become zero, finite ones that do not stay so) of x 2^scale, exact in float64, rounded."""
    wide = x[np.isfinite(x) & (x != 0)].astype(np.float64)
    rounded = get_backend("numpy").round_to(np.ldexp(wide, scale), fmt)
    return int((rounded == 0).sum()), int((~np.isfinite(rounded)).sum())


def by_definition(x: float, name: str, scale: int) -> tuple[bool, bool]:
    """(becomes zero, overflows) of one value in exact arithmetic: the nearest code, the even one of two."""
    own = standard(name)
    magnitude = abs(Fraction(x)) * Fraction(2) ** scale
    code = own.below(magnitude)
    low, high = own.magnitude(code), own.magnitude(code + 1)
    middle = (low + high) / 2
    code += magnitude > middle or (magnitude == middle and code % 2 == 1)
    return code == 0, code > own.last


@every_format
def test_counts_are_those_of_rounding(fmt: Format) -> None:
    """Patterns of every exponent, of a gradient's and of edges, ties and their neighbours; at every scale."""
    rng = generator(17)
    words = np.concatenate([drawn(rng, 4000), drawn(rng, 4000, (90, 160)), sprinkled(rng, drawn(rng, 500)), EDGES])
    x = as_floats(words)
    binades = Binades.of(x)
    seen = {k: (binades.underflowed(fmt, k), binades.overflowed(fmt, k)) for k in SCALES}
    assert seen == {k: by_rounding(x, fmt, k) for k in SCALES}
    assert len(set(seen.values())) > 25  # nearly every scale of these loses another number


@pytest.mark.thinned(0.15)
@pytest.mark.parametrize("fmt", TOLD, ids=str)
def test_every_registered_format(fmt: Format) -> None:
    """Under every scale, from a table of values around its thresholds, and from one of values anywhere; with every
    subnormal result flushed, too."""
    near = telling_patterns(fmt.name, 1000)
    x = as_floats(np.concatenate([drawn(generator(18), 2000, (80, 250)), near]))
    binades = Binades.of(x)
    flushing = Rounding(mode="nearest_even", subnormals="flush")
    for k in SCALES:
        wide = np.ldexp(x[np.isfinite(x) & (x != 0)].astype(np.float64), k)
        beyond = wide[np.abs(wide) >= fmt.maximum]
        assert binades.overflowed(fmt, k) == sum(is_beyond(float(v), fmt.name) for v in np.abs(beyond))
        assert binades.underflowed(fmt, k) == zeros(wide, fmt, NEAREST_EVEN)
        if fmt.name != "fp32":
            assert binades.underflowed(fmt, k, "flush") == zeros(wide, fmt, flushing)


def zeros(wide: np.ndarray, fmt: Format, rounding: Rounding) -> int:
    return int((get_backend("numpy").round_to(wide, fmt, rounding) == 0).sum())


@lru_cache(maxsize=1 << 16)
def is_beyond(magnitude: float, name: str) -> bool:
    return by_definition(magnitude, name, 0)[1]


def test_a_table_of_statistics_serves() -> None:
    x = as_floats(np.concatenate([drawn(generator(19), 3000), EDGES]))
    seen = pr.statistics(x, "bf16")
    assert np.array_equal((seen + seen).significands, 2 * Binades.of(x).significands)
    binades = Binades(significands=seen.significands)
    assert np.array_equal(binades.total, seen.exponents)
    magnitude = np.abs(x[np.isfinite(x) & (x != 0)])
    assert binades.powers.sum() == (np.frexp(magnitude)[0] == 0.5).sum()


@pytest.mark.parametrize("name", ["int8", "e8m0", "binary8p1se", "binary8p3ue", "fp64"])
def test_other_formats_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^losses in {name} cannot be told[^\n]*choose a signed"):
        Binades.of(np.ones(1, np.float32)).overflowed(parse_format(name), 0)
    with pytest.raises(ValueError, match=r"^losses in fp32 cannot"):
        Binades.of(np.ones(1, np.float32)).underflowed(parse_format("fp32"), 0, "flush")


@every_format
@given(words=st.lists(patterns, min_size=1, max_size=6), scale=st.sampled_from(SCALES))
@example(words=[0x00000001, 0x007FFFFF, 0x00800000], scale=24)
@example(words=[0x00000001, 0x80000003], scale=-8)
def test_counts_by_definition(fmt: Format, words: list[int], scale: int) -> None:
    x = as_floats(np.array(words, np.uint32))
    finite = [float(value) for value in x if np.isfinite(value) and value != 0]
    expected = [by_definition(value, fmt.name, scale) for value in finite]
    binades = Binades.of(x)
    assert binades.underflowed(fmt, scale) == sum(zero for zero, _ in expected)
    assert binades.overflowed(fmt, scale) == sum(over for _, over in expected)


@pytest.mark.parametrize(
    ("fmt", "fits", "overflows"),
    [
        (FP16, 0x477FEFFF, 0x477FF000),  # the tie at 65520 goes up
        (BF16, 0x7F7F7FFF, 0x7F7F8000),
        (E5M2, 0x476FFFFF, 0x47700000),  # 61440
        (E4M3FN, 0x43E80000, 0x43E80001),  # the tie at 464 goes down, to 448
    ],
    ids=str,
)
def test_within_one_binade(fmt: Format, fits: int, overflows: int) -> None:
    """Neighbours of one exponent: the last that fits and the first that does not, at every scale."""
    below, above = (as_floats(np.array([word])) for word in (fits, overflows))
    for k in SCALES:
        if fmt == BF16 and k < 0:
            continue  # 2^128 is no float32
        scaled = [np.ldexp(value, -k).astype(np.float32) for value in (below, above)]
        assert [Binades.of(value).overflowed(fmt, k) for value in scaled] == [0, 1]


@every_format
def test_half_of_the_smallest_subnormal(fmt: Format) -> None:
    """It is a tie and becomes zero; 1.5 times it has the same exponent and does not."""
    for k in range(-8, 16):
        half = np.ldexp(1.0, fmt.min_subnormal_exponent - 1 - k)
        x = np.array([half, -1.5 * half, half / 2], np.float32)
        expected = int(x[0] != 0) + int(x[2] != 0)  # float32 ends at 2^-149
        assert Binades.of(x).underflowed(fmt, k) == expected


# Single values


def rounded(x: float, exponent: int, fmt: Format) -> float:
    """x 2^exponent rounded; beyond float64's range it has overflowed, or is zero, in any of the formats."""
    value = Fraction(x) * Fraction(2) ** exponent
    if value >= Fraction(2) ** 200 or value <= Fraction(2) ** -200:
        return float("inf") if value > 1 else 0.0
    return float(get_backend("numpy").round_to(np.array([float(value)]), fmt)[0])


@every_format
@given(pattern=POSITIVE)
@example(pattern=0x477FE000)  # 65504
@example(pattern=0x477FEFFF)
@example(pattern=0x477FF000)  # 65520, a tie
@example(pattern=0x43E80000)  # 464, the tie above e4m3fn's 448
@example(pattern=0x3F800000)
@example(pattern=0x00000001)
def test_largest_and_smallest_by_rounding(fmt: Format, pattern: int) -> None:
    x = float(np.uint32(pattern).view(np.float32))
    largest, smallest = largest_exponent(x, fmt), smallest_exponent(x, fmt)
    assert np.isfinite(rounded(x, largest, fmt))
    assert not np.isfinite(rounded(x, largest + 1, fmt))
    assert rounded(x, smallest, fmt) > 0
    assert rounded(x, smallest - 1, fmt) == 0
