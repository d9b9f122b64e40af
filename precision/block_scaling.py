"""Integer kernels of block formats on float32 bit patterns: the shared scale, and scaling by powers of two.

Operators only, under the rules of ``bits``: one source for NumPy arrays, Numba scalars and JAX tracers.
"""

from precision.bits import less, nonzero, normalise, select


def shared_scale(magnitude, threshold, largest_exponent):
    """E8M0 code of 2^(floor(log2 a) + carry - largest_exponent), clamped to 2^-127 ... 2^127.

    magnitude: pattern of a, the largest magnitude of a block; NaN and infinity give the code of NaN.
    carry: 1 where a's fraction lies above ``threshold``.

        normal      0 eeeeeeee fffffffffffffffffffffff
        subnormal   0 00000000 1ffffffffffffffffffffff   of exponent -127, which is code 0; below it all clamps to 0
    """
    exponent = magnitude >> 23
    normal = nonzero(exponent)
    fraction = (magnitude << (1 - normal)) & 0x7FFFFF
    carry = less(threshold + 0 * fraction, fraction) & (normal | (magnitude >> 22))
    raised = exponent + carry
    code = (raised - largest_exponent) & -less(largest_exponent + 0 * raised, raised)
    code = select(less(254 + 0 * code, code), 254 + 0 * code, code)
    return select(less(0x7F7FFFFF + 0 * magnitude, magnitude), 255 + 0 * code, code)


def times_power(u, power):
    """Pattern of x 2^(power - 256), 96 <= power <= 416: exact down to the multiples of 2^-149, infinity from 2^128.

    What lies below 2^-126 and is no such multiple is rounded to odd, so that rounding it again, to multiples of
    2^-100 and coarser, rounds the value itself.  NaN and infinities stay as they are.
    """
    magnitude = u & 0x7FFFFFFF
    exponent = magnitude >> 23
    normal = nonzero(exponent)
    units = (magnitude & 0x7FFFFF) | (normal << 23)
    target = exponent + (1 - normal) + power  # biased exponent of x 2^(power - 256), and 256
    under = less(target, 257 + 0 * target)
    # 1kkkkkkkkklttttttttttt  ->  000000000001kkkkkkkkks   s = l, or 1 where any t is
    n = (257 - target) & -under
    n = select(less(n, 31 + 0 * n), n, 31 + 0 * n)
    kept = (units >> n) | nonzero(units & ((1 << n) - 1))
    pattern = normalise(kept, select(under, 1 + 0 * target, target - 256))
    over = less(510 + 0 * target, target) & normal
    pattern = select(over, 0x7F800000 + 0 * pattern, pattern)
    finite = less(magnitude, 0x7F800000 + 0 * magnitude)
    return select(finite, pattern, magnitude) | ((u >> 31) << 31)
