"""A fixed-point sum wide enough for every product of two float32 values: exact, in any order.

Operators only, on words that wrap at 32 bits (as ``soft_float``).  The sum is ``LIMBS`` words, limb i worth
2^(24 i - 298), each a 24-bit digit with room above it for the carries of 127 additions:

    limb 25                    limb 1                     limb 0
    cccccccc dddd...dddd  ...  cccccccc dddd...dddd       cccccccc dddd...dddd
             2^623 ... 2^302            2^-251 ... 2^-274          2^-275 ... 2^-298

2^-298 is the square of the smallest subnormal; 2^256 bounds a product, and 2^300 of them still fit.
"""

from precision.bits import equal, nonzero
from precision.soft_float import normalise, truncate

LIMBS = 26
START = 148  # position of 2^-150, the last bit of a float32 whose biased exponent is 0, were it normal


def integer_of(u):
    """(m, e) of |u| = m 2^(e - 150), m below 2^24; infinities and NaN as they come."""
    magnitude = u & 0x7FFFFFFF
    exponent = magnitude >> 23
    normal = nonzero(exponent)
    return (magnitude & 0x7FFFFF) | (normal << 23), exponent + 1 - normal


def limb_of(position):
    """(i, r) of a bit position 24 i + r, below 8,000."""
    i = (position * 2731) >> 16  # 2731 / 65536 is 1/24 from above, by less than one part in 8,000
    return i, position - 24 * i


def digits(top, bottom, r):
    """(top 2^24 + bottom) 2^r, r < 24, as three digits, the lowest first; top and bottom have 24 bits."""
    middle = ((top << r) & 0xFFFFFF) | (bottom >> (24 - r))
    return (bottom << r) & 0xFFFFFF, middle, top >> (24 - r)


def signed(digit, sign):
    """The digit, negated where sign is 1."""
    return (digit ^ -sign) + sign


def carried(limb, carry):
    """(digit, carry) of a limb with the carry from below: floor division by 2^24 in two's complement."""
    total = limb + carry
    return total & 0xFFFFFF, (total >> 24) | (-(total >> 31) << 8)


def negated(digit, sign, borrow):
    """(digit, borrow) of 2^24 minus it where sign is 1; the borrow begins as ``sign``, + 1 in two's complement."""
    flipped = (digit ^ (-sign & 0xFFFFFF)) + borrow
    return flipped & 0xFFFFFF, flipped >> 24


def leading(digit, i, first, second, third, rest, place):
    """The state of a walk from the highest digit down: the first three digits from the leading one on, whether
    anything follows, and the place of the leading one."""
    none = 1 - nonzero(first)
    place = place + (i - place) * (none & nonzero(digit))
    taken = equal(place, i + 1) & (1 - none)
    last = equal(place, i + 2) & (1 - none)
    later = 1 - (none | taken | last)
    return first + digit * none, second + digit * taken, third + digit * last, rest | digit * later, place


def rounded_off(first, second, third, rest, place, sign):
    """(u, extra) of the sum, as in ``soft_float``: its float32 pattern truncated toward zero, the next 32 bits.

    first second third   dddd...dddd dddd...dddd dddd...dddd     worth 2^(24 place - 346) at the last bit
    hi lo                0ddddddddddddddddddddddd dddddddd|dddd...dddd ddddddS   9 bits less
    """
    hi = (first << 7) | (second >> 17)
    lo = (second << 15) | (third >> 9) | nonzero((third & 0x1FF) | rest)
    hi, lo, x = normalise(hi, lo, 24 * place + 41)
    magnitude, extra = truncate(hi, lo, x)
    there = nonzero(first)
    return (magnitude & -there) | (sign << 31), extra & -there
