"""The steps of ``accumulation`` over lanes of columns: each loop is one function of it on a row of words, which the
compiler makes vector code of.  Counts are added to where ``counting``."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np

from precision import accumulation, soft_float, superaccumulator
from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import compile_words
from precision.backends.numba_.inner_functions import inner

_words = scalars.words
for _module in (soft_float, superaccumulator, accumulation):
    _words = _words | compile_words(_module, known=_words)
_take, _add_product, _rounded_product, _rounded_sum = (
    _words[name] for name in ("take", "add_product", "rounded_product", "rounded_sum")
)
_negated, _product_vanished, _product_swamped, _sum_swamped, _sum_overflowed = (
    _words[name] for name in ("negated", "product_vanished", "product_swamped", "sum_swamped", "sum_overflowed")
)
_product_term, _start_term, _product_kind, _start_kind, _aligned, _halves, _joined, _close, _second_level = (
    _words[name]
    for name in (
        "product_term", "start_term", "product_kind", "start_kind", "aligned", "halves", "joined", "close",
        "second_level",
    )
)  # fmt: skip
_is_finite, _is_infinite, _fused_result, integer_of, _wide_product = (
    _words[name] for name in ("is_finite", "is_infinite", "fused_result", "integer_of", "wide_product")
)
_limb_of, _digits, _signed, carried, _complement, _leading, _rounded_off = (
    compile_words(superaccumulator, known=_words)[name]
    for name in ("limb_of", "digits", "signed", "carried", "negated", "leading", "rounded_off")
)
LIMBS = superaccumulator.LIMBS

UNDERFLOWED, SWAMPED, MISALIGNED, OVERFLOWED = range(4)
MINUS_ZERO = np.uint32(1 << 31)


@inner
def add(x, y, out, f, how, counting, counts):
    """out = x + y, rounded.

    The loop writes to a row of its own: where out is x, one that reads and writes the same row is not made vector
    code of; nor is one that counts.
    """
    result = np.empty(out.size, np.uint32)
    for j in range(out.size):
        result[j] = _rounded_sum(x[j], y[j], f, how)
    if counting:
        for j in range(out.size):
            counts[SWAMPED] += _sum_swamped(x[j], y[j], result[j])
            counts[OVERFLOWED] += _sum_overflowed(x[j], y[j], result[j])
    out[:] = result


@inner
def read_start(s, f, out):
    for j in range(s.size):
        out[j] = _take(s[j], f.flush_start)


@inner
def chain_step(x, y, s, f, counting, counts):
    """s + x y, the product exact."""
    before = s.copy()
    for j in range(s.size):
        u, v, w = _take(x[j], f.flush_a), _take(y[j], f.flush_b), _take(before[j], f.flush_start)
        s[j] = _add_product(u, v, w, f)
    if counting:
        for j in range(s.size):
            u, v, w = _take(x[j], f.flush_a), _take(y[j], f.flush_b), _take(before[j], f.flush_start)
            counts[UNDERFLOWED] += _product_vanished(x[j], y[j], u, v)
            counts[SWAMPED] += _product_swamped(u, v, w, s[j])
            counts[OVERFLOWED] += _is_finite(u) & _is_finite(v) & _is_finite(w) & _is_infinite(s[j])


@inner
def product(x, y, out, f, counting, counts):
    """x y, rounded."""
    for j in range(out.size):
        out[j] = _rounded_product(_take(x[j], f.flush_a), _take(y[j], f.flush_b), f)
    if counting:
        for j in range(out.size):
            u, v = _take(x[j], f.flush_a), _take(y[j], f.flush_b)
            counts[UNDERFLOWED] += _product_vanished(x[j], y[j], out[j], out[j])
            counts[OVERFLOWED] += _sum_overflowed(u, v, out[j])


@inner
def tree(terms, length, f, counting, counts):
    """Neighbours of the first ``length`` rows added until one is left, in row 0."""
    while length > 1:
        for i in range(length // 2):
            add(terms[2 * i], terms[2 * i + 1], terms[i], f, f.sum, counting, counts)
        if length % 2:
            terms[length // 2] = terms[length - 1]
        length = (length + 1) // 2


@inner
def rounded_step(s, lost, terms, length, scratch, f, compensated, counting, counts):
    """s + tree of the terms, or Kahan's step with the one term there is."""
    tree(terms, length, f, counting, counts)
    read = scratch[0]
    read_start(s, f, read)
    if not compensated:
        add(read, terms[0], s, f, f.sum, counting, counts)
        return
    corrected, minus = scratch[1], scratch[2]
    _negate(lost, minus)
    add(terms[0], minus, corrected, f, f.sum, False, counts)
    add(read, corrected, s, f, f.sum, counting, counts)
    _negate(read, minus)
    add(s, minus, lost, f, f.sum, False, counts)
    _negate(corrected, minus)
    add(lost, minus, lost, f, f.sum, False, counts)


@inner
def _negate(u, out):
    for j in range(out.size):
        out[j] = _negated(u[j])


@inner
def _kinds(xs, ys, length, s, f, kinds, minus):
    """Kinds of all terms, joined; 1 in ``minus`` where every term is -0."""
    for j in range(s.size):
        kinds[j] = _start_kind(s[j])
        minus[j] = np.uint32(s[j] == MINUS_ZERO)
    for i in range(length):
        for j in range(s.size):
            u, v = _take(xs[i, j], f.flush_a), _take(ys[i, j], f.flush_b)
            kinds[j] |= _product_kind(u, v, f)
            zero = np.uint32((u << np.uint32(1) == 0) | (v << np.uint32(1) == 0))
            minus[j] &= zero & np.uint32((u ^ v) >> np.uint32(31))


@inner
def aligned_step(xs, ys, length, s, scratch, f, second, counting, counts):
    """One truncated fused addition."""
    kinds, minus, top, low, high = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    _kinds(xs, ys, length, s, f, kinds, minus)
    for j in range(s.size):
        e = _start_term(s[j], f)[1]
        top[j] = f.floor if second else max(e, f.floor)
        low[j] = 0
        high[j] = 0
    for i in range(length):
        x, y = xs[i], ys[i]
        for j in range(s.size):
            e = _product_term(_take(x[j], f.flush_a), _take(y[j], f.flush_b), f)[1]
            top[j] = max(top[j], e)
    for i in range(length):
        x, y = xs[i], ys[i]
        for j in range(s.size):
            m, e, sign = _product_term(_take(x[j], f.flush_a), _take(y[j], f.flush_b), f)
            part_low, part_high = _halves(_aligned(m, e, top[j], f.left, f.right)[0], sign)
            low[j] += part_low
            high[j] += part_high
    before = s.copy()
    if second:
        for j in range(s.size):
            hi, lo = _joined(low[j], high[j])
            hi, lo, larger = _second_level(hi, lo, top[j], before[j], f)[:3]
            s[j] = _close(hi, lo, larger, f.second_sum, kinds[j], minus[j], f)
    else:
        for j in range(s.size):
            m, e, sign = _start_term(before[j], f)
            part_low, part_high = _halves(_aligned(m, e, top[j], f.start_left, f.start_right)[0], sign)
            hi, lo = _joined(np.uint32(low[j] + part_low), np.uint32(high[j] + part_high))
            s[j] = _close(hi, lo, top[j], f.alignment, kinds[j], minus[j], f)
    if counting:
        _count_aligned(xs, ys, length, before, s, scratch, f, second, counts)


@inner
def _count_aligned(xs, ys, length, before, after, scratch, f, second, counts):
    """What happened in ``aligned_step``, of which scratch holds the kinds, exponents and sums."""
    kinds, top, low, high = scratch[0], scratch[2], scratch[3], scratch[4]
    for j in range(before.size):
        plain, finite = np.uint32(kinds[j] == 0), np.uint32(_is_finite(before[j]))
        for i in range(length):
            u, v = _take(xs[i, j], f.flush_a), _take(ys[i, j], f.flush_b)
            m, e, _ = _product_term(u, v, f)
            t, lost = _aligned(m, e, top[j], f.left, f.right)
            counts[UNDERFLOWED] += _product_vanished(xs[i, j], ys[i, j], u, v)
            counts[SWAMPED] += plain & np.uint32((m != 0) & (t == 0))
            counts[MISALIGNED] += plain & lost
            finite &= _is_finite(xs[i, j]) & _is_finite(ys[i, j])
        if second:
            hi, lo = _joined(low[j], high[j])
            _, _, _, lost_sum, lost, vanished = _second_level(hi, lo, top[j], before[j], f)
        else:
            m, e, _ = _start_term(before[j], f)
            t, lost = _aligned(m, e, top[j], f.start_left, f.start_right)
            lost_sum, vanished = np.uint32(0), np.uint32((m != 0) & (t == 0))
        counts[SWAMPED] += plain & vanished
        counts[MISALIGNED] += plain * np.uint32(lost + lost_sum)
        counts[OVERFLOWED] += finite & _is_infinite(after[j])


@inner
def deposit(limbs, top, bottom, position, sign):
    i, r = _limb_of(position)
    first, second, third = _digits(top, bottom, r)
    limbs[i] += _signed(first, sign)
    limbs[i + 1] += _signed(second, sign)
    limbs[i + 2] += _signed(third, sign)


@inner
def withdraw(limbs):
    """(u, extra, whether there is anything), the limbs left with digits of the magnitude."""
    carry = np.uint32(0)
    for i in range(LIMBS):
        limbs[i], carry = carried(limbs[i], carry)
    sign = np.uint32(carry >> np.uint32(31))
    borrow = sign
    for i in range(LIMBS):
        limbs[i], borrow = _complement(limbs[i], sign, borrow)
    first = second = third = rest = place = np.uint32(0)
    for i in range(LIMBS):
        down = np.uint32(LIMBS - 1 - i)
        first, second, third, rest, place = _leading(limbs[down], down, first, second, third, rest, place)
    u, extra = _rounded_off(first, second, third, rest, place, sign)
    return u, extra, first != 0


@inner
def exact_step(xs, ys, length, s, scratch, limbs, f, counting, counts):
    """All products and s in one exact addition."""
    kinds, minus = scratch[0], scratch[1]
    _kinds(xs, ys, length, s, f, kinds, minus)
    for j in range(s.size):
        limbs[:] = np.uint32(0)
        for i in range(length):
            ma, ea = integer_of(_take(xs[i, j], f.flush_a))
            mb, eb = integer_of(_take(ys[i, j], f.flush_b))
            top, bottom = _wide_product(ma, mb)
            sign = np.uint32((xs[i, j] ^ ys[i, j]) >> np.uint32(31))
            # infinities and NaN are not looked at, but must stay within the limbs
            deposit(limbs, top, bottom, np.uint32(min(ea, 254) + min(eb, 254) - 2), sign)
        some = counting and withdraw(limbs.copy())[2]
        m, e = integer_of(s[j])
        place = np.uint32(min(e, 254) + superaccumulator.START)
        deposit(limbs, np.uint32(0), m, place, np.uint32(s[j] >> np.uint32(31)))
        u, extra, there = withdraw(limbs)
        if not there:
            u = np.uint32(minus[j] << np.uint32(31))
        result = _fused_result(u, extra, kinds[j], f)
        if counting:
            for i in range(length):
                u, v = _take(xs[i, j], f.flush_a), _take(ys[i, j], f.flush_b)
                counts[UNDERFLOWED] += _product_vanished(xs[i, j], ys[i, j], u, v)
            counts[SWAMPED] += np.uint32(some and result == s[j] and kinds[j] == 0)
            finite = np.uint32(_is_finite(s[j]))
            for i in range(length):
                finite &= _is_finite(xs[i, j]) & _is_finite(ys[i, j])
            counts[OVERFLOWED] += finite & _is_infinite(result)
        s[j] = result
