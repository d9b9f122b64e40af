"""Float32 multiply, add and fused multiply-add in 32-bit integer operations, subnormals kept.

For executors whose float unit flushes subnormals or contracts.  Operators only, like ``bits``, on words that wrap at
32 bits: NumPy arrays, Numba scalars and JAX tracers, not Python integers.

The product and the addend stand in one 64-bit frame of two words, top bit free, and rounding looks at

    hi: 0 1kkkkkkkkkkkkkkkkkkkkkkkl r tttttt      lo: tttttttt tttttttt tttttttt tttttttt
        ^bit 63                    ^bit 39, the last kept
"""

from precision.bits import equal, less, select


def fused_multiply_add(ua, ub, uc):
    """Pattern of RN32(a b + c): exact product, one rounding; NaN is 0x7FC00000."""
    zero = 0 * (ua ^ ub ^ uc)
    one = zero + 1
    ma, ea = _significand(ua + zero)
    mb, eb = _significand(ub + zero)
    mc, ec = _significand(uc + zero)
    # exponents on one scale: a frame f at x stands for f 2^(x - 378); a zero has the lowest
    xp = (ea + eb) & -(less(zero, ma) & less(zero, mb))
    xc = (ec + 158) & -less(zero, mc)
    p_hi, p_lo = _product_frame(ma, mb)
    sp = (ua ^ ub) >> 31
    sc = uc >> 31
    swap = less(xp, xc)
    x = select(swap, xc, xp)
    y = select(swap, xp, xc)
    big_hi, big_lo = select(swap, mc << 6, p_hi), select(swap, zero, p_lo)
    small_hi, small_lo = _shift_right_jam(select(swap, p_hi, mc << 6), select(swap, p_lo, zero), x - y)
    s_big, s_small = select(swap, sc, sp), select(swap, sp, sc)
    hi, lo, sign = _add_signed(big_hi, big_lo, s_big, small_hi, small_lo, s_small)
    vanished = equal(hi | (lo >> 1) | (lo & 1), 0)
    sign = select(vanished, sp & sc, sign)
    result = select(vanished, zero, _round_frame(hi, lo, x)) | (sign << 31)
    return _specials(ua, ub, uc, sp, sc, result, one)


def multiply(ua, ub):
    """Pattern of RN32(a b)."""
    return fused_multiply_add(ua, ub, ((ua ^ ub) >> 31) << 31)


def add(ua, ub):
    """Pattern of RN32(a + b)."""
    return fused_multiply_add(ua, 0x3F800000 + 0 * ua, ub)


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
    return hi >> n, lo | (1 - equal((lost >> 1) | (lost & 1), 0))


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


def _round_frame(hi, lo, x):
    """Float32 magnitude nearest to the frame, ties to even; infinity from 2^128."""
    empty = equal(hi, 0)
    hi, lo = select(empty, lo >> 1, hi), select(empty, lo << 31, lo)
    x = x - empty * 31
    for step in (16, 8, 4, 2, 1):
        small = less(hi, (1 << (31 - step)) + 0 * hi)
        hi, lo = select(small, (hi << step) | (lo >> (32 - step)), hi), select(small, lo << step, lo)
        x = x - small * step
    # the leading bit stands at 62: biased exponent x - 189, kept positive; below 1 the quantum stays 2^-149
    under = less(x, 190 + 0 * x)
    extra = (190 - x) & -under
    hi, lo = _shift_right_jam(hi, lo, extra)
    exponent = select(under, 1 + 0 * x, x - 189)
    kept = hi >> 7
    tail = ((hi & 0x7F) << 1) | (1 - equal((lo >> 1) | (lo & 1), 0))
    up = less(0x80 + 0 * tail, tail) | (equal(tail, 0x80 + 0 * tail) & kept & 1)
    over = less(254 + 0 * exponent, exponent)
    magnitude = (((exponent - 1) & -(1 - over)) << 23) + kept + up
    return select(over, 0x7F800000 + 0 * magnitude, magnitude)


def _specials(ua, ub, uc, sp, sc, result, one):
    """NaN and infinities over the finite result."""
    infinity = 0x7F800000 * one
    a, b, c = ua & 0x7FFFFFFF, ub & 0x7FFFFFFF, uc & 0x7FFFFFFF
    inf_a, inf_b, inf_c = equal(a, infinity), equal(b, infinity), equal(c, infinity)
    inf_product = inf_a | inf_b
    invalid = (inf_a & equal(b, 0)) | (inf_b & equal(a, 0)) | (inf_product & inf_c & (sp ^ sc))
    nan = less(infinity, a) | less(infinity, b) | less(infinity, c) | invalid
    infinite = select(inf_product, sp, sc) << 31 | infinity
    result = select(inf_product | inf_c, infinite, result)
    return select(nan, 0x7FC00000 * one, result)
