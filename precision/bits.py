"""Integer kernels on float32 bit patterns, written with operators only.

The same source runs on Python integers, NumPy uint32 arrays, Numba scalars and JAX tracers; a back end
supplies the bitcast, the loop and the jit.  Hence three rules:

* nothing is imported and no constant exceeds 2^31 - 1 (JAX reads larger Python integers as int64);
* conditions are words 0 or 1 made by ``less``, never booleans, whose arithmetic differs between executors;
* a shift count stays below 32, where LLVM's shifts are defined.

``f`` is a ``formats.Constants``: one format as 32-bit words of the back end's own type.  Patterns are drawn
as  s eeeeeeee mmm...  with  k kept,  l last kept,  r rounding,  t sticky.
"""


def less(x, y):
    """1 where x < y, else 0.  Exact for words below 2^31: the borrow of x - y is its top bit."""
    return ((x - y) >> 31) & 1


def equal(x, y):
    """1 where x == y, else 0, for words below 2^31."""
    return 1 - less(0 * x, x ^ y)


def select(condition, x, y):
    """x where condition is 1, y where it is 0."""
    return y ^ ((x ^ y) & -condition)


def dropped_bits(magnitude, f):
    """How many low bits of a float32 magnitude lie below the format's quantum, at most 24.

    A normal value loses ``f.drop``; each binade below the smallest normal loses one more:

        normal     1kkkkkkkkklrttttttttttttt
        subnormal  0001kkkkkklrttttttttttttt   (quantum fixed)
    """
    exponent = magnitude >> 23
    exponent = exponent + equal(exponent, 0)  # float32 subnormals have the quantum of exponent 1
    below = (f.smallest_normal_exponent - exponent) * less(exponent, f.smallest_normal_exponent)
    dropped = f.drop + below
    return select(less(dropped, 24), dropped, 24 + 0 * dropped)


def round_nearest_even(u, f):
    """Pattern of the float32 value u rounded once to the format, to nearest, ties to even.

    Subnormals kept; beyond the largest finite value: ``f.overflow``; every NaN becomes 0x7FC00000.
    """
    magnitude = u & 0x7FFFFFFF
    return finish(nearest_even_magnitude(magnitude, f), magnitude, u >> 31, f)


def nearest_even_magnitude(magnitude, f):
    """A float32 magnitude on the format's grid, continued without end above the largest finite value."""
    dropped = dropped_bits(magnitude, f)
    mask = (1 << dropped) - 1
    # 1kkkkklrttt + 01111 (+1 where l is 1): carries into l just where r.ttt is above the tie, or on it, l odd.
    # l is the hidden bit where all 23 stored bits are dropped; with nothing dropped, mask is 0 and so is l.
    last = (((magnitude & 0x7FFFFF) | 0x800000) >> dropped) & mask & 1
    rounded = (magnitude + (mask >> 1) + last) & ~mask
    # below the smallest value only 0 and the smallest are left; the tie goes to 0, which is even
    up = f.smallest & -less(f.half_smallest, magnitude)
    return select(less(magnitude, f.smallest), up, rounded)


def finish(rounded, magnitude, sign, f):
    """Overflow, NaN and the sign for a rounded magnitude."""
    limit = f.largest + f.asymmetry * sign
    rounded = select(less(limit, rounded), f.overflow + f.asymmetry * sign, rounded)
    nan = less(0x7F800000 + 0 * magnitude, magnitude)
    rounded = select(nan, 0x7FC00000 + 0 * magnitude, rounded)
    keeps_sign = (1 - nan) & (1 - (equal(rounded, 0) & f.unsigned_zero))
    return rounded | ((sign & keeps_sign) << 31)


def flush_subnormal(u, f):
    """u with every value below the format's smallest normal replaced by the zero of its sign."""
    magnitude = u & 0x7FFFFFFF
    sign = (u >> 31) << 31
    return sign | select(less(magnitude, f.smallest_normal), 0 * u, magnitude)


def encode(u, f):
    """Code of a pattern that ``round_nearest_even`` returned: sign above ``f.magnitude_bits`` bits.

    normal     float32 exponent rebased, low bits dropped
    subnormal  the significand with its hidden bit, shifted to the fixed quantum
    """
    magnitude = u & 0x7FFFFFFF
    sign = u >> 31
    dropped = dropped_bits(magnitude, f)
    below = less(magnitude, f.smallest_normal)
    hidden = (1 - less(magnitude, 0x800000 + 0 * magnitude)) << 23
    subnormal = ((magnitude & 0x7FFFFF) | hidden) >> dropped
    normal = (magnitude >> f.drop) - ((f.smallest_normal_exponent - 1) << (23 - f.drop))
    code = select(below, subnormal, normal)
    code = select(equal(magnitude, 0x7F800000 + 0 * magnitude), f.infinity_code + 0 * code, code)
    code = select(less(0x7F800000 + 0 * magnitude, magnitude), f.nan_code + 0 * code, code)
    signed = code | (sign << f.magnitude_bits)
    negated = -code & ((((1 << f.magnitude_bits) - 1) << 1) | 1)
    return select(f.twos_complement & sign, negated, signed)


def decode(code, f):
    """Float32 pattern of a code; exact.  A NaN code becomes 0x7FC00000."""
    sign = (code >> f.magnitude_bits) & 1
    low = code & ((1 << f.magnitude_bits) - 1)
    negated = (1 << f.magnitude_bits) - low
    low = select(f.twos_complement & sign, negated, low)
    normal = (low << f.drop) + ((f.smallest_normal_exponent - 1) << 23)
    below = less(low, 1 << (23 - f.drop)) & less(1 + 0 * code, f.smallest_normal_exponent)
    value = select(below, normalise(low << f.drop, f.smallest_normal_exponent), normal)
    infinite = equal(low, f.infinity_code) & less(f.largest_code + 0 * code, f.infinity_code)
    special = select(infinite, 0x7F800000 + 0 * code, 0x7FC00000 + 0 * code)
    special_code = less(f.largest_code, low) & (1 - f.twos_complement)
    value = select(special_code, special, value)
    return value | ((sign & (1 - (special_code & (1 - infinite)))) << 31)


def normalise(fraction, exponent):
    """Float32 pattern of  fraction * 2^(exponent - 127 - 23),  fraction < 2^24, by binary search for its top bit.

    ``exponent`` is biased and at least 24, so that no float32 subnormal arises; fraction 0 gives 0.
    """
    shift = 0 * fraction
    for step in (16, 8, 4, 2, 1):
        small = less(fraction, (1 << (24 - step)) + 0 * fraction)
        fraction = fraction << (small * step)
        shift = shift + small * step
    pattern = ((exponent - shift) << 23) + (fraction & 0x7FFFFF)
    return pattern & -less(0 * fraction, fraction)


def order_key(u):
    """A word whose unsigned order is the numbers' order: -inf < ... < -0 < +0 < ... < inf < NaN (0x7FC00000).

    Positive patterns get their top bit set, negative ones are inverted.
    """
    sign = u >> 31
    return u ^ (((sign << 31) - sign) | ((1 + 0 * u) << 31))


def from_order_key(key):
    """The pattern that ``order_key`` made the word from."""
    negative = 1 - (key >> 31)
    return key ^ (((negative << 31) - negative) | ((1 + 0 * key) << 31))


def exponent_index(u):
    """floor(log2 |x|) + 149 of a nonzero finite float32: 0 for 2^-149, 276 for 2^127."""
    magnitude = u & 0x7FFFFFFF
    rest = magnitude & 0x7FFFFF
    top = 0 * rest
    for step in (16, 8, 4, 2, 1):
        large = less((1 << step) - 1 + 0 * rest, rest)
        rest = rest >> (large * step)
        top = top + large * step
    return select(less(magnitude, 0x800000 + 0 * magnitude), top, (magnitude >> 23) + 22)


def events(u, rounded, f):
    """What rounding the float32 pattern u to the pattern ``rounded`` did, one bit an event.

    bit 0 zero, 1 nan, 2 infinite (of u); 3 subnormal result, 4 nonzero became zero, 5 finite went beyond the
    largest value, 6 inexact.
    """
    magnitude = u & 0x7FFFFFFF
    result = rounded & 0x7FFFFFFF
    zero = equal(magnitude, 0)
    nan = less(0x7F800000 + 0 * magnitude, magnitude)
    infinite = equal(magnitude, 0x7F800000 + 0 * magnitude)
    finite = 1 - (nan | infinite)
    vanished = equal(result, 0) & (1 - zero)
    subnormal = less(result, f.smallest_normal) & (1 - equal(result, 0)) & (1 - f.twos_complement)
    beyond = less(f.largest + f.asymmetry * (u >> 31), nearest_even_magnitude(magnitude, f)) & finite
    inexact = (1 - equal(magnitude, result)) & (1 - nan)
    word = zero | (nan << 1) | (infinite << 2) | (subnormal << 3) | (vanished << 4)
    return word | (beyond << 5) | (inexact << 6)


def threefry2x32(key0, key1, x0, x1, word):
    """Threefry-2x32, 20 rounds (Salmon et al. 2011): two words from a key and a counter of two words each.

    ``word`` is 2^32 - 1 in the executor's own type; it keeps Python integers to 32 bits.
    """
    key2 = key0 ^ key1 ^ 0x1BD11BDA
    x0 = (x0 + key0) & word
    x1 = (x1 + key1) & word
    x0, x1 = _mix(x0, x1, 13, 15, 26, 6, word)
    x0, x1 = (x0 + key1) & word, (x1 + key2 + 1) & word
    x0, x1 = _mix(x0, x1, 17, 29, 16, 24, word)
    x0, x1 = (x0 + key2) & word, (x1 + key0 + 2) & word
    x0, x1 = _mix(x0, x1, 13, 15, 26, 6, word)
    x0, x1 = (x0 + key0) & word, (x1 + key1 + 3) & word
    x0, x1 = _mix(x0, x1, 17, 29, 16, 24, word)
    x0, x1 = (x0 + key1) & word, (x1 + key2 + 4) & word
    x0, x1 = _mix(x0, x1, 13, 15, 26, 6, word)
    return (x0 + key2) & word, (x1 + key0 + 5) & word


def _mix(x0, x1, a, b, c, d, word):
    """Four rounds: add, rotate left, exclusive or."""
    x0 = (x0 + x1) & word
    x1 = (((x1 << a) | (x1 >> (32 - a))) & word) ^ x0
    x0 = (x0 + x1) & word
    x1 = (((x1 << b) | (x1 >> (32 - b))) & word) ^ x0
    x0 = (x0 + x1) & word
    x1 = (((x1 << c) | (x1 >> (32 - c))) & word) ^ x0
    x0 = (x0 + x1) & word
    x1 = (((x1 << d) | (x1 >> (32 - d))) & word) ^ x0
    return x0, x1
