"""What rounding did to each value, from the definitions of the counters, in exact rational numbers.

Values that occur again are told once: an array of any size made of a few patterns costs no more than those.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from format_oracle import Standard, goes_away, rounded, standard
from reals import Real, exponent_of, power, read, write
from strategies import EDGES, NANS, drawn, generator, with_neighbours, without_nan

EVENTS = (
    "zero", "nan", "infinite", "subnormal", "became_subnormal", "underflowed", "overflowed", "saturated", "inexact",
    "compared",
)  # fmt: skip


class Told(NamedTuple):
    """One value: the pattern it became, what happened on the way, and how far it moved (0 where not compared)."""

    result: int
    events: tuple[str, ...]
    error: Fraction


@dataclass
class Recount:
    """All of an array; exponents by floor(log2 |x|), the sums exact."""

    results: np.ndarray
    counts: Counter = field(default_factory=Counter)
    exponents: Counter = field(default_factory=Counter)
    significands: Counter = field(default_factory=Counter)  # by exponent and column
    largest: float = 0.0
    smallest: float = math.inf
    signal: Fraction = Fraction(0)
    noise: Fraction = Fraction(0)


def is_finite(x: Real) -> bool:
    return not x.is_nan and not x.is_infinite


def went_beyond(x: Real, fmt: Standard, mode: str, word: int, random_bits: int) -> bool:
    """Whether a finite number, rounded as if values had no end, lies beyond the largest finite one of its sign.

    Below zero an unsigned format has nothing but zero, and E8M0 nothing at all.
    """
    if x.negative and not fmt.zero:
        return x.magnitude != 0
    magnitude = max(x.magnitude, fmt.magnitude(0))
    code = fmt.below(magnitude)
    low, high = fmt.magnitude(code), fmt.magnitude(code + 1)
    code += goes_away(mode, code, (magnitude - low) / (high - low), x.negative, word, random_bits)
    return code > (0 if x.negative and not fmt.signed else fmt.limit(x.negative))


@lru_cache(maxsize=1 << 18)
def tell(u: int, name: str, mode: str, overflow: str, subnormals: str, word: int, random_bits: int) -> Told:
    fmt, x = standard(name), read(u)
    y = rounded(x, name, mode, overflow=overflow, subnormals=subnormals, word=word, random_bits=random_bits)
    beyond = is_finite(x) and went_beyond(x, fmt, mode, word, random_bits)
    compared = is_finite(x) and is_finite(y)
    happened = {
        "zero": x.magnitude == 0,
        "nan": x.is_nan,
        "infinite": x.is_infinite,
        "subnormal": 0 < x.magnitude < power(-126),
        "became_subnormal": not fmt.twos_complement and 0 < y.magnitude < power(fmt.emin),
        "underflowed": x.magnitude > 0 and y.magnitude == 0,
        "overflowed": beyond,
        "saturated": (beyond or x.is_infinite) and is_finite(y),
        "inexact": not x.is_nan and (y.is_nan or x.value != y.value),
        "compared": compared,
    }
    error = y.value - x.value if compared else Fraction(0)
    return Told(write(y), tuple(name for name in EVENTS if happened[name]), error)


def recount(
    words: np.ndarray,
    name: str,
    mode: str = "nearest_even",
    *,
    overflow: str = "ieee",
    subnormals: str = "keep",
    random: np.ndarray | None = None,
    random_bits: int = 24,
) -> Recount:
    """Of float32 patterns; ``random``: the word of each, for the stochastic mode."""
    drawn_words = np.zeros_like(words) if random is None else random
    pairs = list(zip(words.ravel().tolist(), drawn_words.ravel().tolist(), strict=True))
    told = {(u, r): tell(u, name, mode, overflow, subnormals, r, random_bits) for u, r in set(pairs)}
    found = Recount(np.array([told[pair].result for pair in pairs], np.uint32).reshape(words.shape))
    for (u, r), times in Counter(pairs).items():
        _add(found, read(u), told[u, r], times)
    found.smallest = 0.0 if math.isinf(found.smallest) else found.smallest
    return found


def _add(found: Recount, x: Real, told: Told, times: int) -> None:
    found.counts.update(dict.fromkeys(told.events, times))
    if is_finite(x) and x.magnitude > 0:
        exponent = exponent_of(Fraction(x.magnitude))
        found.exponents[exponent] += times
        found.significands[exponent, column_of(Fraction(x.magnitude) / power(exponent))] += times
        found.largest, found.smallest = (
            max(found.largest, float(x.magnitude)),
            min(found.smallest, float(x.magnitude)),
        )
    if "compared" in told.events:
        found.signal += times * x.value**2
        found.noise += times * told.error**2


def column_of(significand: Fraction) -> int:
    """Column of a significand in [1, 2): its leading ones, at most 11, and what follows the zero behind them."""
    rest, ones = significand - 1, 0
    if rest == 0:
        return 0
    while rest >= Fraction(1, 2) and ones < 11:
        rest, ones = 2 * rest - 1, ones + 1
    return 23 if ones == 11 else 1 + 2 * ones + (rest > Fraction(1, 4))


def table_of(significands: np.ndarray) -> Counter:
    """A table of significands as the recount has it."""
    rows, columns = map(np.ndarray.tolist, np.nonzero(significands))
    return Counter(
        {(row - 149, column): int(significands[row, column]) for row, column in zip(rows, columns, strict=True)}
    )


def telling_patterns(name: str, count: int = 60) -> np.ndarray:
    """Float32 patterns of both signs: where the events of a format begin and end, and the float32 beside those; the
    edges; NaNs where the format takes them; ``count`` drawn around its range, ``count`` anywhere."""
    fmt = standard(name)
    normal = 1 << fmt.fraction_bits
    codes = (0, 1, 2, 3, normal - 1, normal, normal + 1, fmt.last - 1, fmt.last, fmt.limit(True))
    halves = [(fmt.magnitude(c) + fmt.magnitude(c + 1)) / 2 for c in codes]
    points = [*map(fmt.magnitude, codes), *halves, fmt.magnitude(fmt.last + 1)]
    values = np.array([min(float(point), 2.0**127) for point in points]).astype(np.float32)
    magnitudes = with_neighbours(values.view(np.uint32))
    around = (max(fmt.emin - fmt.fraction_bits + 125, 0), min(fmt.emax + 129, 255))
    rng = generator(fmt.bits)
    parts = [magnitudes, magnitudes | np.uint32(1 << 31), EDGES, NANS, NANS | np.uint32(1 << 31)]
    words = np.concatenate([*parts, drawn(rng, count, around), drawn(rng, count)])
    return without_nan(words) if fmt.twos_complement else words
