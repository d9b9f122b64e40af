"""Float32 arithmetic in 32-bit integer operations, subnormals kept: exact results, and their roundings to float32.

For executors whose float unit flushes subnormals or contracts, and for every rounding that no float unit offers.
Operators only, like ``bits``, on words that wrap at 32 bits: NumPy arrays, Numba scalars and JAX tracers, not Python
integers.

An exact result comes as two words: ``u``, the float32 pattern truncated toward zero, and ``extra``, the 32 bits that
follow, the last of them sticky, the or of everything from there on:

    u      s eeeeeeee kkkkkkkkkkkkkkkkkkkkkkk      extra      r tttttttttttttttttttttttttttttt S
                                            ^ one unit          ^ half a unit

Infinities, NaN (0x7FC00000) and exact values have extra 0.  A finite result of 2^128 or more comes as 0x7F800000 with
extra 1: beyond the largest value of any format, and no infinity.

Sums and products stand in a 64-bit frame of two words, its leading bit brought to 62:

    hi: 0 1kkkkkkkkkkkkkkkkkkkkkkkl r tttttt      lo: tttttttt tttttttt tttttttt tttttttt
        ^bit 62                    ^bit 39, the last kept
"""

from precision.bits import equal, less, nonzero, select


def fused_multiply_add(ua, ub, uc):
    """Pattern of RN32(a b + c): exact product, one rounding; NaN is 0x7FC00000."""
    return nearest(*exact_fused_multiply_add(ua, ub, uc, 0))


def multiply(ua, ub):
    """Pattern of RN32(a b)."""
    return nearest(*exact_multiply(ua, ub))


def add(ua, ub):
    """Pattern of RN32(a + b)."""
    return nearest(*exact_add(ua, ub, 0))


def nearest(u, extra):
    """The exact result rounded to float32, ties to even."""
    return u + ((extra >> 31) & (nonzero(extra << 1) | u))


def exact_fused_multiply_add(ua, ub, uc, down):
    """(u, extra) of a b + c.  ``down`` is 1 where x + (-x) is -0, as when rounding down, else 0."""
    zero = 0 * (ua ^ ub ^ uc)
    ma, ea = significand(ua + zero)
    mb, eb = significand(ub + zero)
    mc, ec = significand(uc + zero)
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
    vanished = 1 - nonzero(hi | lo)
    sign = select(vanished, (sp & sc) | ((sp | sc) & down), sign)
    magnitude, extra = truncate(*normalise(hi, lo, x))
    return _sum_specials(ua, ub, uc, sp, sc, (magnitude & -(1 - vanished)) | (sign << 31), extra)


def exact_multiply(ua, ub):
    """(u, extra) of a b."""
    zero = 0 * (ua ^ ub)
    ma, ea = significand(ua + zero)
    mb, eb = significand(ub + zero)
    # the leading bit of ma mb 2^14 is 60 or 61
    hi, lo = _product_frame(ma, mb)
    up = 1 + less(hi, (1 << 29) + zero)
    hi, lo = (hi << up) | (lo >> (32 - up)), lo << up
    magnitude, extra = truncate(hi, lo, ea + eb - up)
    a, b = ua & 0x7FFFFFFF, ub & 0x7FFFFFFF
    empty = equal(a, 0) | equal(b, 0)
    infinite = equal(a, 0x7F800000) | equal(b, 0x7F800000)
    nan = less(0x7F800000 + zero, a) | less(0x7F800000 + zero, b) | (infinite & empty)
    return specials(magnitude & -(1 - empty), extra & -(1 - empty), (ua ^ ub) >> 31, infinite, nan)


def exact_add(ua, ub, down):
    """(u, extra) of a + b; ``down`` as in ``exact_fused_multiply_add``."""
    return exact_fused_multiply_add(ua, 0x3F800000 + 0 * ua, ub, down)


def significand(u):
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


def wide_product(ma, mb):
    """ma mb of two 24-bit words as bits 24 and up, and bits 0 to 23; from 12-bit halves: no word overflows."""
    a1, a0 = ma >> 12, ma & 0xFFF
    b1, b0 = mb >> 12, mb & 0xFFF
    low = a0 * b0
    middle = a1 * b0 + a0 * b1 + (low >> 12)
    # ma mb = a1 b1 2^24 + middle 2^12 + (low mod 2^12)
    return a1 * b1 + (middle >> 12), ((middle & 0xFFF) << 12) | (low & 0xFFF)


def _product_frame(ma, mb):
    """ma mb 2^14 as two words."""
    top, bottom = wide_product(ma, mb)
    return (top << 6) | (bottom >> 18), (bottom & 0x3FFFF) << 14


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
    return hi >> n, lo | nonzero(lost)


def borrow(x, y):
    """1 where x < y, for any two words."""
    return ((~x & y) | ((~x | y) & (x - y))) >> 31


def _add_signed(a_hi, a_lo, a_sign, b_hi, b_lo, b_sign):
    """Sum of two signed frames: words and sign."""
    plus_lo = a_lo + b_lo
    plus_hi = a_hi + b_hi + borrow(plus_lo, a_lo)
    a_smaller = less(a_hi, b_hi) | (equal(a_hi, b_hi) & borrow(a_lo, b_lo))
    x_hi, y_hi = select(a_smaller, b_hi, a_hi), select(a_smaller, a_hi, b_hi)
    x_lo, y_lo = select(a_smaller, b_lo, a_lo), select(a_smaller, a_lo, b_lo)
    minus_lo = x_lo - y_lo
    minus_hi = x_hi - y_hi - borrow(x_lo, y_lo)
    same = 1 - (a_sign ^ b_sign)
    sign = select(same, a_sign, select(a_smaller, b_sign, a_sign))
    return select(same, plus_hi, minus_hi), select(same, plus_lo, minus_lo), sign


def normalise(hi, lo, x):
    """The frame with its leading bit at 62, and x lowered by the shift."""
    empty = equal(hi, 0)
    hi, lo = select(empty, lo >> 1, hi), select(empty, lo << 31, lo)
    x = x - empty * 31
    for step in (16, 8, 4, 2, 1):
        small = less(hi, (1 << (31 - step)) + 0 * hi)
        hi, lo = select(small, (hi << step) | (lo >> (32 - step)), hi), select(small, lo << step, lo)
        x = x - small * step
    return hi, lo, x


def truncate(hi, lo, x):
    """(magnitude, extra) of a frame with its leading bit at 62: the biased exponent is x - 189, kept positive."""
    under = less(x, 190 + 0 * x)  # below 2^-126 the unit stays 2^-149
    hi, lo = _shift_right_jam(hi, lo, (190 - x) & -under)
    exponent = select(under, 1 + 0 * x, x - 189)
    magnitude = ((exponent - 1) << 23) + (hi >> 7)
    extra = (hi << 25) | (lo >> 7) | nonzero(lo & 0x7F)
    over = less(254 + 0 * exponent, exponent)
    return select(over, 0x7F800000 + 0 * magnitude, magnitude), select(over, 1 + 0 * extra, extra)


def specials(magnitude, extra, sign, infinite, nan):
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
