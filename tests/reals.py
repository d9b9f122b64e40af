"""Numbers as the oracles hold them: a sign and an exact magnitude, read from and written to bit patterns."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

NAN_BITS = 0x7FC00000


@dataclass(frozen=True, slots=True)
class Real:
    """A sign and a magnitude: a ``Fraction`` (0 is a signed zero), ``math.inf`` or ``math.nan``."""

    negative: bool
    magnitude: Fraction | float

    @property
    def is_nan(self) -> bool:
        return self.magnitude != self.magnitude

    @property
    def is_infinite(self) -> bool:
        return self.magnitude == math.inf

    @property
    def value(self) -> Fraction:
        """Of a finite number; both zeros are 0."""
        return -self.magnitude if self.negative else self.magnitude


NAN = Real(False, math.nan)
ZERO = Real(False, Fraction(0))
ONE = Real(False, Fraction(1))


def real(value: Fraction | int | float) -> Real:
    """A finite number; zero is +0."""
    return Real(value < 0, abs(Fraction(value)))


def of_float(value: float) -> Real:
    """The number a Python float is, whatever its sign."""
    if math.isnan(value):
        return NAN
    magnitude = abs(value)
    return Real(math.copysign(1, value) < 0, magnitude if math.isinf(magnitude) else Fraction(magnitude))


def read(pattern: int) -> Real:
    """The number a float32 pattern stands for."""
    return of_float(struct.unpack("<f", struct.pack("<I", int(pattern)))[0])


def read_double(pattern: int) -> Real:
    """The number a float64 pattern stands for."""
    return of_float(struct.unpack("<d", struct.pack("<Q", int(pattern)))[0])


def write(x: Real) -> int:
    """The float32 pattern of a number that is one; NaN is 0x7FC00000."""
    if x.is_nan:
        return NAN_BITS
    value = float(x.magnitude)
    pattern = struct.unpack("<I", struct.pack("<f", value))[0]
    if not x.is_infinite and Fraction(struct.unpack("<f", struct.pack("<I", pattern))[0]) != x.magnitude:
        raise ValueError(f"{x} is not a float32")
    return pattern | x.negative << 31


def read_all(patterns: Iterable[int]) -> list[Real]:
    return [read(u) for u in np.asarray(patterns, np.uint32).ravel().tolist()]


def write_all(numbers: Iterable[Real]) -> np.ndarray:
    return np.array([write(x) for x in numbers], np.uint32)


def power(exponent: int) -> Fraction:
    """2^exponent."""
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def exponent_of(magnitude: Fraction) -> int:
    """floor(log2 magnitude) of a positive rational."""
    n, d = magnitude.numerator, magnitude.denominator
    e = n.bit_length() - d.bit_length()
    return e if (n >= d << e if e >= 0 else n << -e >= d) else e - 1
