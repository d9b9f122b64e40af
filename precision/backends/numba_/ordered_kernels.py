"""Matrix products under any ordered accumulator, with counters: rows of outputs, LANES columns at a time.

The faster kernels of chains and of truncated sums have these bits; what they cannot do comes here.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from precision.accumulation_plan import Plan, plan_of
from precision.accumulator import Accumulator
from precision.backends.numba_ import ordered_steps
from precision.backends.numba_.compilation import PRODUCT, kernel, kernel_for, packed, serial_kernel
from precision.backends.numba_.inner_functions import inner
from precision.format import Format
from precision.rounding_modes import Constants
from precision.superaccumulator import LIMBS

LANES = 32
_add, _chain_step, _product, _tree = (
    ordered_steps.add, ordered_steps.chain_step, ordered_steps.product, ordered_steps.tree,
)  # fmt: skip
_rounded_step, _aligned_step, _exact_step, _read_start = (
    ordered_steps.rounded_step, ordered_steps.aligned_step, ordered_steps.exact_step, ordered_steps.read_start,
)  # fmt: skip
_MINUS_ZERO = ordered_steps.MINUS_ZERO

# what the words of a kernel begin with
_ORDERS = ("ascending", "odd_first", "interleaved_pairs")
_HEADER = 7
_ROUNDED, _ALIGNED, _SECOND, _COMPENSATED, _LAST, _CONTIGUOUS = (1 << i for i in range(6))
_PLAN = len(Plan._fields) - 2
_CONSTANTS = len(Constants._fields)


def words_of(accumulator: Accumulator, inputs: tuple[Format, Format], counting: bool) -> np.ndarray:
    """The record as int64 words: a header, then its ``Plan``."""
    plan = plan_of(accumulator, inputs)
    kind = sum(
        bit
        for bit, holds in (
            (_ROUNDED, accumulator.product == "rounded"),
            (_ALIGNED, accumulator.alignment is not None),
            (_SECOND, accumulator.second_alignment is not None),
            (_COMPENSATED, accumulator.compensated),
            (_LAST, accumulator.start == "last"),
            (_CONTIGUOUS, accumulator.chain_order == "contiguous"),
        )
        if holds
    )
    header: list[Any] = [
        kind, accumulator.block_for(inputs[0]) or 0, accumulator.tile or 0, accumulator.chains, accumulator.granule,
        _ORDERS.index(accumulator.order), int(counting),
    ]  # fmt: skip
    return np.array([*header, *plan[:_PLAN], *plan.sum, *plan.tile], np.int64)


@inner
def _plan(words):
    # 32-bit words, as the steps want them
    narrow = words.astype(np.uint32)
    first = to_fixed_tuple(narrow[_HEADER : _HEADER + _PLAN], _PLAN)
    sums = Constants(*to_fixed_tuple(narrow[_HEADER + _PLAN : _HEADER + _PLAN + _CONSTANTS], _CONSTANTS))
    tiles = Constants(*to_fixed_tuple(narrow[_HEADER + _PLAN + _CONSTANTS :], _CONSTANTS))
    return Plan(*first, sums, tiles)


@inner
def _position(order, start, size, place):
    """The position of k that stands at a place of a tile."""
    if order == 1:
        swapped = place ^ 1
        return start + (swapped if swapped < size else place)
    if order == 2:
        first = size // 4 * 2 + min(size % 4, 2)
        if place < first:
            return start + place // 2 * 4 + place % 2
        return start + (place - first) // 2 * 4 + 2 + (place - first) % 2
    return start + place


@inner
def _load(a, b, k, x, y):
    """A product's factors over the lanes; beyond k +0 and +0, which is padding."""
    lanes = y.size
    if k >= a.size:
        x[:] = np.uint32(0)
        y[:] = np.uint32(0)
    else:
        for j in range(lanes):
            x[j] = a[k]
            y[j] = b[k, j]


@inner
def _block(a, b, order, start, size, chain, chains, length, contiguous, first, count, xs, ys):
    """Factors of the products first ... of a chain into xs and ys; how many there are."""
    loaded = 0
    for i in range(first, min(first + count, length)):
        place = chain * length + i if contiguous else i * chains + chain
        if place < size:
            _load(a, b, _position(order, start, size, place), xs[loaded], ys[loaded])
            loaded += 1
    return loaded


@inner
def _chain(a, b, s, lost, words, f, start, size, chain, length, xs, ys, terms, scratch, limbs, counts):
    """s through the blocks of one chain of a tile."""
    kind, order, counting = words[0], words[5], words[6] != 0
    block = words[1] if words[1] else max(length, 1)
    for first in range(0, length, block):
        loaded = _block(
            a, b, order, start, size, chain, words[3], length, kind & _CONTIGUOUS != 0, first, block, xs, ys
        )  # fmt: skip
        if loaded == 0:
            continue
        if kind & _ROUNDED:
            for i in range(loaded):
                _product(xs[i], ys[i], terms[i], f, counting, counts)
            _rounded_step(s, lost, terms, loaded, scratch, f, kind & _COMPENSATED != 0, counting, counts)
        elif kind & _ALIGNED:
            _aligned_step(xs, ys, loaded, s, scratch, f, kind & _SECOND != 0, counting, counts)
        elif block > 1:
            _exact_step(xs, ys, loaded, s, scratch, limbs, f, counting, counts)
        else:
            _chain_step(xs[0], ys[0], s, f, counting, counts)


@inner
def _columns(a, b, s, words, f, counts):
    """The sums of one row of a and some columns of b, onto s."""
    kind, chains, lanes = words[0], words[3], s.size
    padded = -(-a.size // words[4]) * words[4]
    tile = words[2] if words[2] else padded
    longest = -(-min(tile, padded) // chains)
    block = min(words[1], longest) if words[1] else longest
    xs, ys = np.empty((block, lanes), np.uint32), np.empty((block, lanes), np.uint32)
    terms, scratch = np.empty((block, lanes), np.uint32), np.empty((5, lanes), np.uint32)
    limbs, lost = np.zeros(LIMBS, np.uint32), np.zeros(lanes, np.uint32)
    if not kind & _LAST:
        zero = np.int64(0)  # for a literal Numba would compile all of a chain once more
        _chain(a, b, s, lost, words, f, zero, padded, zero, longest, xs, ys, terms, scratch, limbs, counts)
        return
    sums = np.empty((chains, lanes), np.uint32)
    for start in range(0, padded, max(tile, 1)):
        size = min(tile, padded - start)
        length = -(-size // chains)
        for chain in range(chains):
            begin = chain * length if kind & _CONTIGUOUS else chain
            sums[chain] = np.uint32(0) if begin < size else _MINUS_ZERO
            _chain(
                a, b, sums[chain], lost, words, f, start, size, chain, length, xs, ys, terms, scratch, limbs, counts
            )
        _tree(sums, chains, f, words[6] != 0, counts)
        _read_start(s, f, scratch[0])
        _add(scratch[0], sums[0], s, f, f.tile, words[6] != 0, counts)


@serial_kernel
def _row(a, b, total, words, counts):
    """A row of outputs, LANES columns at a time; cached by itself, as all kernels below are made of it."""
    f = _plan(words)
    for first in range(0, total.size, LANES):
        last = min(first + LANES, total.size)
        s = total[first:last].copy()
        _columns(a, b[:, first:last], s, words, f, counts)
        total[first:last] = s


@kernel_for(*PRODUCT)
def ordered(a, b, total, words):
    """total (B, m, n) += a (B, m, k) b (B, k, n), float32, as the words say."""
    rows = a.shape[1]
    x = np.ascontiguousarray(a).view(np.uint32)
    y = np.ascontiguousarray(b).view(np.uint32)
    z = total.view(np.uint32)
    for i in prange(a.shape[0] * rows):
        _row(x[i // rows, i % rows], y[i // rows], z[i // rows, i % rows], words, np.zeros(4, np.int64))


@kernel_for(*PRODUCT[:3], packed(np.int32, 3), PRODUCT[3])
def ordered_and_counted(a, b, total, counts, words):
    """The same, and what happened in each row: int32 (B, m, 4), underflowed, swamped, misaligned, overflowed."""
    rows = a.shape[1]
    x = np.ascontiguousarray(a).view(np.uint32)
    y = np.ascontiguousarray(b).view(np.uint32)
    z = total.view(np.uint32)
    for i in prange(a.shape[0] * rows):
        counted = np.zeros(4, np.int64)
        _row(x[i // rows, i % rows], y[i // rows], z[i // rows, i % rows], words, counted)
        for event in range(4):
            counts[i // rows, i % rows, event] = counted[event]


@kernel
def redo(a, b, total, again, words):
    """``ordered`` for the outputs marked in ``again`` alone, uint8 (B, m, n); the others stay."""
    rows = a.shape[1]
    for i in prange(a.shape[0] * rows):
        block, row = i // rows, i % rows
        if again[block, row].any():
            x = np.ascontiguousarray(a[block, row]).view(np.uint32)
            columns = np.flatnonzero(again[block, row])
            for first in range(0, columns.size, LANES):
                some = columns[first : first + LANES]
                s = np.empty(some.size, np.float32)
                y = np.empty((x.size, some.size), np.float32)
                for j in range(some.size):
                    s[j] = total[block, row, some[j]]
                    y[:, j] = b[block, :, some[j]]
                _row(x, y.view(np.uint32), s.view(np.uint32), words, np.zeros(4, np.int64))
                for j in range(some.size):
                    total[block, row, some[j]] = s[j]
