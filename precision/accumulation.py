"""Steps of ordered sums on float32 patterns, for every ``Accumulator``: what the back ends loop over.

Operators only, on words that wrap at 32 bits (as ``soft_float``).  ``f`` is an ``accumulation_plan.Plan``: one
record, with the formats of both operands, as words.

A fused addition of many terms is made of three parts: each term's ``(m, e, sign)``, its significand m as an integer
with a fixed number of fraction bits and its exponent as the factors have it; the largest exponent; and the terms,
shifted to that exponent, truncated and added as one two's complement number of two words.
"""

from precision.bits import DOWN, equal, less, nonzero, round_pattern, select
from precision.soft_float import exact_add, exact_fused_multiply_add, exact_multiply, normalise, truncate

NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY = 1, 2, 4


def take(u, bound):
    """u, or the zero of its sign where its magnitude lies below the bound (0: never)."""
    magnitude = u & 0x7FFFFFFF
    return u - (magnitude & -less(magnitude, bound))


def settle(u, extra, flush, how):
    """The exact result (u, extra) rounded once; with ``flush``, subnormal results become the zero of their sign.

    What counts is the result rounded with unbounded exponent.  Just below 2^-126 it has a quantum of 2^-150, not
    2^-149, so 2^-126 is reached from 2^-126 - 2^-151 on:

        u  s 00000000 11111111111111111111111   extra  11tttttttttttttttttttttttttttttt
    """
    rounded = round_pattern(u, extra, 0 * u, how)
    magnitude = rounded & 0x7FFFFFFF
    short = equal(u & 0x7FFFFFFF, 0x7FFFFF) & (1 - ((extra >> 31) & (extra >> 30)))
    small = less(magnitude, 0x800000 + 0 * magnitude) | (short & equal(magnitude, 0x800000))
    return rounded - (magnitude & -(small & flush))


def ruled(result, a, b, s, f):
    """The result, its NaN as the record has it: f.nan, or the first NaN of a, b, s, quieted, else 0xFFC00000."""
    own = ((1 + 0 * result) << 31) | 0x7FC00000
    own = select(is_nan(s), s | 0x400000, own)
    own = select(is_nan(b), b | 0x400000, own)
    own = select(is_nan(a), a | 0x400000, own)
    return select(is_nan(result), select(f.operand_nan + 0 * own, own, f.nan), result)


def is_nan(u):
    """1 for a NaN."""
    return less(0x7F800000 + 0 * u, u & 0x7FFFFFFF)


def is_number(u):
    """1 for a finite value that is not zero."""
    return nonzero(u & 0x7FFFFFFF) & is_finite(u)


def is_finite(u):
    """1 for neither infinity nor NaN."""
    return less(u & 0x7FFFFFFF, 0x7F800000 + 0 * u)


def is_infinite(u):
    """1 for an infinity."""
    return equal(u & 0x7FFFFFFF, 0x7F800000)


def down(how):
    """1 where x + (-x) is -0: IEEE 754-2019, 6.3."""
    return 1 if how.mode == DOWN else 0


# Additions of one product, and of two numbers


def add_product(a, b, s, f):
    """s + a b, the product exact, one rounding; a, b and s as they are read."""
    u, extra = exact_fused_multiply_add(a, b, s, down(f.sum))
    return ruled(settle(u, extra, f.flush_sums, f.sum), a, b, s, f)


def rounded_product(a, b, f):
    """a b rounded to the format of the sum."""
    u, extra = exact_multiply(a, b)
    return ruled(settle(u, extra, f.flush_products, f.sum), a, b, 0 * a, f)


def rounded_sum(x, y, f, how):
    """x + y, rounded once."""
    u, extra = exact_add(x, y, down(how))
    return ruled(settle(u, extra, f.flush_sums, how), x, y, 0 * x, f)


def negated(u):
    """-u, of NaN too."""
    return u ^ ((1 + 0 * u) << 31)


# What happened


def product_vanished(a, b, first, second):
    """1 where a b is a finite number other than 0, and one of what is taken for it, or for its factors, is zero."""
    there = nonzero(first & 0x7FFFFFFF) & nonzero(second & 0x7FFFFFFF)
    return is_number(a) & is_number(b) & (1 - there)


def sum_swamped(x, y, result):
    """1 where x + y of two finite numbers, neither 0, is one of them."""
    return is_number(x) & is_number(y) & (equal(result, x) | equal(result, y))


def product_swamped(a, b, s, result):
    """1 where adding a finite product other than 0 to a finite s changed nothing."""
    return is_number(a) & is_number(b) & is_finite(s) & equal(result, s)


def sum_overflowed(x, y, result):
    """1 where finite x and y have an infinite result."""
    return is_finite(x) & is_finite(y) & is_infinite(result)


# Fused additions of many terms


def parts(u, lowest, dropped):
    """(m, e) of |u| = m 2^(e - 127 - fraction bits), e biased and not below ``lowest``; m = 0 for zero.

    1kkkkkkkkkkkkkkkkkkkkkkk of float32 less the ``dropped`` bits that the format does not have; below the smallest
    normal value m has leading zeros instead.
    """
    magnitude = u & 0x7FFFFFFF
    exponent = magnitude >> 23
    normal = nonzero(exponent)
    m = (magnitude & 0x7FFFFF) | (normal << 23)
    e = exponent + (1 - normal)
    missing = (lowest - e) & -less(e, lowest)
    missing = select(less(missing, 31), missing, 31 + 0 * missing)
    return (m >> missing) >> dropped, e + missing


def product_term(a, b, f):
    """(m, e, sign) of a b; e is 254 above the exponent, and 0 where the product is zero."""
    ma, ea = parts(a, f.lowest_a, f.dropped_a)
    mb, eb = parts(b, f.lowest_b, f.dropped_b)
    m = ma * mb
    return m, (ea + eb) & -nonzero(m), (a ^ b) >> 31


def start_term(s, f):
    """(m, e, sign) of s, e as in ``product_term``."""
    m, e = parts(s, f.lowest_sum, 0 * s)
    return m, (e + 127) & -nonzero(m), s >> 31


def product_kind(a, b, f):
    """NAN, POSITIVE_INFINITY or NEGATIVE_INFINITY where a b is that, else 0."""
    infinite = is_infinite(a) | is_infinite(b)
    zero = (1 - nonzero(a & 0x7FFFFFFF)) | (1 - nonzero(b & 0x7FFFFFFF))
    nan = is_nan(a) | is_nan(b) | (infinite & zero)
    m, e, sign = product_term(a, b, f)
    # 1.m and 2.m times 2^e alike: the product reaches 2^128 one exponent earlier where it is 2 or more
    beyond = less(254 + 127 + 0 * e, e + less(f.largest_one, m)) & f.second
    return nan | (((infinite | beyond) & (1 - nan)) << (1 + sign))


def start_kind(s):
    """As ``product_kind``, of s."""
    return is_nan(s) | (is_infinite(s) << (1 + (s >> 31)))


def aligned(m, e, top, left, right):
    """(t, lost): m 2^(e - top), truncated: ``left`` and ``right`` place m's last bit for e = top."""
    count = top - e + right
    count = select(less(count, 31), count, 31 + 0 * count)
    moved = m << left
    return moved >> count, nonzero(moved & ((1 << count) - 1))


def halves(t, sign):
    """t with its sign as two's complement, in two words whose sums over many terms do not overflow:

    low  0000000000000000 llllllllllllllll       high  ssssssssssssssss hhhhhhhhhhhhhhhh
    """
    word = (t ^ -sign) + sign
    return word & 0xFFFF, (word >> 16) | (-(word >> 31) << 16)


def joined(low, high):
    """(hi, lo) of the sums of ``halves``: two's complement of 64 bits."""
    carried = high + (low >> 16)
    return (carried >> 16) | (-(carried >> 31) << 16), (carried << 16) | (low & 0xFFFF)


def close(hi, lo, top, fraction, kinds, all_minus_zero, f):
    """The sum (hi, lo) 2^(top - 254 - fraction) rounded once to the format of the sum, with its specials.

    kinds: the kinds of all terms, joined by or.  all_minus_zero: 1 where every term is -0.
    """
    sign = hi >> 31
    lo = (lo ^ -sign) + sign
    hi = (hi ^ -sign) + (sign & (1 - nonzero(lo)))
    something = nonzero(hi | lo)
    magnitude, extra = truncate(*normalise(hi, lo, top + 124 - fraction))
    sign = select(something, sign, all_minus_zero)
    u, extra = (magnitude & -something) | (sign << 31), extra & -something
    return fused_result(u, extra, kinds, f)


def fused_result(u, extra, kinds, f):
    """The exact sum (u, extra) of many terms rounded once, its zero as the record signs it, and specials over it.

    kinds: the kinds of all terms, joined by or.
    """
    finite = settle(u, extra, f.flush_sums, f.sum)
    zero = 1 - nonzero(finite & 0x7FFFFFFF)
    finite = finite & ~((zero & f.positive_zero) << 31)
    positive, negative = (kinds >> 1) & 1, (kinds >> 2) & 1
    nan = (kinds & 1) | (positive & negative)
    result = select(positive | negative, 0x7F800000 | (negative << 31), finite)
    return select(nan, f.nan, result)


def lower(hi, lo, count):
    """(hi, lo, lost) of a two's complement number of two words shifted right, rounded down."""
    count = select(less(count, 63), count, 63 + 0 * count)
    far = less(31 + 0 * count, count)
    n = count & 31
    fill = -(hi >> 31)
    out = select(far, lo, 0 * lo) | (select(far, hi, lo) & ((1 << n) - 1))
    lo, hi = select(far, hi, lo), select(far, fill, hi)
    return (hi >> n) | ((fill << 1) << (31 - n)), (lo >> n) | ((hi << 1) << (31 - n)), nonzero(out)


def second_level(hi, lo, top, s, f):
    """(hi, lo, top, lost of the sum, lost of s, s vanished): the products' sum and s, both rounded down and added.

    (hi, lo) is in units of 2^(top - alignment); the result in units of 2^(top - second_sum), at the larger exponent.
    """
    m, e, sign = start_term(s, f)
    larger = select(less(top, e), e, top)
    up = f.second_sum - f.alignment
    hi, lo = (hi << up) | ((lo >> 1) >> (31 - up)), lo << up
    hi, lo, lost_sum = lower(hi, lo, larger - top)
    up = f.second_start - 23
    word = ((m << up) ^ -sign) + sign
    start_hi, start_lo, lost_start = lower(-(word >> 31), word, (larger - e) & -nonzero(m))
    vanished = nonzero(m) & (1 - nonzero(start_hi | start_lo))
    up = f.second_sum - f.second_start
    start_hi, start_lo = (start_hi << up) | ((start_lo >> 1) >> (31 - up)), start_lo << up
    total = lo + start_lo
    carry = ((lo & start_lo) | ((lo | start_lo) & ~total)) >> 31
    return hi + start_hi + carry, total, larger, lost_sum, lost_start, vanished
