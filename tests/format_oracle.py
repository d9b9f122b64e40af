"""Number formats and rounding from their standards, in exact rational numbers.

Nothing here is shared with ``precision``: the codes of each format are written down again from IEEE 754-2019, the OCP
8-bit and Microscaling specifications, the FNUZ types of LLVM and IEEE P3109; a rounding is a choice between the two
values beside an exact rational, and the grid of values goes on without end above the largest finite one.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from reals import NAN, Real, exponent_of, power, real

MODES = ("nearest_even", "nearest_away", "toward_zero", "up", "down", "to_odd", "stochastic")
OVERFLOWS = ("ieee", "inf", "saturate")


# Formats


class Standard(NamedTuple):
    """A format by its codes, sign | exponent field | fraction; the code without its sign is the magnitude code.

    last: magnitude code of the largest finite value.  infinity: its magnitude code.  nan: the code of the canonical
    NaN.  None where there is none.  A two's complement integer is the format whose values are all subnormal.
    """

    bits: int
    fraction_bits: int
    bias: int
    last: int
    infinity: int | None = None
    nan: int | None = None
    signed: bool = True
    zero: bool = True
    twos_complement: bool = False

    @property
    def p(self) -> int:
        """Digits of a significand."""
        return self.fraction_bits + 1

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal value: field 1, or field 0 where that is no place for a zero."""
        return 1 - self.bias if self.zero else -self.bias

    @property
    def emax(self) -> int:
        return exponent_of(self.magnitude(self.last))

    @property
    def sign_bit(self) -> int:
        """Code of the sign alone."""
        return 1 << self.bits - 1 if self.signed else 0

    @property
    def signed_zero(self) -> bool:
        return self.signed and not self.twos_complement and self.nan != self.sign_bit

    @property
    def has_nan(self) -> bool:
        return self.nan is not None

    def magnitude(self, code: int) -> Fraction:
        """Value of a magnitude code, of any size: the grid does not end."""
        field, fraction = divmod(code, 1 << self.fraction_bits)
        if field == 0 and self.zero:
            return fraction * power(self.emin - self.fraction_bits)
        return (fraction + (1 << self.fraction_bits)) * power(field - self.bias - self.fraction_bits)

    def below(self, magnitude: Fraction) -> int:
        """Largest magnitude code whose value is at most this one; code 0 where there is none."""
        if magnitude < power(self.emin):
            return math.floor(magnitude / power(self.emin - self.fraction_bits)) if self.zero else 0
        exponent = exponent_of(magnitude)
        significand = math.floor(magnitude / power(exponent - self.fraction_bits))
        return (exponent + self.bias - 1 << self.fraction_bits) + significand

    def limit(self, negative: bool) -> int:
        """Magnitude code of the largest finite value of a sign."""
        return self.last + (negative and self.twos_complement)


def _ieee(exponent_bits: int, fraction_bits: int, bias: int | None = None) -> Standard:
    """The topmost exponent field holds infinity (fraction 0) and NaN (canonical: the quiet bit alone)."""
    infinity = (1 << exponent_bits) - 1 << fraction_bits
    quiet = infinity | 1 << fraction_bits - 1
    bias = (1 << exponent_bits - 1) - 1 if bias is None else bias
    return Standard(1 + exponent_bits + fraction_bits, fraction_bits, bias, infinity - 1, infinity, quiet)


def _fnuz(fraction_bits: int, bias: int) -> Standard:
    """Finite, NaN in the place of -0, unsigned zero."""
    return Standard(8, fraction_bits, bias, 0x7F, nan=0x80)


def _ocp(exponent_bits: int, fraction_bits: int, bias: int) -> Standard:
    """Every code is a number."""
    bits = 1 + exponent_bits + fraction_bits
    return Standard(bits, fraction_bits, bias, (1 << bits - 1) - 1)


def _integer(bits: int) -> Standard:
    last = (1 << bits - 1) - 1
    return Standard(bits, bits - 1, 2 - bits, last, twos_complement=True)


def _p3109(precision: int, kind: str) -> Standard:
    """binary8p<precision> with s or u for signed or unsigned, e or f for extended (by infinity) or finite."""
    signed, extended = kind[0] == "s", kind[1] == "e"
    top = 0x7F if signed else 0xFE  # the largest code that is not NaN
    bias = 1 << (7 if signed else 8) - precision
    return Standard(
        8, precision - 1, bias, top - extended, top if extended else None, 0x80 if signed else 0xFF, signed
    )


P3109 = {
    f"binary8p{p}{kind}": _p3109(p, kind)
    for kind, widest in (("se", 7), ("sf", 7), ("ue", 8), ("uf", 8))
    for p in range(1, widest + 1)
}
STANDARDS = {
    "fp32": _ieee(8, 23),
    "tf32": _ieee(8, 10),
    "fp16": _ieee(5, 10),
    "bf16": _ieee(8, 7),
    "e5m2": _ieee(5, 2),
    "e4m3": _ieee(4, 3),
    "e4m3fn": Standard(8, 3, 7, 0x7E, nan=0x7F),
    "e4m3fnuz": _fnuz(3, 8),
    "e5m2fnuz": _fnuz(2, 16),
    "e4m3b11fnuz": _fnuz(3, 11),
    "e3m4": _ieee(3, 4),
    "e8m0": Standard(8, 0, 127, 0xFE, nan=0xFF, signed=False, zero=False),
    "e3m2": _ocp(3, 2, 3),
    "e2m3": _ocp(2, 3, 1),
    "e2m1": _ocp(2, 1, 1),
    "int8": _integer(8),
    "int4": _integer(4),
    "int2": _integer(2),
    **P3109,
}
FLOATS = {name: fmt for name, fmt in STANDARDS.items() if not fmt.twos_complement}
INTEGERS = {name: (~fmt.last, fmt.last) for name, fmt in STANDARDS.items() if fmt.twos_complement}
ENUMERATED = tuple(name for name, fmt in STANDARDS.items() if fmt.bits <= 16)


@cache
def standard(name: str) -> Standard:
    """A named format, or e<k>m<n> laid out as IEEE 754 does."""
    layout = re.fullmatch(r"e(\d+)m(\d+)", name)
    if name in STANDARDS or layout is None:
        return STANDARDS[name]
    return _ieee(*map(int, layout.groups()))


def overflows(name: str) -> tuple[str, ...]:
    """Overflow rules that a format offers."""
    return OVERFLOWS if standard(name).infinity is not None else ("ieee", "saturate")


# Codes


def codes(name: str) -> range:
    """Every code of a format."""
    return range(1 << standard(name).bits)


def value_of_code(code: int, name: str) -> Real:
    """sign | exponent field | fraction, or two's complement."""
    fmt = standard(name)
    if fmt.twos_complement:
        return real(code if code < fmt.sign_bit else code - 2 * fmt.sign_bit)
    negative, magnitude = bool(code & fmt.sign_bit), code & ~fmt.sign_bit
    if code != fmt.nan and magnitude <= fmt.last:
        return Real(negative, fmt.magnitude(magnitude))
    return Real(negative, math.inf) if magnitude == fmt.infinity else NAN


def code_of(x: Real, name: str) -> int:
    """Code of a number that the format has; of NaN the canonical one.  Integers: two's complement."""
    fmt = standard(name)
    if x.is_nan and fmt.has_nan:
        return fmt.nan
    if fmt.twos_complement and not x.is_nan and fmt.below(x.magnitude) <= fmt.limit(x.negative):
        return int(x.value) % (1 << fmt.bits)
    if x.is_infinite and fmt.infinity is not None:
        return x.negative * fmt.sign_bit | fmt.infinity
    code = x.negative * fmt.sign_bit | fmt.below(x.magnitude)
    if value_of_code(code, name) != x:
        raise ValueError(f"{x} is not a value of {name}")
    return code


# Rounding


def goes_away(mode: str, code: int, fraction: Fraction, negative: bool, word: int = 0, random_bits: int = 24) -> bool:
    """Whether a magnitude ``fraction`` of the way from value ``code`` to the next (0 <= fraction < 1) becomes it.

    ``word``: 32 random bits, of which the stochastic mode uses the top ``random_bits``.
    """
    if mode == "stochastic":
        return round(fraction * (1 << random_bits)) + (word >> 32 - random_bits) >= 1 << random_bits
    return {
        "nearest_even": fraction > Fraction(1, 2) or (fraction == Fraction(1, 2) and code % 2 == 1),
        "nearest_away": fraction >= Fraction(1, 2),
        "toward_zero": False,
        "up": fraction > 0 and not negative,
        "down": fraction > 0 and negative,
        "to_odd": fraction > 0 and code % 2 == 0,
    }[mode]


def stays_finite(mode: str, negative: bool) -> bool:
    """Whether a finite value too large for the format becomes its largest finite value: IEEE 754-2019, 7.4."""
    return mode in ("toward_zero", "to_odd", "up" if negative else "down")


def rounded(
    x: Real,
    name: str,
    mode: str = "nearest_even",
    *,
    overflow: str = "ieee",
    subnormals: str = "keep",
    word: int = 0,
    random_bits: int = 24,
) -> Real:
    """x rounded once to a format.  NaN stays NaN in an integer format; it is -0 where every code is a number."""
    fmt = standard(name)
    if x.is_nan:
        return NAN if fmt.has_nan or fmt.twos_complement else Real(True, Fraction(0))
    if not fmt.zero and (x.negative or x.magnitude == 0):
        return NAN
    if x.is_infinite:
        return _signed(_beyond(x, fmt, mode, overflow), fmt, overflow)
    magnitude = x.magnitude if fmt.zero else max(x.magnitude, fmt.magnitude(0))
    code = fmt.below(magnitude)
    low, high = fmt.magnitude(code), fmt.magnitude(code + 1)
    fraction = (magnitude - low) / (high - low)
    code += goes_away(mode, code, fraction, x.negative, word, random_bits)
    if code > fmt.limit(x.negative):
        return _signed(_beyond(x, fmt, mode, overflow), fmt, overflow)
    result = Real(x.negative, fmt.magnitude(code))
    return _signed(flushed(result, name) if subnormals == "flush" else result, fmt, overflow)


def _beyond(x: Real, fmt: Standard, mode: str, overflow: str) -> Real:
    """What stands for a number above the largest finite value."""
    largest = Real(x.negative, fmt.magnitude(fmt.limit(x.negative)))
    kept = overflow == "ieee" and not x.is_infinite and stays_finite(mode, x.negative)
    if overflow == "inf" and fmt.infinity is None:
        raise ValueError("no infinity to overflow to")
    if overflow == "saturate" or kept or (fmt.infinity is None and not fmt.has_nan):
        return largest
    return NAN if fmt.infinity is None else Real(x.negative, math.inf)


def _signed(x: Real, fmt: Standard, overflow: str) -> Real:
    """The same where the format has this sign: one zero for two, nothing below the zero of an unsigned format."""
    if x.is_nan or not x.negative or (x.magnitude != 0 and fmt.signed) or fmt.signed_zero:
        return x
    return Real(False, Fraction(0)) if x.magnitude == 0 or overflow == "saturate" else NAN


def flushed(x: Real, name: str) -> Real:
    """x, or the zero of its sign where it lies below the smallest normal value."""
    fmt = standard(name)
    if x.is_nan or fmt.twos_complement or x.magnitude >= power(fmt.emin):
        return x
    return Real(x.negative, Fraction(0))
