"""How a value is rounded, as one frozen record, and its translation into the words of the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from precision import bits
from precision.format import CANONICAL_NAN, Format

Mode = Literal["nearest_even", "nearest_away", "toward_zero", "up", "down", "to_odd", "stochastic"]
Overflow = Literal["ieee", "inf", "saturate"]
Subnormals = Literal["keep", "flush"]

BIAS = 127  # of float32, the carrier
WIDTH = 23  # its stored significand bits
INFINITY = 0x7F800000
SIGN = 0x80000000
NO_CODE = 0x7FFFFFFF  # in place of a code that the format does not have
MODES = {mode: getattr(bits, mode.upper()) for mode in get_args(Mode)}


class Constants(NamedTuple):
    """A format and a way of rounding to it as the unsigned 32-bit words that the kernels of ``bits`` work with."""

    drop: Any  # significand bits of float32 that a normal value of the format does not have
    below_drop: Any  # those, or all 23 in a format without subnormals: what values below the smallest normal lose
    zero_drop: Any  # bits that a float32 subnormal loses
    smallest_normal_exponent: Any  # biased float32 exponent of the smallest normal value
    half_smallest: Any  # half of the smallest positive value, rounded down where float32 has none
    smallest: Any  # smallest positive value
    smallest_normal: Any  # smallest positive normal value
    largest: Any  # largest finite value
    lowest: Any  # magnitude of the lowest finite value (INT8: 128; 0 where nothing is negative)
    nan: Any  # what a NaN becomes
    signless_zero: Any  # 1 where there is no negative zero
    no_zero: Any  # 1 where there is no zero at all
    parity: Any  # 1 where a significand is one bit, always odd, so that the exponent's last bit breaks ties,
    parity_shift: Any  # with this added to it
    magnitude_bits: Any  # bits of a code without its sign
    first_normal_code: Any  # code of the smallest normal value; 0 where code 0 is one
    code_shift: Any  # float32 exponent field of code 0, were it a normal value
    deep: Any  # pattern of 2^-127, where that is a normal value of the format; else 0
    subnormals: Any  # 1 where codes below the first normal one are multiples of the quantum, 0 where they are zeros
    largest_code: Any  # code of the largest finite value
    infinity_code: Any  # code of infinity; NO_CODE where there is none
    nan_code: Any  # the canonical NaN; NO_CODE where there is none
    twos_complement: Any  # 1 for integer formats
    mode: Any  # one of the modes of ``bits``
    random_shift: Any  # 32 - number of random bits
    overflow_positive: Any  # what a finite value beyond the largest becomes
    overflow_negative: Any
    infinite_positive: Any  # what an infinity becomes
    infinite_negative: Any
    flush_below: Any  # results below it become zeros: the smallest normal value, or 0 to keep subnormals


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """A way of rounding.

    Fields
        mode: nearest_even, nearest_away, toward_zero, up, down, to_odd, stochastic.
        overflow: what lies beyond the largest finite value becomes:
            ieee: infinity when rounding to nearest or at random; the largest finite value in toward_zero and
                to_odd; in up and down one or the other by sign.  NaN where a format has no infinity; the
                largest finite value where it has neither.  Infinities stay infinite, or go the same way.
            inf: infinity in every mode.  saturate: the largest finite value in every mode, of infinities too.
        subnormals: "keep", or "flush" results below the smallest normal value to the zero of their sign.
        random_bits: 2 to 24, how many bits decide stochastic rounding.
    Errors: ValueError for anything else.
    """

    mode: Mode = "nearest_even"
    overflow: Overflow = "ieee"
    subnormals: Subnormals = "keep"
    random_bits: int = 24

    def __post_init__(self) -> None:
        _choose("rounding", self.mode, Mode)
        _choose("overflow", self.overflow, Overflow)
        _choose("subnormals", self.subnormals, Subnormals)
        if isinstance(self.random_bits, bool) or not isinstance(self.random_bits, int | np.integer):
            raise ValueError(f"random_bits must be an integer, not {self.random_bits!r}")
        if not 2 <= self.random_bits <= 24:
            raise ValueError(f"random_bits {self.random_bits} is outside 2 to 24; choose a number in that range")

    @property
    def stochastic(self) -> bool:
        return self.mode == "stochastic"

    def words(self, fmt: Format) -> Constants:
        """Format and rounding for the kernels, each an ``np.uint32``.

        Errors: ValueError for a format wider than float32, and for ``overflow="inf"`` without infinities.
        """
        return _words(self, fmt)


def _choose(what: str, value: Any, allowed: Any) -> None:
    if value not in get_args(allowed):
        raise ValueError(f"{what} {value!r} is not offered; choose one of {', '.join(get_args(allowed))}")


NEAREST_EVEN = Rounding()


@lru_cache(maxsize=256, typed=True)  # 2.0 is no 2
def _rounding_of(mode: Mode, overflow: Overflow, subnormals: Subnormals, random_bits: int) -> Rounding:
    return Rounding(mode=mode, overflow=overflow, subnormals=subnormals, random_bits=random_bits)


def rounding_of(mode: Mode, overflow: Overflow, subnormals: Subnormals, random_bits: int) -> Rounding:
    """``Rounding`` of these arguments, one object for equal ones: it is looked up at every call.

    Errors: ValueError as ``Rounding``, whatever the arguments are.
    """
    try:
        return _rounding_of(mode, overflow, subnormals, random_bits)
    except TypeError:  # no cache takes a list
        return Rounding(mode=mode, overflow=overflow, subnormals=subnormals, random_bits=random_bits)


@lru_cache(maxsize=1024)
def _words(rounding: Rounding, fmt: Format) -> Constants:
    if fmt.bits > 32:
        raise ValueError(f"{fmt.name} is a source alone, no float32 carrier can hold this format; choose another")
    if rounding.overflow == "inf" and not fmt.infinities:
        raise ValueError(f"{fmt.name} has no infinity to overflow to; choose overflow 'ieee' or 'saturate'")
    named = _format_words(fmt) | _rounding_words(rounding, fmt)
    return Constants(**{name: np.uint32(word & 0xFFFFFFFF) for name, word in named.items()})


def _format_words(fmt: Format) -> dict[str, int]:
    drop = WIDTH - fmt.significand_bits
    exponent = fmt.min_normal_exponent + BIAS
    smallest, smallest_normal = pattern_of(fmt.min_subnormal), pattern_of(2.0**fmt.min_normal_exponent)
    below_drop = drop if fmt.subnormals else WIDTH
    single = fmt.significand_bits == 0
    code_shift = exponent - int(fmt.zero)
    return {
        "drop": drop,
        "below_drop": below_drop,
        "zero_drop": below_drop + exponent - 1,
        "smallest_normal_exponent": exponent,
        "half_smallest": pattern_of(fmt.min_subnormal / 2) if smallest > 1 else 0,
        "smallest": smallest,
        "smallest_normal": smallest_normal,
        "largest": pattern_of(fmt.maximum),
        "lowest": pattern_of(abs(min(fmt.minimum, 0.0))),
        "nan": CANONICAL_NAN if fmt.has_nan or fmt.is_integer else SIGN,
        "signless_zero": int(not fmt.signed_zero),
        "no_zero": int(not fmt.zero),
        "parity": int(single),
        "parity_shift": code_shift & 1 if single else 0,
        "magnitude_bits": fmt.magnitude_bits,
        "first_normal_code": 1 << fmt.significand_bits if fmt.zero else 0,
        "code_shift": code_shift,
        "deep": smallest_normal if exponent == 0 else 0,
        "subnormals": int(fmt.subnormals),
        "largest_code": fmt.largest_code,
        "infinity_code": NO_CODE if fmt.infinity_code is None else fmt.infinity_code,
        "nan_code": NO_CODE if fmt.nan_code is None else fmt.nan_code,
        "twos_complement": int(fmt.is_integer),
    }


def _rounding_words(rounding: Rounding, fmt: Format) -> dict[str, int]:
    positive, negative = _finite_limits(fmt)
    infinite = _infinite_results(rounding, fmt)
    beyond_positive, beyond_negative = infinite
    stays = rounding.mode in ("toward_zero", "to_odd")
    if rounding.overflow == "ieee" and (stays or rounding.mode == "down"):
        beyond_positive = positive
    if rounding.overflow == "ieee" and (stays or rounding.mode == "up") and fmt.signed:
        beyond_negative = negative
    flush = rounding.subnormals == "flush" and not fmt.is_integer  # an integer's values are no subnormals
    return {
        "mode": MODES[rounding.mode],
        "random_shift": 32 - rounding.random_bits,
        "overflow_positive": beyond_positive,
        "overflow_negative": beyond_negative,
        "infinite_positive": infinite[0],
        "infinite_negative": infinite[1],
        "flush_below": pattern_of(2.0**fmt.min_normal_exponent) if flush else 0,
    }


def _finite_limits(fmt: Format) -> tuple[int, int]:
    return pattern_of(fmt.maximum), pattern_of(-fmt.minimum) | SIGN if fmt.minimum < 0 else 0


def _infinite_results(rounding: Rounding, fmt: Format) -> tuple[int, int]:
    """What +infinity and -infinity become.  An unsigned format has nothing below zero: NaN, or saturated, zero."""
    if rounding.overflow == "saturate" or not (fmt.infinities or fmt.has_nan):
        return _finite_limits(fmt)
    positive = INFINITY if fmt.infinities else CANONICAL_NAN
    negative = SIGN | INFINITY if fmt.infinities and fmt.signed else CANONICAL_NAN
    return positive, negative


def pattern_of(value: float) -> int:
    """Float32 pattern of a value that is one.  ValueError for any other."""
    with np.errstate(over="ignore"):
        pattern = int(np.float32(value).view(np.uint32))
    if float(np.uint32(pattern).view(np.float32)) != value:
        raise ValueError(f"{value!r} is not a float32 value, so no float32 carrier can hold this format")
    return pattern
