"""Rounding by search, for arrays: the two values of the format beside x, and a choice between them.

Differences, halves and fractions are exact in float64: x and its neighbours are multiples of one quantum, at most
2^53 apart, and neighbours are a power of two apart.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from format_oracle import Standard, code_of, codes, standard, stays_finite, value_of_code
from reals import NAN, NAN_BITS, write

Neighbours = tuple[np.ndarray, np.ndarray, np.ndarray]


# Tables


@cache
def grid(name: str) -> np.ndarray:
    """Values of magnitude codes 0, 1, 2 ... to the largest finite value and of the two that would follow; float64."""
    fmt = standard(name)
    return np.array([float(fmt.magnitude(code)) for code in range(fmt.limit(True) + 3)])


def positive_values(name: str) -> np.ndarray:
    """Values of codes 0, 1, 2 ... and, in place of infinity, the value that would follow."""
    return grid(name)[: standard(name).last + 2]


@cache
def every_value(name: str) -> np.ndarray:
    """Float32 pattern of each code of a format of at most 16 bits, the codes ascending as unsigned numbers."""
    return np.array([write(value_of_code(code, name)) for code in codes(name)], np.uint32)


def encoded(words: np.ndarray, name: str) -> np.ndarray:
    """Codes, as unsigned numbers, of float32 patterns that are values of a format of at most 16 bits."""
    values, first = np.unique(every_value(name), return_index=True)
    result = first[np.searchsorted(values, words)]
    if standard(name).has_nan:
        result[words == NAN_BITS] = code_of(NAN, name)
    return result.astype(np.uint32)


def code_type(name: str) -> np.dtype:
    """int8 for integers, else the narrowest unsigned type that holds the bits."""
    fmt = standard(name)
    if fmt.twos_complement:
        return np.dtype(np.int8)
    return np.dtype(np.uint8 if fmt.bits <= 8 else np.uint16 if fmt.bits <= 16 else np.uint32)


def as_codes(codes: np.ndarray, name: str) -> np.ndarray:
    """Unsigned codes in the type they are stored in, integers sign-extended."""
    codes = np.asarray(codes).astype(np.int64)
    if standard(name).twos_complement:
        codes = codes - 2 * (codes & standard(name).sign_bit)
    return codes.astype(code_type(name))


# Neighbours


def _beside(magnitude: np.ndarray, name: str) -> Neighbours:
    """Code of the largest value that is not above, this value, the next one."""
    if name == "fp32":
        return _beside_in_float32(magnitude)
    values = grid(name)
    code = np.searchsorted(values[:-1], np.clip(magnitude, values[0], values[-2]), side="right") - 1
    return code, values[code], values[code + 1]


def _beside_in_float32(magnitude: np.ndarray) -> Neighbours:
    """By NumPy's conversion, stepped back where it went up; 2^128 follows the largest value."""
    with np.errstate(over="ignore"):
        near = magnitude.astype(np.float32)
    code = near.view(np.uint32).astype(np.int64)
    code -= near > magnitude
    code[magnitude >= 2.0**128] = 0x7F800000
    values = code.astype(np.uint32).view(np.float32).astype(np.float64)
    following = np.minimum(code + 1, 0x7F800000).astype(np.uint32).view(np.float32).astype(np.float64)
    top = 0x7F800000
    return code, np.where(code == top, 2.0**128, values), np.where(code + 1 >= top, 2.0**128, following)


def _away(mode: str, magnitude: np.ndarray, beside: Neighbours, negative: np.ndarray) -> np.ndarray:
    """Which magnitudes go to the value above; the stochastic mode is decided elsewhere."""
    code, low, high = beside
    down, up, odd = magnitude - low, high - magnitude, code % 2 == 1
    inexact = down > 0
    return {
        "nearest_even": lambda: (down > up) | ((down == up) & odd),
        "nearest_away": lambda: down >= up,
        "toward_zero": lambda: np.zeros_like(odd),
        "up": lambda: inexact & ~negative,
        "down": lambda: inexact & negative,
        "to_odd": lambda: inexact & ~odd,
    }[mode]()


def _away_by_chance(magnitude: np.ndarray, beside: Neighbours, words: np.ndarray, random_bits: int) -> np.ndarray:
    """Fraction of the way to the value above in 2^-R, plus the top R bits of the word, against one."""
    _, low, high = beside
    with np.errstate(invalid="ignore"):
        fraction = np.where(high > low, (magnitude - low) / (high - low), 0)
    steps = np.rint(fraction * 2.0**random_bits).astype(np.int64)
    return steps + (words >> np.uint32(32 - random_bits)).astype(np.int64) >= 1 << random_bits


# Rounding


def searched(
    x: np.ndarray,
    name: str,
    mode: str = "nearest_even",
    *,
    overflow: str = "ieee",
    subnormals: str = "keep",
    words: np.ndarray | None = None,
    random_bits: int = 24,
) -> np.ndarray:
    """Float32 or float64 values rounded once to a format that has a table, or to fp32; float32 patterns."""
    fmt = standard(name)
    x = np.asarray(x)
    negative, magnitude = np.signbit(x), np.abs(_widened(x))
    number = ~np.isnan(magnitude)
    least, most = float(fmt.magnitude(0)), float(fmt.magnitude(fmt.limit(True) + 1))
    clipped = np.clip(np.where(number, magnitude, 0), least, most)
    beside = _beside(clipped, name)
    if mode == "stochastic":
        away = _away_by_chance(clipped, beside, words, random_bits)
    else:
        away = _away(mode, clipped, beside, negative)
    code = beside[0] + away
    result = np.where(away, beside[2], beside[1])
    if subnormals == "flush" and not fmt.twos_complement:
        result = np.where(result < 2.0**fmt.emin, 0, result)
    limit = np.where(negative, fmt.limit(True), fmt.limit(False))
    finite = ~np.isinf(magnitude)
    top = np.where(negative, float(fmt.magnitude(fmt.limit(True))), float(fmt.magnitude(fmt.limit(False))))
    stays = finite & np.where(negative, stays_finite(mode, True), stays_finite(mode, False))
    result = np.where((code > limit) | ~finite, _beyond(fmt, overflow, top, stays), result)
    result = _signed(fmt, overflow, np.copysign(result, np.where(negative, -1.0, 1.0)))
    if not fmt.zero:
        result = np.where(negative | (magnitude == 0), np.nan, result)
    nan = np.nan if fmt.has_nan or fmt.twos_complement else -0.0
    return _patterns(np.where(number, result, nan))


def nearest(x: np.ndarray, name: str) -> np.ndarray:
    """Float32 values to nearest, ties to even; float32."""
    return searched(np.asarray(x, np.float32), name).view(np.float32)


def _widened(x: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return x.astype(np.float64)


def _patterns(values: np.ndarray) -> np.ndarray:
    """Of float32 values that stand in float64; one NaN."""
    words = values.astype(np.float32).view(np.uint32)
    return np.where(np.isnan(values), np.uint32(NAN_BITS), words)


def _beyond(fmt: Standard, overflow: str, top: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """Magnitudes that stand for what is above the largest finite value."""
    if overflow == "saturate" or (fmt.infinity is None and not fmt.has_nan):
        return top
    endless = np.nan if fmt.infinity is None else np.inf
    return np.where(stays & (overflow == "ieee"), top, endless)


def _signed(fmt: Standard, overflow: str, values: np.ndarray) -> np.ndarray:
    """The same where the format has this sign."""
    if not fmt.signed_zero:
        values = np.where(values == 0, 0.0, values)
    if fmt.signed:
        return values
    return np.where(values < 0, 0.0 if overflow == "saturate" else np.nan, values)
