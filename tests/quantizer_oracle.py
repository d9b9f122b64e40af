"""Integer quantizers from their definition, in exact rational numbers, rounded once a step.

Nothing here is shared with ``precision``: of a scheme only the facts it states are read, ``granularity``, ``bits``,
``scale_format`` and so on.  Every step is a float32 operation that flushes subnormals, rounded once more where the
scheme's ``arithmetic`` is narrower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from format_oracle import goes_away
from oracles import (
    NAN,
    ONE,
    ZERO,
    Real,
    exponent_of,
    ftz_add,
    ftz_divide,
    ftz_multiply,
    ftz_square_root,
    ftz_subtract,
    negated,
    power,
    read_all,
    real,
    rounded,
    write_all,
)

WIDEST = 511  # largest code where nothing clamps


class Tile(NamedTuple):
    codes: list[int]
    scale: Real
    zero: int = 0


class Result(NamedTuple):
    """Codes (int64), patterns of the scales, zero points (int32; None where codes are symmetric)."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None


# Tiles


def edges(shape: Sequence[int], scheme: Any, axis: int) -> list[int | None]:
    """Edge of a tile along each axis; None: all of it."""
    if scheme.granularity == "tensor":
        return [None] * len(shape)
    result: list[int | None] = [1] * len(shape)
    if scheme.granularity == "block":
        result[-2:] = [scheme.group, scheme.group]
    else:
        result[{"row": -1, "column": -2}.get(scheme.granularity, axis)] = scheme.group
    return result


def owners(shape: Sequence[int], scheme: Any, axis: int) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape of the scales, and for every element the number of its tile, row-major."""
    lengths = [n if edge is None else edge for n, edge in zip(shape, edges(shape, scheme, axis), strict=True)]
    alone = [edge is None for edge in edges(shape, scheme, axis)]
    count = tuple(1 if one else -(-n // t) for n, t, one in zip(shape, lengths, alone, strict=True))
    place = [i // max(t, 1) for i, t in zip(np.indices(shape), lengths, strict=True)]
    return count, np.ravel_multi_index(place, [max(c, 1) for c in count]).reshape(shape)


def quantize(words: np.ndarray, scheme: Any, axis: int, random: np.ndarray | None = None) -> Result:
    """An array of float32 patterns, and where rounding is stochastic a random word for each element."""
    count, owner = owners(words.shape, scheme, axis)
    random = np.zeros(words.shape, np.uint32) if random is None else random
    codes, tiles = np.zeros(words.shape, np.int64), []
    for i in range(math.prod(count)):
        own = owner == i
        values = [narrowed(x, scheme.source) for x in read_all(words[own])]
        tiles.append((symmetric if scheme.symmetric else affine)(values, scheme, random[own].tolist()))
        codes[own] = tiles[-1].codes
    scale = write_all(tile.scale for tile in tiles).reshape(count)
    zero = None if scheme.symmetric else np.array([tile.zero for tile in tiles], np.int32).reshape(count)
    return Result(codes, scale, zero)


# Steps


def narrowed(x: Real, name: str) -> Real:
    return x if name == "fp32" else rounded(x, name)


def multiply(x: Real, y: Real, name: str) -> Real:
    return narrowed(ftz_multiply(x, y), name)


def divide(x: Real, y: Real, name: str) -> Real:
    return narrowed(ftz_divide(x, y), name)


def constant(value: Fraction | float, name: str = "fp32") -> Real:
    """The number in float32, then in the format."""
    return narrowed(rounded(real(Fraction(value)), "fp32"), name)


def largest_code(scheme: Any) -> int:
    return 2 ** (scheme.bits - 1) - 1


def least_code(scheme: Any) -> int:
    if scheme.lowest is not None:
        return scheme.lowest
    return -largest_code(scheme) - (not scheme.symmetric)


def span(scheme: Any) -> Fraction:
    if not scheme.symmetric:
        return Fraction(2**scheme.bits - 1)
    return Fraction(largest_code(scheme) if scheme.bound is None else scheme.bound)


def whole(x: Real, mode: str, word: int = 0) -> int:
    """x rounded to an integer."""
    if x.is_infinite:
        return -(10**9) if x.negative else 10**9
    below = math.floor(x.magnitude)
    magnitude = below + goes_away(mode, below, x.magnitude - below, x.negative, word)
    return -magnitude if x.negative else magnitude


def clamped(code: int, scheme: Any) -> int:
    if not scheme.clamps:
        return max(-WIDEST - 1, min(WIDEST, code))
    return max(least_code(scheme), min(largest_code(scheme), code))


def finite(values: Sequence[Real]) -> bool:
    return not any(v.is_nan or v.is_infinite for v in values)


# Symmetric codes


def symmetric(values: Sequence[Real], scheme: Any, random: Sequence[int]) -> Tile:
    if not finite(values):
        return Tile([0] * len(values), NAN)
    return of_absmax(values, chosen_range(values, scheme), scheme, random)


def chosen_range(values: Sequence[Real], scheme: Any) -> Real:
    """Absmax, the nearest-rank percentile, or the range of least squares."""
    ordered = sorted(v.magnitude for v in values) or [Fraction(0)]
    if scheme.clipping.method == "absmax" or not values:
        return real(ordered[-1])
    if scheme.clipping.method == "percentile":
        share = Fraction(Decimal(str(scheme.clipping.percentile))) / 100
        return real(ordered[math.ceil(share * len(values)) - 1])
    return least_squares(values, real(ordered[-1]), scheme)


def of_absmax(values: Sequence[Real], absmax: Real, scheme: Any, random: Sequence[int]) -> Tile:
    """Codes and scale of a tile whose largest code stands for ``absmax``."""
    threshold, below = constant(scheme.threshold), absmax.magnitude < constant(scheme.threshold).magnitude
    nothing = Tile([0] * len(values), ZERO)
    if scheme.tiny == "zero" and below:
        return nothing
    if below and scheme.tiny in ("absmax_one", "least_absmax"):
        absmax = ONE if scheme.tiny == "absmax_one" else constant(scheme.threshold, scheme.arithmetic)
    scale = scale_of(absmax, scheme)
    if scheme.tiny in ("one", "least_scale") and scale.magnitude < threshold.magnitude:
        scale = ONE if scheme.tiny == "one" else threshold
    if scale.magnitude == 0:
        return nothing
    quotients = [quotient(x, absmax, scale, scheme) for x in values]
    codes = [whole(q, scheme.rounding, word) for q, word in zip(quotients, random, strict=True)]
    return Tile([clamped(code, scheme) for code in codes], scale)


def scale_of(absmax: Real, scheme: Any) -> Real:
    if scheme.scale_step == "absmax":
        return absmax
    if scheme.scale_step == "division":
        scale = divide(absmax, constant(span(scheme)), scheme.arithmetic)
    else:
        scale = multiply(absmax, constant(1 / span(scheme), scheme.arithmetic), scheme.arithmetic)
    mode = "up" if scheme.scale_format == "e8m0" else "nearest_even"
    return rounded(scale, scheme.scale_format, mode, overflow="saturate") if scheme.scale_format != "fp32" else scale


def quotient(x: Real, absmax: Real, scale: Real, scheme: Any) -> Real:
    """x in units of its scale."""
    own, bound = scheme.arithmetic, constant(span(scheme))
    inner = scheme.inverse_format or own
    if scheme.quotient == "scale":
        return divide(x, scale, own)
    if scheme.quotient == "bound":
        return multiply(x, divide(bound, absmax, inner), own)
    if scheme.quotient == "unit":
        return multiply(x, multiply(divide(ONE, absmax, inner), bound, inner), own)
    inverse = divide(ONE, scale, inner)
    return multiply(x, ONE if inverse.is_infinite else inverse, own)


# The range of least squares


def least_squares(values: Sequence[Real], absmax: Real, scheme: Any) -> Real:
    """a i / candidates of the smallest computed error, where that is surely smaller than the one of a."""
    exponent = max(-126, min(126, exponent_of(absmax.magnitude))) if absmax.magnitude else -126
    plain = [ftz_multiply(x, real(power(-exponent))) for x in values]
    top = ftz_multiply(absmax, real(power(-exponent)))
    whole_range = norm(plain, top, scheme)
    best, ratio = whole_range, ONE
    for i in range(1, scheme.clipping.candidates):
        candidate = constant(Fraction(i, scheme.clipping.candidates))
        error = norm(plain, ftz_multiply(top, candidate), scheme)
        if error.magnitude < best.magnitude:
            best, ratio = error, candidate
    margin = constant(2.0**-21 * 1.01 * math.sqrt(len(values)))
    limit = ftz_multiply(whole_range, real(1 - power(-16)))
    clipped = ftz_multiply(absmax, ratio)
    certain = ftz_add(best, ftz_multiply(top, margin)).magnitude <= limit.magnitude
    return clipped if certain and clipped.magnitude >= constant(scheme.threshold).magnitude else absmax


def norm(values: Sequence[Real], absmax: Real, scheme: Any) -> Real:
    """Root of the neighbour tree of the squares of the errors, to nearest even whatever the scheme rounds to."""
    tile = of_absmax(values, absmax, _Nearest(scheme), [0] * len(values))
    errors = [
        ftz_subtract(x, ftz_multiply(real(code), tile.scale)) for x, code in zip(values, tile.codes, strict=True)
    ]
    level = [ftz_multiply(e, e) for e in errors]
    while len(level) > 1:
        level += [negated(ZERO)] * (len(level) % 2)
        level = [ftz_add(a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
    return ftz_square_root(level[0])


class _Nearest:
    """A scheme's facts with its rounding replaced."""

    def __init__(self, scheme: Any) -> None:
        self._scheme = scheme

    def __getattr__(self, name: str) -> Any:
        return "nearest_even" if name == "rounding" else getattr(self._scheme, name)


# Affine codes


def affine(values: Sequence[Real], scheme: Any, random: Sequence[int]) -> Tile:
    """s = (high - low) RN(1 / levels),  z = least + round(-low levels / (high - low)), from halves of the ends."""
    nothing = [0] * len(values)
    if not finite(values):
        return Tile(nothing, NAN)
    own, half = scheme.arithmetic, real(Fraction(1, 2))
    low = real(min((v.value for v in values if v.negative), default=Fraction(0)))
    high = real(max((v.value for v in values if not v.negative), default=Fraction(0)))
    width = narrowed(ftz_subtract(multiply(high, half, own), multiply(low, half, own)), own)
    if width.magnitude < constant(scheme.threshold).magnitude:
        return Tile(nothing, ZERO)
    inverse = divide(constant(span(scheme) / 2), width, own)
    scale = multiply(width, constant(2 / span(scheme), own), own)
    zero = least_code(scheme) + whole(multiply(negated(low), inverse, own), "nearest_even")
    quotients = [multiply(x, inverse, own) for x in values]
    codes = [whole(q, scheme.rounding, word) + zero for q, word in zip(quotients, random, strict=True)]
    return Tile([clamped(code, scheme) for code in codes], scale, zero)


# What codes stand for


def dequantized(result: Result, scheme: Any, axis: int) -> np.ndarray:
    """Patterns of (code - zero) scale, rounded once to float32 and to ``arithmetic``; of scales that are absmax,
    times 1 / bound in between."""
    _, owner = owners(result.codes.shape, scheme, axis)
    scales = read_all(result.scale)
    zeros = [0] * len(scales) if result.zero is None else result.zero.ravel().tolist()
    pairs = zip(result.codes.ravel().tolist(), owner.ravel().tolist(), strict=True)
    values = [ftz_multiply(real(code - zeros[i]), scales[i]) for code, i in pairs]
    if scheme.scale_step == "absmax":
        values = [ftz_multiply(x, constant(1 / span(scheme))) for x in values]
    return write_all(narrowed(x, scheme.arithmetic) for x in values).reshape(result.codes.shape)
