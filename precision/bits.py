"""Integer kernels on float32 bit patterns, written with operators only.

The same source runs on Python integers, NumPy uint32 arrays, Numba scalars and JAX tracers; a back end
supplies the bitcast, the loop and the jit.  Hence three rules:

* nothing is imported and no constant exceeds 2^31 - 1 (JAX reads larger Python integers as int64);
* conditions are words 0 or 1 made by ``less``, never booleans, whose arithmetic differs between executors;
* a shift count stays below 32, where LLVM's shifts are defined.

``f`` is a ``rounding_modes.Constants``: one format and one way of rounding as 32-bit words of the back end's own
type.  Patterns are drawn as  s eeeeeeee mmm...  with  k kept,  l last kept,  r rounding,  t sticky.
"""

NEAREST_EVEN, NEAREST_AWAY, TOWARD_ZERO, UP, DOWN, TO_ODD, STOCHASTIC = 0, 1, 2, 3, 4, 5, 6


def less(x, y):
    """1 where x < y, else 0.  Exact for words below 2^31: the borrow of x - y is its top bit."""
    return ((x - y) >> 31) & 1


def nonzero(x):
    """1 where x is not 0, else 0, for every word: the top bit of x or of -x."""
    return ((x | -x) >> 31) & 1


def equal(x, y):
    """1 where x == y, else 0, for every two words."""
    return 1 - nonzero(x ^ y)


def select(condition, x, y):
    """x where condition is 1, y where it is 0."""
    return y ^ ((x ^ y) & -condition)


def dropped_bits(magnitude, f):
    """How many low bits of a float32 magnitude lie below the format's quantum.

    A normal value loses ``f.drop``; each binade below the smallest normal loses one more:

        normal     1kkkkkkkkklrttttttttttttt
        subnormal  0001kkkkkklrttttttttttttt   (quantum fixed)

    24 and more belong to values below the smallest positive one.
    """
    exponent = magnitude >> 23
    below = less(exponent, f.smallest_normal_exponent)
    dropped = select(below, f.below_drop + f.smallest_normal_exponent - exponent, f.drop + 0 * exponent)
    return select(equal(exponent, 0), f.zero_drop + 0 * exponent, dropped)


def is_odd(magnitude, dropped, f):
    """Last kept bit of a magnitude of which ``dropped`` <= 24 bits are not kept.

    Where the significand is the hidden bit alone, the last bit of the code, which is the exponent's, takes its place.
    """
    hidden = nonzero(magnitude >> 23) << 23
    last = ((magnitude & 0x7FFFFF) | hidden) >> dropped
    return last & (1 ^ (f.parity & (1 + (magnitude >> 23) + f.parity_shift))) & 1


def round_nearest_even(u, f):
    """Pattern of the float32 value u rounded once to the format, to nearest, ties to even.

    The bits of ``round_pattern`` in that mode, in fewer operations.  ``f.mode`` is not read; the rest of f is.
    """
    magnitude = u & 0x7FFFFFFF
    return finish(nearest_even_magnitude(magnitude, f), magnitude, u >> 31, f)


def nearest_even_magnitude(magnitude, f):
    """A float32 magnitude on the format's grid, continued without end above the largest finite value."""
    dropped = dropped_bits(magnitude, f)
    dropped = select(less(dropped, 24), dropped, 24 + 0 * dropped)
    mask = (1 << dropped) - 1
    # 1kkkkklrttt + 01111 (+1 where l is 1): carries into l just where r.ttt is above the tie, or on it, l odd;
    # with nothing dropped, mask is 0 and so is the last bit
    rounded = (magnitude + (mask >> 1) + (is_odd(magnitude, dropped, f) & mask)) & ~mask
    # below the smallest value only 0 and the smallest are left; the tie goes to 0, which is even
    up = f.smallest & -less(f.half_smallest, magnitude)
    return select(less(magnitude, f.smallest), up, rounded)


def round_pattern(u, extra, word, f):
    """Pattern of a real number rounded once to the format in the mode ``f.mode``.

    u: the float32 pattern of the number truncated toward zero.
    extra: the 32 bits that follow; the last also tells whether anything lies beyond it.

        u  s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm  extra  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxt

    A finite number from 2^128 is infinity's pattern with something behind it.
    word: 32 random bits, read by stochastic rounding alone.
    """
    magnitude = u & 0x7FFFFFFF
    # with bits behind it a pattern is neither zero nor infinity nor NaN, which is all that `finish` asks of it
    kind = select(nonzero(extra), 1 + 0 * magnitude, magnitude)
    grid = on_grid(magnitude, extra, u >> 31, word, f)
    return finish(grid - (grid >> 31), kind, u >> 31, f)  # at one digit the value after 2^128 would be the sign bit


def on_grid(magnitude, extra, sign, word, f):
    """A magnitude and the 32 bits after it on the format's grid, continued without end above the largest value."""
    dropped = dropped_bits(magnitude, f)
    near = select(less(dropped, 24), dropped, 24 + 0 * dropped)
    mask = (1 << near) - 1
    tiny = less(23 + 0 * dropped, dropped)  # between 0 and the smallest value
    lower = (magnitude & ~mask) & -(1 - tiny)
    upper = select(tiny, f.smallest, lower + mask + 1)
    rest = fraction(magnitude, extra, dropped, mask)
    return select(goes_up(rest, is_odd(magnitude, near, f), sign, word, f), upper, lower)


def fraction(magnitude, extra, dropped, mask):
    """Where a number lies between its neighbours on the grid, in units of 2^-32, bit 0 sticky.

    d = dropped bits of the significand, then ``extra``, shifted until the first stands at the top:

        d < 32    rtttttttttxxxxxxxxxxxxxxxxxxxxxx|xxxxxt
        d >= 32   00000rtttttttttttttttttttttttttt|tttxxxxxt
    """
    significand = (magnitude & 0x7FFFFF) | (nonzero(magnitude >> 23) << 23)
    far = less(31 + 0 * dropped, dropped)
    n = dropped & 31
    rest = significand & mask
    close = ((rest << 1) << (31 - n)) | (extra >> n)
    out = select(far, rest, extra) & ((1 << n) - 1)
    # 64 and more: nothing but the sticky bit is left
    gone = less(63 + 0 * dropped, dropped)
    distant = select(gone, 0 * rest, rest >> n)
    lost = nonzero(out) | (far & nonzero(extra)) | (gone & nonzero(rest))
    return select(far, distant, close) | lost


def goes_up(rest, odd, sign, word, f):
    """1 where the neighbour away from zero is taken.  One mode for all, so executors branch on it once."""
    half = rest >> 31
    more = nonzero(rest & 0x7FFFFFFF)
    inexact = nonzero(rest)
    if f.mode == NEAREST_EVEN:
        return half & (more | odd)
    if f.mode == NEAREST_AWAY:
        return half
    if f.mode == UP:
        return inexact & (1 - sign)
    if f.mode == DOWN:
        return inexact & sign
    if f.mode == TO_ODD:
        return inexact & (1 - odd)
    if f.mode == STOCHASTIC:
        return chance(rest, word, f)
    return 0 * rest


def chance(rest, word, f):
    """1 with probability rest / 2^32, which is first rounded to R bits, to nearest even: where t + r >= 2^R.

    rest  kkkkkkkkkkkklrtttttttttttttttttt  ->  t, 0 <= t <= 2^R;   r = the top R bits of ``word``
    """
    n = f.random_shift
    kept = rest >> n
    half = (rest >> (n - 1)) & 1
    t = kept + (half & (nonzero(rest & ((1 << (n - 1)) - 1)) | kept))
    return ((t + (word >> n)) >> (32 - n)) & 1


def finish(rounded, magnitude, sign, f):
    """The sign, overflow, infinities, NaN and the zeros of a magnitude on the grid."""
    limit = select(sign, f.lowest, f.largest)
    rounded = select(f.no_zero & less(rounded, f.smallest), f.smallest, rounded)
    kept = rounded & -(1 - less(rounded, f.flush_below))
    negative = sign & (1 - (f.signless_zero & (1 - nonzero(kept))))
    result = kept | (negative << 31)
    over = select(sign, f.overflow_negative, f.overflow_positive)
    result = select(less(limit, kept), over, result)
    infinite = select(sign, f.infinite_negative, f.infinite_positive)
    result = select(equal(magnitude, 0x7F800000), infinite, result)
    outside = f.no_zero & (sign | (1 - nonzero(magnitude)))
    result = select(outside, 0x7FC00000 + 0 * result, result)
    return select(less(0x7F800000 + 0 * magnitude, magnitude), f.nan, result)


def flush_subnormal(u, f):
    """u with every value below the format's smallest normal replaced by the zero of its sign."""
    magnitude = u & 0x7FFFFFFF
    sign = (u >> 31) << 31
    return sign | select(less(magnitude, f.smallest_normal), 0 * u, magnitude)


def encode(u, f):
    """Code of a pattern that rounding to the format returned: sign above ``f.magnitude_bits`` bits.

    normal     float32 exponent rebased, low bits dropped
    subnormal  the significand with its hidden bit, shifted to the fixed quantum
    """
    magnitude = u & 0x7FFFFFFF
    sign = u >> 31
    dropped = dropped_bits(magnitude, f)
    dropped = select(less(dropped, 24), dropped, 24 + 0 * dropped)
    below = less(magnitude, f.smallest_normal)
    subnormal = ((magnitude & 0x7FFFFF) | (nonzero(magnitude >> 23) << 23)) >> dropped
    normal = (magnitude >> f.drop) - (f.code_shift << (23 - f.drop))
    code = select(below, subnormal, normal)
    code = select(equal(magnitude, 0x7F800000), f.infinity_code + 0 * code, code)
    nan = less(0x7F800000 + 0 * magnitude, magnitude)
    signed = code | ((sign << (f.magnitude_bits - 1)) << 1)
    code = select(f.twos_complement & sign, -code & 0xFF, signed)  # an int4 is sign-extended to its byte
    return select(nan, f.nan_code & -(1 - f.twos_complement + 0 * code), code)


def decode(code, f):
    """Float32 pattern of a code; exact.  A NaN code becomes 0x7FC00000."""
    low_mask = (((1 << (f.magnitude_bits - 1)) - 1) << 1) | 1
    sign = ((code >> (f.magnitude_bits - 1)) >> 1) & 1
    low = code & low_mask
    negated = (low_mask - low) + 1
    low = select(f.twos_complement & sign, negated, low)
    below = less(low, f.first_normal_code)
    normal = (low << f.drop) + (f.code_shift << 23)
    normal = normal | (f.deep & -(1 - nonzero(normal)))
    subnormal = normalise(low << f.drop, f.smallest_normal_exponent)
    value = select(below, subnormal & -(f.subnormals + 0 * low), normal)
    infinite = equal(low, f.infinity_code)
    beyond = less(f.largest_code, low) & (1 - f.twos_complement) & (1 - infinite)
    nan = beyond | equal(code, f.nan_code)
    value = select(infinite, 0x7F800000 + 0 * value, value) | (sign << 31)
    return select(nan, 0x7FC00000 + 0 * value, value)


def normalise(units, exponent):
    """Float32 pattern of  units * 2^(exponent - 127 - 23),  units < 2^24, by binary search for its top bit.

    ``exponent`` is biased; the search stops at float32's own subnormals.  0 gives 0.
    """
    shift = 0 * units
    for step in (16, 8, 4, 2, 1):
        small = less(units, (1 << (24 - step)) + 0 * units) & less(step + shift, exponent)
        units = units << (small * step)
        shift = shift + small * step
    pattern = ((exponent - shift - 1) << 23) + units
    return pattern & -nonzero(units)


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


def events(u, result, beyond, f):
    """What rounding the float32 pattern u to the pattern ``result`` did, one bit an event.

    bit 0 zero, 1 nan, 2 infinite, 3 subnormal (of u); 4 subnormal result, 5 nonzero became zero, 6 finite went
    beyond the largest value (``beyond``), 7 beyond or infinite became finite, 8 inexact.
    """
    magnitude = u & 0x7FFFFFFF
    rounded = result & 0x7FFFFFFF
    zero = 1 - nonzero(magnitude)
    nan = less(0x7F800000 + 0 * magnitude, magnitude)
    infinite = equal(magnitude, 0x7F800000)
    tiny = less(magnitude, 0x800000 + 0 * magnitude) & (1 - zero)
    vanished = (1 - nonzero(rounded)) & (1 - zero) & (1 - nan)
    subnormal = less(rounded, f.smallest_normal) & nonzero(rounded) & (1 - f.twos_complement)
    saturated = (beyond | infinite) & less(rounded, 0x7F800000 + 0 * rounded)
    inexact = nonzero(magnitude ^ rounded) & (1 - nan)
    word = zero | (nan << 1) | (infinite << 2) | (tiny << 3) | (subnormal << 4)
    return word | (vanished << 5) | (beyond << 6) | (saturated << 7) | (inexact << 8)


def nearest_even_events(u, result, f):
    """``events`` of a result that was rounded to nearest even."""
    magnitude = u & 0x7FFFFFFF
    grid = nearest_even_magnitude(magnitude, f)
    return events(u, result, goes_beyond(grid, magnitude, u >> 31, f), f)


def round_and_tell(u, word, f):
    """(pattern, events) of a float32 value rounded in the mode ``f.mode``."""
    magnitude = u & 0x7FFFFFFF
    sign = u >> 31
    grid = nearest_even_magnitude(magnitude, f)
    if f.mode != NEAREST_EVEN:
        grid = on_grid(magnitude, 0 * u, sign, word, f)
    result = finish(grid, magnitude, sign, f)
    return result, events(u, result, goes_beyond(grid, magnitude, sign, f), f)


def goes_beyond(rounded, magnitude, sign, f):
    """1 where a finite magnitude came to lie beyond the largest finite value of its sign on the grid.

    Where there is no zero, every value below it is beyond what there is.
    """
    limit = select(sign, f.lowest, f.largest)
    outside = f.no_zero & sign & nonzero(magnitude)
    return (less(limit, rounded) | outside) & less(magnitude, 0x7F800000 + 0 * magnitude)


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
