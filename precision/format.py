"""Number formats: frozen records of independent facts, everything else derived.

A floating-point code is a sign bit (in signed formats), ``exponent_bits`` and ``significand_bits`` (stored, without
the hidden one).  A finite value is

    (-1)^sign * significand * 2^quantum,   0 <= significand < 2^(significand_bits + 1)

An integer format is the same record seen as fixed point: one long subnormal range whose quantum is 1.  The named
records stand in ``precision.formats``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

CANONICAL_NAN = 0x7FC00000  # what every NaN becomes in a float32 carrier
NanEncoding = Literal["ieee", "all_ones", "negative_zero", "none"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A number format of at most 64 bits.

    Fields
        name: lower case, as ``parse_format`` reads it.
        exponent_bits, significand_bits: stored bits; ``exponent_bits = 0`` marks a two's complement integer.
        bias: exponent of a float = stored exponent - bias.
        subnormals: the lowest exponent field holds multiples of the smallest quantum; else nothing but zero.
        infinities: the largest magnitude code that is no NaN is infinity.
        nan: "ieee": highest exponent field with a nonzero significand (zero there is infinity);
            "all_ones": every bit but the sign; "negative_zero": the sign bit alone; "none".
        signed: has a sign bit.
        zero: code 0 is zero; without, the lowest exponent field is an ordinary one (E8M0).
    Errors: ValueError for facts that contradict each other.
    """

    name: str
    exponent_bits: int
    significand_bits: int
    bias: int = 0
    subnormals: bool = True
    infinities: bool = True
    nan: NanEncoding = "ieee"
    signed: bool = True
    zero: bool = True

    def __post_init__(self) -> None:
        for wrong, because in self._contradictions():
            if wrong:
                raise ValueError(f"format {self.name}: {because}")

    def _contradictions(self) -> list[tuple[bool, str]]:
        e, m = self.exponent_bits, self.significand_bits
        return [
            (e < 0 or m < 0, f"{e} exponent and {m} significand bits; neither may be negative"),
            (e == 0 and m < 1, "an integer needs at least 1 bit besides the sign"),
            (e == 0 and (self.infinities or self.nan != "none"), "an integer has no infinities and no NaN; say so"),
            (e == 0 and not (self.signed and self.zero), "an integer is signed and has a zero"),
            (self.nan not in ("ieee", "all_ones", "negative_zero", "none"), f"unknown NaN encoding {self.nan!r}"),
            (self.nan == "ieee" and (e < 2 or m < 1), f"{e} exponent and {m} significand bits leave no IEEE NaN; "
             "it takes at least 2 and 1"),
            (self.nan == "ieee" and not self.infinities, "an IEEE NaN stands beside infinities"),
            (self.nan == "negative_zero" and not self.signed, "no sign bit, so no negative zero to be the NaN"),
            (self.bits > 64, f"{self.bits} bits; at most 64 are offered"),
        ]  # fmt: skip

    @property
    def is_integer(self) -> bool:
        return self.exponent_bits == 0

    @property
    def signed_zero(self) -> bool:
        """Whether there is a -0."""
        return self.signed and self.zero and self.nan != "negative_zero" and not self.is_integer

    @property
    def has_nan(self) -> bool:
        return self.nan != "none"

    @property
    def bits(self) -> int:
        """Width of a code, sign included."""
        return int(self.signed) + self.exponent_bits + self.significand_bits

    @property
    def magnitude_bits(self) -> int:
        """Width of a code without its sign."""
        return self.bits - int(self.signed)

    @property
    def precision(self) -> int:
        """Significand bits with the hidden one: p of the literature."""
        return self.significand_bits + (0 if self.is_integer else 1)

    @property
    def min_normal_exponent(self) -> int:
        """Exponent of the smallest normal value; an integer format is subnormal up to its top."""
        return self.significand_bits if self.is_integer else int(self.zero) - self.bias

    @property
    def min_subnormal_exponent(self) -> int:
        """log2 of the quantum of the subnormal range: every finite value is a multiple of it."""
        return self.min_normal_exponent - self.significand_bits

    @property
    def infinity_code(self) -> int | None:
        """Code of +infinity, if there is one."""
        if not self.infinities:
            return None
        if self.nan == "ieee":
            return ((1 << self.exponent_bits) - 1) << self.significand_bits
        return (1 << self.magnitude_bits) - 1 - (self.nan == "all_ones")

    @property
    def nan_code(self) -> int | None:
        """Code of the canonical NaN (quiet, sign 0), if there is one."""
        if self.nan == "ieee":
            return ((1 << self.exponent_bits) - 1) << self.significand_bits | 1 << (self.significand_bits - 1)
        return {"all_ones": (1 << self.magnitude_bits) - 1, "negative_zero": 1 << self.magnitude_bits}.get(self.nan)

    @property
    def largest_code(self) -> int:
        """Code of the largest finite value."""
        if self.infinity_code is not None:
            return self.infinity_code - 1
        return (1 << self.magnitude_bits) - 1 - (self.nan == "all_ones")

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value."""
        if self.is_integer:
            return self.significand_bits - 1
        return (self.largest_code >> self.significand_bits) - self.bias

    @property
    def maximum(self) -> float:
        """Largest finite value."""
        if self.is_integer:
            return float((1 << self.significand_bits) - 1)
        hidden = 1 << self.significand_bits
        significand = hidden + self.largest_code % hidden
        return float(significand) * 2.0 ** (self.max_exponent - self.significand_bits)

    @property
    def minimum(self) -> float:
        """Lowest finite value."""
        if not self.signed:
            return 0.0 if self.zero else self.min_normal
        return -self.maximum - (1.0 if self.is_integer else 0.0)

    @property
    def min_normal(self) -> float:
        return 1.0 if self.is_integer else 2.0**self.min_normal_exponent

    @property
    def min_subnormal(self) -> float:
        """Smallest positive value."""
        return 2.0**self.min_subnormal_exponent if self.subnormals else self.min_normal

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next larger value."""
        return 1.0 if self.is_integer else 2.0**-self.significand_bits

    @property
    def dtype(self) -> np.dtype:
        """The NumPy or ml_dtypes type whose bit patterns are this format's codes."""
        from precision.formats import dtype_of

        return dtype_of(self)

    @property
    def code_dtype(self) -> np.dtype:
        """Type of ``encode``'s result: int8 for integer formats, else the unsigned integer that holds the bits."""
        if self.is_integer:
            return np.dtype(np.int8)
        return np.dtype(f"u{next(size for size in (1, 2, 4, 8) if self.bits <= 8 * size)}")

    @cached_property
    def constants(self) -> Any:
        """The words of the kernels, for rounding to nearest even with the default overflow and subnormals."""
        from precision.rounding_modes import NEAREST_EVEN

        return NEAREST_EVEN.words(self)

    def __str__(self) -> str:
        return self.name
