"""Block formats from their specifications, one block at a time in exact rational numbers, and by search for arrays.

Nothing here is shared with ``precision``: elements are those of ``format_oracle``, scales are powers of two chosen by
the definition of each rule.  OCP Microscaling Formats 1.0, sections 5 and 6.3; NVFP4 as its reference computes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from format_oracle import rounded, standard, value_of_code
from format_search import searched
from oracles import ftz_divide, ftz_multiply
from reals import NAN, ONE, ZERO, Real, exponent_of, power, real

RULES = ("floor", "ceil", "even", "rceil")
NAN_SCALE = 255


class Microscaling(NamedTuple):
    """Element format, elements in a block, and the exponent of the factor that integers carry."""

    element: str
    size: int = 32
    factor: int = 0

    @property
    def emax(self) -> int:
        """MXINT8: 0, for its largest power of two is 64 / 64."""
        last = standard(self.element).last
        return exponent_of(value_of_code(last, self.element).magnitude) + self.factor


MICROSCALING = {
    "mxfp8_e5m2": Microscaling("e5m2"),
    "mxfp8_e4m3": Microscaling("e4m3fn"),
    "mxfp6_e3m2": Microscaling("e3m2"),
    "mxfp6_e2m3": Microscaling("e2m3"),
    "mxfp4": Microscaling("e2m1"),
    "mxint8": Microscaling("int8", factor=-6),
}


# One block


def scale_exponent(largest: Fraction, fmt: Microscaling, rule: str) -> int:
    """Exponent of the shared scale of a block with this absmax, clamped to -127 ... 127."""
    if largest == 0:
        return -127
    element = standard(fmt.element)
    top = element.magnitude(element.last) * power(fmt.factor)
    chosen = {
        "floor": lambda: exponent_of(largest) - fmt.emax,
        "ceil": lambda: ceil_log2(largest) - fmt.emax,
        "even": lambda: exponent_of(to_digits(largest, digits(fmt.element))) - fmt.emax,
        "rceil": lambda: ceil_log2(largest / top),
    }[rule]()
    return min(max(chosen, -127), 127)


def ceil_log2(x: Fraction) -> int:
    exponent = exponent_of(x)
    return exponent + (x > power(exponent))


def digits(name: str) -> int:
    """Significant binary digits of the largest element."""
    fmt = standard(name)
    return exponent_of(Fraction(fmt.last)) + 1 if fmt.twos_complement else fmt.p


def to_digits(x: Fraction, count: int) -> Fraction:
    """x to so many significant digits, to nearest even."""
    quantum = power(exponent_of(x) - count + 1)
    return round(x / quantum) * quantum


def quantized_block(
    x: Sequence[Real], name: str, rule: str = "floor", mode: str = "nearest_even", words: Sequence[int] | None = None
) -> tuple[list[Real], int]:
    """(elements, scale code); a block that holds NaN or infinity has the scale NaN and elements +0."""
    fmt = MICROSCALING[name]
    if any(v.is_nan or v.is_infinite for v in x):
        return [ZERO] * len(x), NAN_SCALE
    exponent = scale_exponent(max((v.magnitude for v in x), default=Fraction(0)), fmt, rule)
    unit = power(exponent + fmt.factor)
    words = [0] * len(x) if words is None else words
    elements = [
        rounded(Real(v.negative, v.magnitude / unit), fmt.element, mode, overflow="saturate", word=int(word))
        for v, word in zip(x, words, strict=True)
    ]
    return elements, exponent + 127


def value_in_block(element: Real, scale_code: int, name: str) -> Real:
    """element times the scale, and in MXINT8 2^-6, as float32: beyond its range infinity."""
    if scale_code == NAN_SCALE or element.is_nan:
        return NAN
    unit = power(scale_code - 127 + MICROSCALING[name].factor)
    magnitude = math.inf if element.is_infinite else element.magnitude * unit
    return Real(element.negative, math.inf if magnitude >= power(128) else magnitude)


# Arrays of whole blocks, in float64: x / scale and element * scale are exact there


def searched_scales(blocks: np.ndarray, name: str, rule: str = "floor") -> np.ndarray:
    """Scale code of each row of float32 values."""
    fmt = MICROSCALING[name]
    finite = np.isfinite(blocks).all(axis=-1, keepdims=True)
    largest = np.where(finite, np.abs(blocks), 0).max(axis=-1, keepdims=True).astype(np.float64)
    grid = np.array([float(power(e)) for e in range(-149 - 16, 129)])
    ratio = {"rceil": largest / _top(fmt)}.get(rule, largest)
    if rule == "even":
        fraction, exponent = np.frexp(largest)
        ratio = np.ldexp(np.rint(np.ldexp(fraction, digits(fmt.element))), exponent - digits(fmt.element))
    up = rule in ("ceil", "rceil")
    place = np.searchsorted(grid, ratio, side="left" if up else "right") - (0 if up else 1)
    exponent = place - 149 - 16 - (0 if rule == "rceil" else fmt.emax)
    codes = np.where(largest == 0, 0, np.clip(exponent, -127, 127) + 127)
    return np.where(finite, codes, NAN_SCALE).astype(np.uint8)


def _top(fmt: Microscaling) -> float:
    element = standard(fmt.element)
    return float(element.magnitude(element.last) * power(fmt.factor))


def searched_blocks(
    blocks: np.ndarray, name: str, rule: str = "floor", mode: str = "nearest_even", **how: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(patterns of elements, scale codes, patterns of values) of rows of float32 values."""
    fmt = MICROSCALING[name]
    scale = searched_scales(blocks, name, rule)
    exponent = scale.astype(np.int64) - 127 + fmt.factor
    kept = np.where(scale == NAN_SCALE, 0, blocks).astype(np.float64)
    elements = searched(np.ldexp(kept, -exponent), fmt.element, mode, overflow="saturate", **how)
    return elements, scale, searched_values(elements, scale, name)


def searched_values(elements: np.ndarray, scale: np.ndarray, name: str) -> np.ndarray:
    """Patterns of elements (patterns of float32) times scales (codes), beyond float32's range infinite."""
    exponent = scale.astype(np.int64) - 127 + MICROSCALING[name].factor
    with np.errstate(over="ignore"):
        values = np.ldexp(elements.view(np.float32).astype(np.float64), exponent).astype(np.float32)
    nan = (scale == NAN_SCALE) | np.isnan(values)
    return np.where(nan, np.uint32(0x7FC00000), values.view(np.uint32))


# NVFP4


def nvfp4(blocks: Sequence[Sequence[Real]], mode: str = "nearest_even") -> tuple[list[list[Real]], list[Real], Real]:
    """(elements of each block, its scale, the tensor's): S = 2688 / A, every step a float32 that flushes."""
    numbers = [v for block in blocks for v in block]
    if any(v.is_nan or v.is_infinite for v in numbers):
        return [[ZERO] * len(block) for block in blocks], [NAN] * len(blocks), NAN
    largest = max((v.magnitude for v in numbers), default=Fraction(0))
    absmax = real(largest) if largest >= power(-100) else real(2688)
    encode = ftz_divide(real(2688), absmax)
    decode = ftz_divide(ONE, encode)
    sixth = rounded(real(Fraction(1, 6)), "fp32")
    pairs = [_nvfp4_block(block, ftz_multiply(encode, sixth), decode, mode) for block in blocks]
    return [elements for elements, _ in pairs], [scale for _, scale in pairs], decode


def _nvfp4_block(block: Sequence[Real], factor: Real, decode: Real, mode: str) -> tuple[list[Real], Real]:
    largest = real(max(v.magnitude for v in block))
    scale = rounded(ftz_multiply(largest, factor), "e4m3fn", overflow="saturate")
    inverse = ZERO if scale.magnitude == 0 else ftz_divide(ONE, ftz_multiply(scale, decode))
    return [rounded(ftz_multiply(v, inverse), "e2m1", mode, overflow="saturate") for v in block], scale


def nvfp4_value(element: Real, scale: Real, tensor_scale: Real) -> Real:
    return ftz_multiply(ftz_multiply(element, scale), tensor_scale)
