"""Float64 patterns as float32 ones: truncated, with the 32 bits that follow.  Operators only, on 64-bit words.

Rounding from float64 is then ``bits.round_pattern`` of both words, in one step and in every mode.
"""


def split(u):
    """(pattern, extra) of a float64 pattern, both below 2^32.

        s eeeeeeeeeee mmmmmmmmmmmmmmmmmmmmmmm mmmmmmmmmmmmmmmmmmmmmmmmmmmmm
        s  eeeeeeee   mmmmmmmmmmmmmmmmmmmmmmm mmmmmmmmmmmmmmmmmmmmmmmmmmmmm000 (extra)

    The pattern is truncated toward zero; the last bit of ``extra`` also stands for everything beyond it, where
    float32's subnormals leave more behind.  A finite number from 2^128 becomes infinity's pattern and all ones, which
    every rounding takes for what it is; NaN becomes 0x7FC00000.
    """
    magnitude = u & ((1 << 63) - 1)
    exponent = magnitude >> 52
    normal = 1 - below(exponent, 1 + 0 * exponent)
    frame = ((magnitude & ((1 << 52) - 1)) | (normal << 52)) << 3
    # float32's exponent field is that of float64 less 896; where it would not be positive, the frame moves down
    under = below(exponent, 897 + 0 * exponent)
    shift = (897 - exponent) & -under
    shift = shift ^ ((shift ^ 63) & -below(63 + 0 * shift, shift))
    lost = frame & ((1 << shift) - 1)
    frame = (frame >> shift) | (1 - below(lost, 1 + 0 * lost))
    field = (exponent - 897) & -(1 - under)
    pattern = (field << 23) + (frame >> 32)
    extra = frame & 0xFFFFFFFF
    # 1151 - 897 = 254: from 2^128
    over = 1 - below(exponent, 1151 + 0 * exponent)
    pattern = pattern ^ ((pattern ^ 0x7F800000) & -over)
    extra = extra | (0xFFFFFFFF & -over)
    infinite = over & (1 - below(exponent, 2047 + 0 * exponent))
    nan = below((2047 << 52) + 0 * magnitude, magnitude)
    pattern = pattern ^ ((pattern ^ 0x7FC00000) & -nan)
    sign = ((u >> 63) << 31) & -(1 - nan)
    return pattern | sign, extra & -(1 - infinite)


def below(x, y):
    """1 where x < y, else 0, for words below 2^63."""
    return ((x - y) >> 63) & 1
