"""Number formats: frozen records of independent facts, everything else derived.

A floating-point format is ``1`` sign bit, ``exponent_bits`` and ``significand_bits`` (stored, without the
hidden one).  A finite value is

    (-1)^sign * significand * 2^quantum,   0 <= significand < 2^(significand_bits + 1)

An integer format is the same record seen as fixed point: one long subnormal range whose quantum is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

FLOAT32_BIAS = 127
FLOAT32_SIGNIFICAND_BITS = 23
CANONICAL_NAN = 0x7FC00000
INFINITY = 0x7F800000


class Constants(NamedTuple):
    """A format as the unsigned 32-bit words that the kernels of ``bits`` work with (float32 patterns)."""

    drop: Any  # significand bits of float32 that a normal value of the format does not have
    smallest_normal_exponent: Any  # biased float32 exponent of the smallest normal value
    half_smallest: Any  # half of the smallest positive value, rounded down where float32 has none
    smallest: Any  # smallest positive value
    smallest_normal: Any  # smallest positive normal value
    largest: Any  # largest finite value
    asymmetry: Any  # patterns that the negative side reaches beyond the positive one (INT8: -128)
    overflow: Any  # what a value beyond the largest becomes
    unsigned_zero: Any  # 1 where there is no negative zero
    magnitude_bits: Any  # bits of a code without its sign
    largest_code: Any  # code of the largest finite value
    infinity_code: Any  # code of infinity; of the largest value where there is none
    nan_code: Any  # the canonical NaN; 0 where there is none
    twos_complement: Any  # 1 for integer formats


@dataclass(frozen=True, kw_only=True)
class Format:
    """A number format of at most 32 bits.

    Fields
        name: lower case, as ``parse_format`` reads it.
        exponent_bits, significand_bits: stored bits; ``exponent_bits = 0`` marks a two's complement integer.
        bias: exponent of a float = stored exponent - bias.
    """

    name: str
    exponent_bits: int
    significand_bits: int
    bias: int = 0

    def __post_init__(self) -> None:
        if self.exponent_bits < 0 or self.exponent_bits == 1 or self.significand_bits < 1:
            raise ValueError(
                f"format {self.name} has {self.exponent_bits} exponent and {self.significand_bits} significand bits; "
                "it needs at least 2 (0 for an integer) and 1"
            )

    @property
    def is_integer(self) -> bool:
        return self.exponent_bits == 0

    @property
    def bits(self) -> int:
        """Width of a code, sign included."""
        return 1 + self.exponent_bits + self.significand_bits

    @property
    def precision(self) -> int:
        """Significand bits with the hidden one: p of the literature."""
        return self.significand_bits + (0 if self.is_integer else 1)

    @property
    def min_normal_exponent(self) -> int:
        """Exponent of the smallest normal value; an integer format is subnormal up to its top."""
        return self.significand_bits if self.is_integer else 1 - self.bias

    @property
    def min_subnormal_exponent(self) -> int:
        """log2 of the smallest positive value, the quantum of the subnormal range."""
        return self.min_normal_exponent - self.significand_bits

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value."""
        if self.is_integer:
            return self.significand_bits - 1
        return (1 << self.exponent_bits) - 2 - self.bias

    @property
    def maximum(self) -> float:
        """Largest finite value."""
        if self.is_integer:
            return float((1 << self.significand_bits) - 1)
        return float(2 ** (self.significand_bits + 1) - 1) * 2.0 ** (self.max_exponent - self.significand_bits)

    @property
    def minimum(self) -> float:
        """Lowest finite value."""
        return -self.maximum - (1.0 if self.is_integer else 0.0)

    @property
    def min_normal(self) -> float:
        return 1.0 if self.is_integer else 2.0**self.min_normal_exponent

    @property
    def min_subnormal(self) -> float:
        return 2.0**self.min_subnormal_exponent

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next larger value."""
        return 1.0 if self.is_integer else 2.0**-self.significand_bits

    @property
    def dtype(self) -> np.dtype:
        """The NumPy or ml_dtypes type whose bit patterns are this format's codes."""
        if FORMATS.get(self.name) != self or self.name not in _DTYPES:
            raise ValueError(f"format {self.name} has no NumPy dtype; carry its values in float32")
        return np.dtype(_DTYPES[self.name])

    @property
    def code_dtype(self) -> np.dtype:
        """Type of ``encode``'s result: int8 for INT8, else the unsigned integer that holds the bits."""
        if self.is_integer:
            return np.dtype(np.int8)
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16 if self.bits <= 16 else np.uint32)

    @cached_property
    def constants(self) -> Constants:
        """The record as float32 patterns, each an ``np.uint32``."""
        return Constants(*map(np.uint32, self._constants()))

    def _constants(self) -> Constants:
        magnitude_bits = self.bits - 1
        largest_code = (1 << magnitude_bits) - 1
        infinity_code = nan_code = 0
        if not self.is_integer:
            infinity_code = ((1 << self.exponent_bits) - 1) << self.significand_bits
            largest_code = infinity_code - 1
            nan_code = infinity_code | (1 << (self.significand_bits - 1))
        smallest = _float32_bits(self.min_subnormal)
        return Constants(
            drop=FLOAT32_SIGNIFICAND_BITS - self.significand_bits,
            smallest_normal_exponent=self.min_normal_exponent + FLOAT32_BIAS,
            half_smallest=_float32_bits(self.min_subnormal / 2) if smallest > 1 else 0,
            smallest=smallest,
            smallest_normal=_float32_bits(2.0**self.min_normal_exponent),
            largest=_float32_bits(self.maximum),
            asymmetry=_float32_bits(-self.minimum) - _float32_bits(self.maximum),
            overflow=_float32_bits(self.maximum) if self.is_integer else INFINITY,
            unsigned_zero=int(self.is_integer),
            magnitude_bits=magnitude_bits,
            largest_code=largest_code,
            infinity_code=infinity_code if infinity_code else largest_code,
            nan_code=nan_code,
            twos_complement=int(self.is_integer),
        )

    def __str__(self) -> str:
        return self.name


def _float32_bits(value: float) -> int:
    with np.errstate(over="ignore"):
        bits = int(np.float32(value).view(np.uint32))
    if float(np.uint32(bits).view(np.float32)) != value:
        raise ValueError(f"{value!r} is not a float32 value, so no float32 carrier can hold this format")
    return bits


FP32 = Format(name="fp32", exponent_bits=8, significand_bits=23, bias=127)
TF32 = Format(name="tf32", exponent_bits=8, significand_bits=10, bias=127)
FP16 = Format(name="fp16", exponent_bits=5, significand_bits=10, bias=15)
BF16 = Format(name="bf16", exponent_bits=8, significand_bits=7, bias=127)
E5M2 = Format(name="e5m2", exponent_bits=5, significand_bits=2, bias=15)
INT8 = Format(name="int8", exponent_bits=0, significand_bits=7)
INT4 = Format(name="int4", exponent_bits=0, significand_bits=3)

FORMATS: dict[str, Format] = {f.name: f for f in (FP32, TF32, FP16, BF16, E5M2, INT8, INT4)}

_DTYPES: dict[str, Any] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e5m2": ml_dtypes.float8_e5m2,
    "int8": np.int8,
    "int4": ml_dtypes.int4,
}


def parse_format(name: str | Format | np.dtype | type) -> Format:
    """The format of that name or dtype: ``"fp16"``, ``np.float16``, ``ml_dtypes.bfloat16``, or itself.

    Errors: ValueError, naming the known formats, for anything else.
    """
    if isinstance(name, Format):
        return name
    if isinstance(name, str) and name.lower() in FORMATS:
        return FORMATS[name.lower()]
    for known, dtype in _DTYPES.items():
        if not isinstance(name, str) and np.dtype(dtype) == _dtype(name):
            return FORMATS[known]
    raise ValueError(f"unknown number format {str(name)!r}; known formats: {', '.join(FORMATS)}")


def _dtype(name: Any) -> np.dtype | None:
    """The dtype that NumPy makes of it, or None."""
    try:
        return np.dtype(name)
    except TypeError:
        return None
