"""Float32 quotients and square roots in 32-bit integer operations, exact as in ``soft_float``: digit by digit.

The digits of a result stand in a frame of two words, as sums and products do, and the last one tells whether a rest
is left.
"""

from precision.bits import equal, less
from precision.soft_float import any_bit, significand, specials, truncate


def exact_divide(ua, ub):
    """(u, extra) of a / b: 57 bits of the quotient of significands, eight a step, and whether a rest is left."""
    zero = 0 * (ua ^ ub)
    ma, ea = significand(ua + zero)
    mb, eb = significand(ub + zero)
    a, b = ua & 0x7FFFFFFF, ub & 0x7FFFFFFF
    divisor = mb | (equal(b, 0) << 23)  # something to divide by; what is divided by zero is decided below
    below = less(ma, divisor)
    # 1 dddddddd dddddddd dddddddd dddddddd ... : the first bit is 1 as  divisor <= ma 2^below < 2 divisor
    hi, rest = _digits(1 + zero, (ma << below) - divisor, divisor, 3)
    digit, rest = _digits(zero, rest, divisor, 1)
    lo, rest = _digits(digit & 3, rest, divisor, 3)
    hi, lo = (hi << 6) | (digit >> 2), (lo << 6) | any_bit(rest)
    magnitude, extra = truncate(hi, lo, ea - eb + 316 - below)
    inf_a, inf_b = equal(a, 0x7F800000), equal(b, 0x7F800000)
    nan = less(0x7F800000 + zero, a) | less(0x7F800000 + zero, b) | (inf_a & inf_b) | (equal(a, 0) & equal(b, 0))
    finite = -(1 - (equal(a, 0) | inf_b))
    return specials(magnitude & finite, extra & finite, (ua ^ ub) >> 31, inf_a | equal(b, 0), nan)


def exact_square_root(ua):
    """(u, extra) of sqrt(a): 55 bits of the root of the significand, and whether a rest is left.

    28 bits s, one a step, leave n 2^30 - s^2 = r.  27 bits d more solve  2 s d + d^2 / 2^27 <= r 2^27:  d is
    floor(r 2^27 / 2 s), or one less where its square is beyond what that division left.
    """
    m, e = significand(ua)
    # the exponent e - 159 made even, n = m 2 or m 4; an infinity's or NaN's digits are not looked at
    s, r = _root_digits(m << (2 - (e & 1)))
    inexact = any_bit(r)
    d, rest = 0 * s, r
    for _ in range(9):
        digit = (rest << 3) // ((s << 1) | equal(s, 0))
        d, rest = (d << 3) | digit, (rest << 3) - digit * (s << 1)
    square_hi, square_lo = _square(d)
    d = d - (less(rest, square_hi) | (equal(rest, square_hi) & any_bit(square_lo)))
    magnitude, extra = truncate((s << 3) | (d >> 24), (d << 8) | inexact, ((e + 1) >> 1) + 236)
    a = ua & 0x7FFFFFFF
    nan = less(0x7F800000 + 0 * a, a) | ((ua >> 31) & (1 - equal(a, 0)))
    some = -(1 - equal(a, 0))
    return specials(magnitude & some, extra & some, ua >> 31, equal(a, 0x7F800000), nan)


def _digits(quotient, rest, divisor, count):
    """Long division in base 256: ``count`` digits appended to the quotient, and the rest; rest < divisor < 2^24."""
    for _ in range(count):
        digit = (rest << 8) // divisor
        quotient, rest = (quotient << 8) | digit, (rest << 8) - digit * divisor
    return quotient, rest


def _root_digits(n):
    """(s, n 2^30 - s^2) with s = floor(sqrt(n 2^30)), n below 2^26: the school's method, two bits of n a step."""
    s, r = 0 * n, 0 * n
    for i in range(13):
        s, r = _root_digit(s, (r << 2) | ((n >> (24 - 2 * i)) & 3))
    for _ in range(15):
        s, r = _root_digit(s, r << 2)
    return s, r


def _root_digit(s, r):
    """(2 s + 1, r - (4 s + 1)) where that rest is not negative, else (2 s, r)."""
    fits = 1 - less(r, (s << 2) | 1)
    return (s << 1) | fits, r - (((s << 2) | 1) & -fits)


def _square(d):
    """(d^2 >> 27, d^2 mod 2^27) of a word below 2^27, from halves of 14 bits."""
    d1, d0 = d >> 14, d & 0x3FFF
    middle = ((d1 * d0) << 1) + ((d0 * d0) >> 14)  # bits 14 and up, but for those of d1 d1 2^28
    top = ((d1 * d1) << 1) + (middle >> 13)
    return top, ((middle & 0x1FFF) << 14) | ((d0 * d0) & 0x3FFF)
