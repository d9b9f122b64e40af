"""Float32 arithmetic in 32-bit integer operations, subnormals kept: exact results, and their roundings to float32.

For executors whose float unit flushes subnormals or contracts, and for every rounding that no float unit offers.
Operators only, like ``bits``, on words that wrap at 32 bits: NumPy arrays, Numba scalars and JAX tracers, not Python
integers.

An exact result comes as two words: ``u``, the float32 pattern truncated toward zero, and ``extra``, the 32 bits that
follow, the last of them sticky, the or of everything from there on:

    u      s eeeeeeee kkkkkkkkkkkkkkkkkkkkkkk      extra      r tttttttttttttttttttttttttttttt S
                                            ^ one unit          ^ half a unit

Infinities, NaN (0x7FC00000) and exact values have extra 0.  A finite result of 2^128 or more comes as the largest
float32 with every extra bit set, which any format rounds as it would round the result itself.

Sums and products stand in a 64-bit frame of two words, its leading bit brought to 62:

    hi: 0 1kkkkkkkkkkkkkkkkkkkkkkkl r tttttt      lo: tttttttt tttttttt tttttttt tttttttt
        ^bit 62                    ^bit 39, the last kept
"""

from precision.bits import equal, less, select


def fused_multiply_add(ua, ub, uc):
    """Pattern of RN32(a b + c): exact product, one rounding; NaN is 0x7FC00000."""
    return _nearest(*exact_fused_multiply_add(ua, ub, uc, 0))


def multiply(ua, ub):
    """Pattern of RN32(a b)."""
    return _nearest(*exact_multiply(ua, ub))


def add(ua, ub):
    """Pattern of RN32(a + b)."""
    return _nearest(*exact_add(ua, ub, 0))


def divide(ua, ub):
    """Pattern of RN32(a / b)."""
    return _nearest(*exact_divide(ua, ub))


def square_root(ua):
    """Pattern of RN32(sqrt a)."""
    return _nearest(*exact_square_root(ua))


def _nearest(u, extra):
    """The exact result rounded to float32, ties to even."""
    return u + ((extra >> 31) & (_any(extra << 1) | u))


def exact_fused_multiply_add(ua, ub, uc, down):
    """(u, extra) of a b + c.  ``down`` is 1 where x + (-x) is -0, as when rounding down, else 0."""
    zero = 0 * (ua ^ ub ^ uc)
    ma, ea = _significand(ua + zero)
    mb, eb = _significand(ub + zero)
    mc, ec = _significand(uc + zero)
    # exponents on one scale: a frame f at x stands for f 2^(x - 378); a zero has the lowest
    xp = (ea + eb) & -(less(zero, ma) & less(zero, mb))
    xc = (ec + 158) & -less(zero, mc)
    p_hi, p_lo = _product_frame(ma, mb)
    sp, sc = (ua ^ ub) >> 31, uc >> 31
    swap = less(xp, xc)
    x, y = select(swap, xc, xp), select(swap, xp, xc)
    big_hi, big_lo = select(swap, mc << 6, p_hi), select(swap, zero, p_lo)
    small_hi, small_lo = _shift_right_jam(select(swap, p_hi, mc << 6), select(swap, p_lo, zero), x - y)
    s_big, s_small = select(swap, sc, sp), select(swap, sp, sc)
    hi, lo, sign = _add_signed(big_hi, big_lo, s_big, small_hi, small_lo, s_small)
    vanished = 1 - _any(hi | lo)
    sign = select(vanished, (sp & sc) | ((sp | sc) & down), sign)
    magnitude, extra = _truncate(*_normalise(hi, lo, x))
    return _sum_specials(ua, ub, uc, sp, sc, (magnitude & -(1 - vanished)) | (sign << 31), extra)


def exact_multiply(ua, ub):
    """(u, extra) of a b."""
    zero = 0 * (ua ^ ub)
    ma, ea = _significand(ua + zero)
    mb, eb = _significand(ub + zero)
    # the leading bit of ma mb 2^14 is 60 or 61
    hi, lo = _product_frame(ma, mb)
    up = 1 + less(hi, (1 << 29) + zero)
    hi, lo = (hi << up) | (lo >> (32 - up)), lo << up
    magnitude, extra = _truncate(hi, lo, ea + eb - up)
    empty = equal(ma, 0) | equal(mb, 0)
    a, b = ua & 0x7FFFFFFF, ub & 0x7FFFFFFF
    infinite = equal(a, 0x7F800000) | equal(b, 0x7F800000)
    nan = less(0x7F800000 + zero, a) | less(0x7F800000 + zero, b) | (infinite & empty)
    return _specials(magnitude & -(1 - empty), extra & -(1 - empty), (ua ^ ub) >> 31, infinite, nan)


def exact_add(ua, ub, down):
    """(u, extra) of a + b; ``down`` as in ``exact_fused_multiply_add``."""
    return exact_fused_multiply_add(ua, 0x3F800000 + 0 * ua, ub, down)


def exact_divide(ua, ub):
    """(u, extra) of a / b: 57 bits of the quotient of significands, eight a step, and whether a rest is left."""
    zero = 0 * (ua ^ ub)
    ma, ea = _significand(ua + zero)
    mb, eb = _significand(ub + zero)
    a, b = ua & 0x7FFFFFFF, ub & 0x7FFFFFFF
    divisor = mb | (equal(b, 0) << 23)  # something to divide by; what is divided by zero is decided below
    below = less(ma, divisor)
    # 1 dddddddd dddddddd dddddddd dddddddd ... : the first bit is 1 as  divisor <= ma 2^below < 2 divisor
    hi, rest = _digits(1 + zero, (ma << below) - divisor, divisor, 3)
    digit, rest = _digits(zero, rest, divisor, 1)
    lo, rest = _digits(digit & 3, rest, divisor, 3)
    hi, lo = (hi << 6) | (digit >> 2), (lo << 6) | _any(rest)
    magnitude, extra = _truncate(hi, lo, ea - eb + 316 - below)
    inf_a, inf_b = equal(a, 0x7F800000), equal(b, 0x7F800000)
    nan = less(0x7F800000 + zero, a) | less(0x7F800000 + zero, b) | (inf_a & inf_b) | (equal(a, 0) & equal(b, 0))
    finite = -(1 - (equal(a, 0) | inf_b))
    return _specials(magnitude & finite, extra & finite, (ua ^ ub) >> 31, inf_a | equal(b, 0), nan)


def exact_square_root(ua):
    """(u, extra) of sqrt(a): 55 bits of the root of the significand, and whether a rest is left.

    28 bits s, one a step, leave n 2^30 - s^2 = r.  27 bits d more solve  2 s d + d^2 / 2^27 <= r 2^27:  d is
    floor(r 2^27 / 2 s), or one less where its square is beyond what that division left.
    """
    m, e = _significand(ua)
    # the exponent e - 159 made even, n = m 2 or m 4; an infinity's or NaN's digits are not looked at
    s, r = _root_digits(m << (2 - (e & 1)))
    inexact = _any(r)
    d, rest = 0 * s, r
    for _ in range(9):
        digit = (rest << 3) // ((s << 1) | equal(s, 0))
        d, rest = (d << 3) | digit, (rest << 3) - digit * (s << 1)
    square_hi, square_lo = _square(d)
    d = d - (less(rest, square_hi) | (equal(rest, square_hi) & _any(square_lo)))
    magnitude, extra = _truncate((s << 3) | (d >> 24), (d << 8) | inexact, ((e + 1) >> 1) + 236)
    a = ua & 0x7FFFFFFF
    nan = less(0x7F800000 + 0 * a, a) | ((ua >> 31) & (1 - equal(a, 0)))
    some = -(1 - equal(a, 0))
    return _specials(magnitude & some, extra & some, ua >> 31, equal(a, 0x7F800000), nan)


def _any(word):
    """1 where a word has a bit set."""
    return 1 - equal((word >> 1) | (word & 1), 0)


def _significand(u):
    """(m, e) of |u| = m 2^(e - 182), m in [2^23, 2^24) also for subnormals; m = 0 for zero."""
    magnitude = u & 0x7FFFFFFF
    exponent = magnitude >> 23
    normal = less(0 * u, exponent)
    m = (magnitude & 0x7FFFFF) | (normal << 23)
    e = exponent + (1 - normal) + 32
    for step in (16, 8, 4, 2, 1):
        small = less(m, (1 << (24 - step)) + 0 * m)
        m = m << (small * step)
        e = e - small * step
    return m, e & -less(0 * m, m)


def _product_frame(ma, mb):
    """ma mb 2^14 as two words, from 12-bit halves: no partial product exceeds 24 bits."""
    a1, a0 = ma >> 12, ma & 0xFFF
    b1, b0 = mb >> 12, mb & 0xFFF
    low = a0 * b0
    middle = a1 * b0 + a0 * b1 + (low >> 12)
    # ma mb = a1 b1 2^24 + middle 2^12 + (low mod 2^12)
    top = a1 * b1 + (middle >> 12)  # bits 24 and up
    bottom = ((middle & 0xFFF) << 12) | (low & 0xFFF)  # bits 0 to 23
    return (top << 6) | (bottom >> 18), (bottom & 0x3FFFF) << 14


def _square(d):
    """(d^2 >> 27, d^2 mod 2^27) of a word below 2^27, from halves of 14 bits."""
    d1, d0 = d >> 14, d & 0x3FFF
    middle = ((d1 * d0) << 1) + ((d0 * d0) >> 14)  # bits 14 and up, but for those of d1 d1 2^28
    top = ((d1 * d1) << 1) + (middle >> 13)
    return top, ((middle & 0x1FFF) << 14) | ((d0 * d0) & 0x3FFF)


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


def _shift_right_jam(hi, lo, count):
    """The frame shifted right, every bit that falls out kept alive in the last one."""
    count = select(less(count, 63), count, 63 + 0 * count)
    far = less(31 + 0 * count, count)  # by 32 and more: the low word falls out whole
    lost = lo & -far
    lo = select(far, hi, lo)
    hi = hi & -(1 - far)
    n = count & 31
    lost = lost | (lo & ((1 << n) - 1))
    # hi's low n bits enter lo from above; (hi << 1) << (31 - n) keeps every shift count below 32
    lo = (lo >> n) | ((hi << 1) << (31 - n))
    return hi >> n, lo | _any(lost)


def _borrow(x, y):
    """1 where x < y, for any two words."""
    return ((~x & y) | ((~x | y) & (x - y))) >> 31


def _add_signed(a_hi, a_lo, a_sign, b_hi, b_lo, b_sign):
    """Sum of two signed frames: words and sign."""
    plus_lo = a_lo + b_lo
    plus_hi = a_hi + b_hi + _borrow(plus_lo, a_lo)
    a_smaller = less(a_hi, b_hi) | (equal(a_hi, b_hi) & _borrow(a_lo, b_lo))
    x_hi, y_hi = select(a_smaller, b_hi, a_hi), select(a_smaller, a_hi, b_hi)
    x_lo, y_lo = select(a_smaller, b_lo, a_lo), select(a_smaller, a_lo, b_lo)
    minus_lo = x_lo - y_lo
    minus_hi = x_hi - y_hi - _borrow(x_lo, y_lo)
    same = 1 - (a_sign ^ b_sign)
    sign = select(same, a_sign, select(a_smaller, b_sign, a_sign))
    return select(same, plus_hi, minus_hi), select(same, plus_lo, minus_lo), sign


def _normalise(hi, lo, x):
    """The frame with its leading bit at 62, and x lowered by the shift."""
    empty = equal(hi, 0)
    hi, lo = select(empty, lo >> 1, hi), select(empty, lo << 31, lo)
    x = x - empty * 31
    for step in (16, 8, 4, 2, 1):
        small = less(hi, (1 << (31 - step)) + 0 * hi)
        hi, lo = select(small, (hi << step) | (lo >> (32 - step)), hi), select(small, lo << step, lo)
        x = x - small * step
    return hi, lo, x


def _truncate(hi, lo, x):
    """(magnitude, extra) of a frame with its leading bit at 62: the biased exponent is x - 189, kept positive."""
    under = less(x, 190 + 0 * x)  # below 2^-126 the unit stays 2^-149
    hi, lo = _shift_right_jam(hi, lo, (190 - x) & -under)
    exponent = select(under, 1 + 0 * x, x - 189)
    magnitude = ((exponent - 1) << 23) + (hi >> 7)
    extra = (hi << 25) | (lo >> 7) | _any(lo & 0x7F)
    over = less(254 + 0 * exponent, exponent)
    return select(over, 0x7F7FFFFF + 0 * magnitude, magnitude), extra | -over


def _specials(magnitude, extra, sign, infinite, nan):
    """Infinities and NaN over a finite result, its sign before it."""
    u = select(infinite, 0x7F800000 + 0 * magnitude, magnitude) | (sign << 31)
    return select(nan, 0x7FC00000 + 0 * u, u), extra & -(1 - (infinite | nan))


def _sum_specials(ua, ub, uc, sp, sc, result, extra):
    """Infinities and NaN over the finite result of a b + c, sp and sc the signs of a b and c."""
    infinity = 0x7F800000 + 0 * result
    a, b, c = ua & 0x7FFFFFFF, ub & 0x7FFFFFFF, uc & 0x7FFFFFFF
    inf_a, inf_b, inf_c = equal(a, infinity), equal(b, infinity), equal(c, infinity)
    inf_product = inf_a | inf_b
    invalid = (inf_a & equal(b, 0)) | (inf_b & equal(a, 0)) | (inf_product & inf_c & (sp ^ sc))
    nan = less(infinity, a) | less(infinity, b) | less(infinity, c) | invalid
    infinite = inf_product | inf_c
    result = select(infinite, select(inf_product, sp, sc) << 31 | infinity, result)
    return select(nan, 0x7FC00000 + 0 * result, result), extra & -(1 - (infinite | nan))
