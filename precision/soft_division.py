"""Float32 quotients and square roots in 32-bit integer operations, exact as in ``soft_float``: digit by digit.

The digits of a result stand in a frame of two words, as sums and products do, and the last one tells whether a rest
is left.
"""

from precision.bits import equal, less, nonzero
from precision.soft_float import significand, specials, truncate


def exact_divide(ua, ub):
    """(u, extra) of a / b: 57 bits of the quotient of significands, one a step, and whether a rest is left."""
    zero = 0 * (ua ^ ub)
    ma, ea = significand(ua + zero)
    mb, eb = significand(ub + zero)
    below = less(ma, mb)
    # frame 0 1ddddddd ... : the first bit is 1 as  mb <= ma 2^below < 2 mb
    hi, rest = _divided(1 + zero, (ma << below) - mb, mb, 15)
    hi, rest = _divided(hi, rest, mb, 15)
    lo, rest = _divided(zero, rest, mb, 13)
    lo, rest = _divided(lo, rest, mb, 13)
    magnitude, extra = truncate(hi, (lo << 6) | nonzero(rest), ea - eb + 316 - below)
    a, b = ua & 0x7FFFFFFF, ub & 0x7FFFFFFF
    zero_a, zero_b, inf_a, inf_b = equal(a, 0), equal(b, 0), equal(a, 0x7F800000), equal(b, 0x7F800000)
    nan = less(0x7F800000 + zero, a) | less(0x7F800000 + zero, b) | (inf_a & inf_b) | (zero_a & zero_b)
    some = -(1 - (zero_a | inf_b))
    return specials(magnitude & some, extra & some, (ua ^ ub) >> 31, inf_a | zero_b, nan)


def exact_square_root(ua):
    """(u, extra) of sqrt(a): 55 bits of the root of the significand, and whether a rest is left.

    28 bits s of the root leave n 2^30 - s^2 = r.  27 bits d more solve  2 s d + d^2 / 2^27 <= r 2^27:  d is
    floor(r 2^27 / 2 s), or one less where its square is beyond what that division left.
    """
    m, e = significand(ua)
    # the exponent e - 159 made even, n = m 2 or m 4; an infinity's or NaN's digits are not looked at
    s, r = _root(m << (2 - (e & 1)))
    d, rest = _divided(0 * s, r, s << 1, 13)
    d, rest = _divided(d, rest, s << 1, 14)
    square_hi, square_lo = _square(d)
    d = d - (less(rest, square_hi) | (equal(rest, square_hi) & nonzero(square_lo)))
    magnitude, extra = truncate((s << 3) | (d >> 24), (d << 8) | nonzero(r), ((e + 1) >> 1) + 236)
    a = ua & 0x7FFFFFFF
    nan = less(0x7F800000 + 0 * a, a) | ((ua >> 31) & (1 - equal(a, 0)))
    some = -(1 - equal(a, 0))
    return specials(magnitude & some, extra & some, ua >> 31, equal(a, 0x7F800000), nan)


def _divided(quotient, rest, divisor, count):
    """Long division: ``count`` bits appended to the quotient, and the rest; rest <= divisor < 2^29."""
    for _ in range(count):
        rest = rest << 1
        fits = 1 - less(rest, divisor)
        quotient, rest = (quotient << 1) | fits, rest - (divisor & -fits)
    return quotient, rest


def _root(n):
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
    """(d^2 >> 27, d^2 mod 2^27) of a word of at most 2^27, from halves of 14 bits."""
    d1, d0 = d >> 14, d & 0x3FFF
    middle = ((d1 * d0) << 1) + ((d0 * d0) >> 14)  # bits 14 and up, but for those of d1 d1 2^28
    top = ((d1 * d1) << 1) + (middle >> 13)
    return top, ((middle & 0x1FFF) << 14) | ((d0 * d0) & 0x3FFF)
