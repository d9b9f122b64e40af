"""Single steps of the matrix units, from their definitions, on float32 patterns, in exact rational numbers.

A step takes and returns patterns, so that a NaN keeps its payload where a unit hands it on.  ``Tally`` counts on the
way what a running sum loses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import oracles
from oracles import Real, exponent_of, flushed, power, product, rounded, total, write

ALL_ONES = 0x7FFFFFFF
INVALID = 0xFFC00000  # what x86 makes of 0 x infinity and infinity - infinity
QUIET = 0x00400000
EMIN = {"fp32": -126, "tf32": -126, "bf16": -126, "fp16": -14, "e5m2": -14, "e4m3fn": -6}
read = cache(oracles.read)


@dataclass
class Tally:
    """Events of a dot product."""

    products: int = 0
    underflowed: int = 0  # nonzero finite products taken as zero before they were added
    swamped: int = 0  # additions with a term that is not zero and changes nothing
    misaligned: int = 0  # terms that lost bits when they were truncated
    overflowed: int = 0  # finite operands, infinite result
    inexact: int = 0  # the last rounding, to the output, changed the value

    def multiplied(self, a: int, b: int, taken: Real) -> None:
        """a b as given, and what the unit adds in its place."""
        given = product(read(a), read(b))
        self.underflowed += is_finite(given) and given.magnitude != 0 and taken.magnitude == 0

    def added(self, x: int, y: int, result: int) -> None:
        """A rounded addition of x and y as the unit reads them."""
        if is_finite(read(x)) and is_finite(read(y)):
            nonzero = read(x).magnitude != 0 and read(y).magnitude != 0
            self.swamped += nonzero and result in (x, y)
            self.overflowed += read(result).is_infinite

    def fused(self, factors: Sequence[int], s: int, change: Real, result: int) -> None:
        """An exact addition of products, whose sum is ``change``, to s as the unit reads it."""
        if all(is_finite(read(x)) for x in (*factors, s)):
            self.swamped += change.magnitude != 0 and result == s
            self.overflowed += read(result).is_infinite


def is_finite(x: Real) -> bool:
    return not x.is_nan and not x.is_infinite


def is_nan(x: int) -> bool:
    return x & 0x7FFFFFFF > 0x7F800000


def sum_of(terms: Sequence[Real]) -> Real:
    """Exact; -0 only where every term is -0."""
    result = terms[0]
    for term in terms[1:]:
        result = total(result, term)
    return result


# IEEE 754


def multiply(a: int, b: int, fmt: str, tally: Tally) -> int:
    result = rounded(product(read(a), read(b)), fmt)
    tally.multiplied(a, b, result)
    tally.overflowed += is_finite(read(a)) and is_finite(read(b)) and result.is_infinite
    return write(result)


def add(x: int, y: int, fmt: str, tally: Tally) -> int:
    result = write(rounded(total(read(x), read(y)), fmt))
    tally.added(x, y, result)
    return result


def subtract(x: int, y: int, fmt: str) -> int:
    return write(rounded(total(read(x), oracles.negated(read(y))), fmt))


def multiply_add(a: Sequence[int], b: Sequence[int], s: int, fmt: str, tally: Tally) -> int:
    """s + sum of a b, exact, rounded once."""
    change = sum_of([product(read(x), read(y)) for x, y in zip(a, b, strict=True)])
    result = write(rounded(total(change, read(s)), fmt))
    tally.fused((*a, *b), s, change, result)
    return result


# Units that know no subnormals


def no_subnormal(x: int, fmt: str) -> int:
    """The pattern, or the zero of its sign where it is a subnormal of the format."""
    return x if is_nan(x) else write(flushed(read(x), fmt))


def without_subnormals(x: Real, mode: str = "nearest_even") -> int:
    """Rounded to 24 bits whatever its exponent; then zero below 2^-126, infinite from 2^128."""
    x = rounded(x, "e10m23", mode)
    if is_finite(x) and x.magnitude >= power(128):
        x = Real(x.negative, math.inf)
    return write(flushed(x, "fp32"))


def first_nan(*operands: int) -> int:
    """The first NaN, quieted; the one that x86 makes where there is none."""
    return next((x | QUIET for x in operands if is_nan(x)), INVALID)


def fma_dz(a: int, b: int, s: int, fmt: str, tally: Tally, payload: bool = True) -> int:
    """a b + s in one rounding.  ``fmt``: the format whose subnormals a and b cannot be, or "" for none."""
    x, y = (no_subnormal(a, fmt), no_subnormal(b, fmt)) if fmt else (a, b)
    s = no_subnormal(s, "fp32")
    change = product(read(x), read(y))
    result = without_subnormals(total(change, read(s)))
    tally.multiplied(a, b, change)
    tally.fused((x, y), s, change, result)
    return first_nan(a, b, s) if is_nan(result) and payload else result


def add_dz(x: int, y: int, tally: Tally) -> int:
    x, y = no_subnormal(x, "fp32"), no_subnormal(y, "fp32")
    result = without_subnormals(total(read(x), read(y)))
    tally.added(x, y, result)
    return first_nan(x, y) if is_nan(result) else result


def multiply_ftz(a: int, b: int, fmt: str, mode: str, tally: Tally) -> int:
    """Rounded product of operands of a format."""
    x, y = no_subnormal(a, fmt), no_subnormal(b, fmt)
    result = without_subnormals(product(read(x), read(y)), mode)
    tally.multiplied(a, b, read(result))
    tally.overflowed += is_finite(read(a)) and is_finite(read(b)) and read(result).is_infinite
    return result


def add_ftz(x: int, y: int, mode: str, tally: Tally) -> int:
    x, y = no_subnormal(x, "fp32"), no_subnormal(y, "fp32")
    result = without_subnormals(total(read(x), read(y)), mode)
    tally.added(x, y, result)
    return result


# Truncated fused dot-product-add

Term = tuple[int, Fraction]  # exponent, significand with its sign


def term_of(x: int, fmt: str) -> Term | None:
    """A number of a format, its subnormals not normalised; None of a zero, which has no exponent."""
    if read(x).magnitude == 0:
        return None
    exponent = max(exponent_of(read(x).magnitude), EMIN[fmt])
    return exponent, read(x).value / power(exponent)


def terms_of(a: Sequence[int], b: Sequence[int], fmt: str) -> list[Term]:
    """Products that are not zero, not normalised: 1.5 x 1.5 is 2.25 x 2^0."""
    factors = [(term_of(x, fmt), term_of(y, fmt)) for x, y in zip(a, b, strict=True)]
    return [(x[0] + y[0], x[1] * y[1]) for x, y in factors if x and y]


def units(term: Term, exponent: int, toward: str = "zero") -> tuple[int, bool]:
    """Whole multiples of 2^exponent in the term, and whether anything is left over."""
    scaled = term[1] * power(term[0] - exponent)
    whole = math.trunc(scaled) if toward == "zero" else math.floor(scaled)
    return whole, whole != scaled


def truncated(terms: Sequence[Term], exponent: int, tally: Tally) -> int:
    """Sum of the terms in multiples of 2^exponent, what lies below cut off each."""
    cut = [units(term, exponent) for term in terms]
    tally.misaligned += sum(lost for _, lost in cut)
    tally.swamped += sum(whole == 0 for whole, _ in cut)
    return sum(whole for whole, _ in cut)


def special(terms: Sequence[Real]) -> Real | None:
    """Sum where a term is infinite or NaN."""
    return None if all(map(is_finite, terms)) else sum_of(terms)


def truncated_step(
    a: Sequence[int], b: Sequence[int], s: int, fmt: str, bits: int, floor: int | None, sums: str, tally: Tally
) -> int:
    """d = rho(s + sum of a b), everything aligned to the largest exponent and cut ``bits`` below it; zero is +0."""
    beyond = special([*(product(read(x), read(y)) for x, y in zip(a, b, strict=True)), read(s)])
    if beyond is not None:
        return ALL_ONES if beyond.is_nan else write(beyond)
    start = term_of(s, "fp16" if sums == "fp16" else "fp32")
    terms = terms_of(a, b, fmt) + ([start] if start else [])
    largest = max([e for e, _ in terms] + ([floor] if floor is not None else []), default=0)
    count = truncated(terms, largest - bits, tally)
    mode = "nearest_even" if sums == "fp16" else "toward_zero"
    result = rounded(oracles.real(count * power(largest - bits)), sums, mode, overflow="inf")
    tally.overflowed += result.is_infinite
    return write(result) if result.magnitude else 0


def cdna3_step(a: Sequence[int], b: Sequence[int], s: int, fmt: str, tally: Tally) -> int:
    """Products cut 24 bits below their largest exponent; their sum and s rounded down, 31 and 24 bits below."""
    products = [_within_float32(product(read(x), read(y))) for x, y in zip(a, b, strict=True)]
    beyond = special([*products, read(s)])
    if beyond is not None:
        finite = all(is_finite(read(x)) for x in (*a, *b, s))
        tally.overflowed += finite and beyond.is_infinite
        return write(beyond)
    terms, start = terms_of(a, b, fmt), term_of(s, "fp32")
    if not terms and not start:
        return write(sum_of([*products, read(s)]))
    largest = max((e for e, _ in terms), default=0)
    first = truncated(terms, largest - 24, tally)
    exponent = max(([largest] if terms else []) + ([start[0]] if start else []))
    change, lost = units((largest - 24, Fraction(first)), exponent - 31, "minus infinity")
    kept, cut = units(start or (0, Fraction(0)), exponent - 24, "minus infinity")
    tally.misaligned += lost + cut
    tally.swamped += start is not None and kept == 0
    exact = change * power(exponent - 31) + kept * power(exponent - 24)
    result = rounded(oracles.real(exact), "fp32")
    tally.overflowed += result.is_infinite
    return write(result)


def _within_float32(x: Real) -> Real:
    return Real(x.negative, math.inf) if x.magnitude >= power(128) else x
