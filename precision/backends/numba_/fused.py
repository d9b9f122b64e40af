"""Truncated fused dot-product-add, as tensor cores do it: operands packed once, tiles of outputs through vector code.

    s <- round(sum of trunc(x) to multiples of 2^(E - F)),  x: s and the next ``block`` products, E their largest
    exponent

Source: Xie et al., arXiv 2511.10909, algorithm 7.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision.accumulator import Accumulator
from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.fused_vectors import (
    COLUMNS,
    ROWS,
    SETTINGS,
    STEP,
    ZERO_EXPONENT,
    long_tile,
    narrow_tile,
    wide_tile,
)
from precision.backends.numba_.inner_functions import inlined, inner
from precision.format import Format
from precision.formats import FP32

# words, in order
BLOCK, ALIGNMENT, FLOOR, LEAST_A, LEAST_B, PRECISION, NEAREST, LEAST_SUM, LARGEST_SUM, TILE, INTERLEAVED = range(11)
_NO_FLOOR = -300  # below the exponent of every product and every normal sum
_ROWS_A_CHUNK = 64  # whose packed operand stays in the second-level cache beside a panel of b
_TWICE_NO_EXPONENT = (ZERO_EXPONENT << 16) | (ZERO_EXPONENT & 0xFFFF)
_CHUNKS = 16  # at least, where there are rows enough: threads share them

# a's and b's exponents for which products, factors and sums stay normal in float32
_LEAST_NARROW, _LARGEST_NARROW, _LEAST_NARROW_SUM = -96, 126, -100

_to_bits, _from_bits = scalars.to_bits, scalars.from_bits


def takes(accumulator: Accumulator, inputs: tuple[Format, Format]) -> bool:
    """Whether ``fused`` computes that accumulator for operands of these formats."""
    facts = accumulator
    return (
        facts.summation == "ordered"
        and facts.product == "exact"
        and facts.alignment is not None
        and facts.alignment <= 27
        and facts.second_alignment is None
        and (facts.start, facts.tile) in [("first", None), ("last", 32)]
        and (facts.order, facts.chains) in [("ascending", 1), ("interleaved_pairs", 1)]
        and (facts.order == "ascending" or facts.granule == facts.tile)
        and (facts.start == "first" or (facts.sum, facts.tile_how.mode) == (FP32, "nearest_even"))
        and (facts.rounding, facts.overflow) in [("toward_zero", "inf"), ("nearest_even", "inf")]
        and facts.zero == "positive"
        and facts.sum.precision <= 24
        and (facts.sum.nan, facts.sum.subnormals) == ("ieee", True)
        and facts.sum.min_normal_exponent >= -126
        and facts.sum.max_exponent <= 127
        and not (facts.flush_inputs or facts.flush_start or facts.flush_products or facts.flush_sums)
        and facts.block_for(inputs[0]) is not None
        and inputs[0].precision + inputs[1].precision <= 24
        and min(fmt.min_normal_exponent for fmt in inputs) >= -126
        and not any(fmt.is_integer for fmt in inputs)
    )


def words_of(accumulator: Accumulator, inputs: tuple[Format, Format]) -> np.ndarray:
    """What ``fused`` reads about the accumulator, int64."""
    how = accumulator
    words = {
        BLOCK: how.block_for(inputs[0]),
        ALIGNMENT: how.alignment,
        FLOOR: _NO_FLOOR if how.floor is None else how.floor,
        LEAST_A: inputs[0].min_normal_exponent,
        LEAST_B: inputs[1].min_normal_exponent,
        PRECISION: how.sum.precision,
        NEAREST: how.rounding == "nearest_even",
        LEAST_SUM: how.sum.min_normal_exponent,
        LARGEST_SUM: how.sum.max_exponent,
        TILE: how.tile or 0,
        INTERLEAVED: how.order == "interleaved_pairs",
    }
    return np.array([words[i] for i in range(len(words))], np.int64)


@inlined
def _exponent(word, least):
    """e of x = s 2^e, |s| < 2: subnormals keep e = ``least``; zero, and what is not finite, has one of its own."""
    magnitude = np.int32(word & np.uint32(0x7FFFFFFF))
    e = np.int32(max(np.int32(magnitude >> 23) - np.int32(127), least))
    return np.int32(ZERO_EXPONENT) if magnitude == 0 or magnitude >= 0x7F800000 else e


@inlined
def _significand(word, e):
    """s; a subnormal of bf16 or tf32 is (last 23 bits) 2^-149 and e is -126."""
    field = np.int32((word >> np.uint32(23)) & np.uint32(255))
    last = word & np.uint32(0x7FFFFF)
    sign = word & np.uint32(0x80000000)
    moved = _from_bits(last | np.uint32(np.uint32(field - e) << np.uint32(23)))
    s = np.float32(np.int32(last)) * np.float32(2.0**-23) if field == 0 else moved
    return _from_bits(sign | _to_bits(np.float32(0) if e == ZERO_EXPONENT else s))


@inner
def _scan(x, first, width, least, odd, extremes):
    """Of the finite lanes among first, ... of x (k, lanes): least and largest exponent; ``odd``: the other lanes."""
    count = min(width, x.shape[1] - first)
    low, high = np.full(width, 0xFFFFFFFF, np.uint32), np.zeros(width, np.uint32)
    for k in range(x.shape[0]):
        for lane in range(count):
            magnitude = _to_bits(x[k, first + lane]) & np.uint32(0x7FFFFFFF)
            high[lane] = max(high[lane], magnitude)
            low[lane] = min(low[lane], np.uint32(magnitude - np.uint32(1)))  # a zero becomes the largest word
    smallest, largest = np.int64(1000), np.int64(ZERO_EXPONENT)
    for lane in range(count):
        odd[first + lane] = high[lane] >= np.uint32(0x7F800000)
        if high[lane] != 0 and not odd[first + lane]:
            field = (np.int64(low[lane]) + 1) >> 23
            smallest = min(smallest, field - 127 if field else np.int64(-1000))
            largest = max(largest, max((np.int64(high[lane]) >> 23) - 127, least))
    extremes[0], extremes[1] = smallest, largest


@inner
def _pack(x, first, width, least, places, narrow, values, exponents):
    """Lanes first, ... of x (k, lanes) -> values, exponents (depth, width): int16, or int32 that hold each twice."""
    count = min(width, x.shape[1] - first)
    if count < width or x.shape[0] < values.shape[0]:
        values[:] = 0
        exponents[:] = _TWICE_NO_EXPONENT
    for k in range(x.shape[0]):
        place = places[k]
        if narrow:
            for lane in range(count):
                word = _to_bits(x[k, first + lane])
                e = _exponent(word, np.int32(least))
                values[place, lane] = _from_bits(np.uint32(0) if e == ZERO_EXPONENT else word)
                exponents[place, lane] = np.int32(e << 16) | np.int32(e & 0xFFFF)
        else:
            for lane in range(count):
                word = _to_bits(x[k, first + lane])
                e = _exponent(word, np.int32(least))
                values[place, lane] = _significand(word, e)
                exponents[place, lane] = np.int32(e << 16) | np.int32(e & 0xFFFF)


@inner
def _layout(depth, words):
    """Place of each k in a packed panel, and the blocks of each tile: int64 (k,), (tiles,)."""
    block = words[BLOCK]
    padded = (block + STEP - 1) // STEP * STEP
    size = words[TILE] if words[TILE] else max(depth, 1)
    places, blocks = np.empty(depth, np.int64), np.zeros((depth + size - 1) // size, np.int64)
    before = 0
    for tile in range(blocks.size):
        width = min(size, depth - tile * size)
        firsts = size // 2  # of 0 1 . . 4 5 . ., in the whole tile that is there with its padding
        for k in range(width):
            place = k
            if words[INTERLEAVED]:
                place = k // 4 * 2 + k % 2 + (firsts if k % 4 > 1 else 0)
            places[tile * size + k] = (before + place // block) * padded + place % block
        blocks[tile] = ((size if words[INTERLEAVED] else width) + block - 1) // block
        before += blocks[tile]
    return places, blocks, padded


@inner
def _group(words):
    """Products, each below 4 x 2^F, whose sum is below 2^31."""
    return 1 << (29 - words[ALIGNMENT])


@inner
def _settings(words, padded, narrow):
    """What a tile reads, in the order of ``fused_vectors``; the first, blocks, is set for each tile."""
    settings = np.empty(SETTINGS, np.int64)
    settings[1], settings[2], settings[3] = padded, _group(words), words[ALIGNMENT]
    settings[4] = max(words[FLOOR], _LEAST_NARROW_SUM if narrow else _NO_FLOOR)
    settings[5], settings[6], settings[7] = words[PRECISION], -words[NEAREST], words[LEAST_SUM]
    settings[8] = words[LEAST_SUM] - words[PRECISION] + 1
    first = 127 + _LEAST_NARROW_SUM if narrow else 1
    settings[9], settings[10] = first, words[LARGEST_SUM] + 127 - first
    return settings


@inner
def _add_tile(s, tile, bad, tile_bad):
    """s <- RN32(s + tile), where neither an operand nor the result is subnormal or infinite."""
    for row in range(ROWS):
        for lane in range(COLUMNS):
            x, y = s[row, lane], tile[row, lane]
            z = np.float32(x + y)
            field = (_to_bits(z) >> np.uint32(23)) & np.uint32(255)
            start = (_to_bits(x) >> np.uint32(23)) & np.uint32(255)
            subnormal = start == 0 and (_to_bits(x) & np.uint32(0x7FFFFFFF)) != 0
            tiny = field == 0 and ((_to_bits(x) ^ _to_bits(y)) & np.uint32(0x7FFFFFFF)) != 0
            wrong = subnormal or tiny or start == 255 or field == 255 or tile_bad[row, lane] != 0
            bad[row, lane] |= wrong
            s[row, lane] = z


@inner
def _run(kind, a, a_exponents, b, b_exponents, s, bad, settings):
    if kind == 0:
        narrow_tile(a, a_exponents, b, b_exponents, s, bad, settings)
    elif kind == 1:
        wide_tile(a, a_exponents, b, b_exponents, s, bad, settings)
    else:
        long_tile(a, a_exponents, b, b_exponents, s, bad, settings)


@inner
def _tile(kind, a, a_exponents, b, b_exponents, s, part, bad, part_bad, blocks, first, settings):
    """s (ROWS, 32) through one tile of k after another; ``first``: s enters the only one."""
    start = 0
    for count in blocks:
        for row in range(ROWS):
            for lane in range(COLUMNS):
                part[row, lane] = s[row, lane] if first else np.float32(0)
        settings[0] = count
        _run(kind, a[start:], a_exponents[start:], b[start:], b_exponents[start:], part, part_bad, settings)
        if first:
            for row in range(ROWS):
                for lane in range(COLUMNS):
                    s[row, lane], bad[row, lane] = part[row, lane], part_bad[row, lane]
        else:
            _add_tile(s, part, bad, part_bad)
        start += count * settings[1]


@inner
def _rows(kind, a, a_exponents, b, b_exponents, first_row, total, redo, odd, blocks, first, settings):
    """Outputs of some row panels under all column panels."""
    odd_rows, odd_columns = odd
    s, bad = np.zeros((ROWS, COLUMNS), np.float32), np.zeros((ROWS, COLUMNS), np.int32)
    part, part_bad = np.zeros_like(s), np.zeros_like(bad)
    for j in range(b.shape[0]):
        for i in range(a.shape[0]):
            row, column = first_row + ROWS * i, COLUMNS * j
            rows, columns = min(ROWS, total.shape[0] - row), min(COLUMNS, total.shape[1] - column)
            for r in range(rows):
                for c in range(columns):
                    s[r, c], bad[r, c] = total[row + r, column + c], 0
            _tile(kind, a[i], a_exponents[i], b[j], b_exponents[j], s, part, bad, part_bad, blocks, first, settings)
            for r in range(rows):
                for c in range(columns):
                    wrong = bad[r, c] != 0 or odd_rows[row + r] or odd_columns[column + c]
                    redo[row + r, column + c] = wrong
                    if not wrong:
                        total[row + r, column + c] = s[r, c]


@kernel
def fused(a, b, total, redo, words):
    """total (B, m, n) <- the sums from it on over a (B, m, k), b (B, k, n); all float32, total and redo contiguous.

    redo uint8 (B, m, n): 1 where total is left as it was, as a value is infinite, NaN, or a running sum is nonzero
    and below 2^-126 (2^-100 where exponents of a and b are moderate).  words: ``words_of``.
    """
    batch, m, depth = a.shape
    n = b.shape[2]
    redo[:] = 0
    if depth and total.size:
        places, blocks, padded = _layout(depth, words)
        long = padded > _group(words)
        length = blocks.sum() * padded
        row_panels, column_panels = (m + ROWS - 1) // ROWS, (n + COLUMNS - 1) // COLUMNS
        odd_rows, odd_columns = np.zeros((batch, m), np.bool_), np.zeros((batch, n), np.bool_)
        a_range = np.empty((batch, row_panels, 2), np.int64)
        b_range = np.empty((batch, column_panels, 2), np.int64)
        narrow = np.empty(batch, np.bool_)
        b_values = np.empty((batch, column_panels, length, COLUMNS), np.float32)
        b_exponents = np.empty((batch, column_panels, length, COLUMNS), np.int16)
        for i in prange(batch * row_panels):
            at, panel = i // row_panels, i % row_panels
            _scan(a[at].T, ROWS * panel, ROWS, words[LEAST_A], odd_rows[at], a_range[at, panel])
        for j in prange(batch * column_panels):
            at, panel = j // column_panels, j % column_panels
            _scan(b[at], COLUMNS * panel, COLUMNS, words[LEAST_B], odd_columns[at], b_range[at, panel])
        for at in range(batch):
            least = a_range[at, :, 0].min() + b_range[at, :, 0].min()
            largest = a_range[at, :, 1].max() + b_range[at, :, 1].max()
            narrow[at] = not long and least >= _LEAST_NARROW and largest <= _LARGEST_NARROW
        for j in prange(batch * column_panels):
            at, panel = j // column_panels, j % column_panels
            _pack(
                b[at], COLUMNS * panel, COLUMNS, words[LEAST_B], places, narrow[at],
                b_values[at, panel], b_exponents[at, panel],
            )  # fmt: skip
        size = max(1, min(_ROWS_A_CHUNK // ROWS, batch * row_panels // _CHUNKS))
        chunks = (row_panels + size - 1) // size
        for i in prange(batch * chunks):
            at, chunk = i // chunks, i % chunks
            first = chunk * size
            panels = min(size, row_panels - first)
            settings = _settings(words, padded, narrow[at])
            a_values = np.empty((panels, length, ROWS), np.float32)
            a_exponents = np.empty((panels, length, ROWS), np.int32)
            for panel in range(panels):
                _pack(
                    a[at].T, ROWS * (first + panel), ROWS, words[LEAST_A], places, narrow[at],
                    a_values[panel], a_exponents[panel],
                )  # fmt: skip
            kind = 2 if long else 0 if narrow[at] else 1
            _rows(
                kind, a_values, a_exponents, b_values[at], b_exponents[at], ROWS * first, total[at], redo[at],
                (odd_rows[at], odd_columns[at]), blocks, words[TILE] == 0, settings,
            )  # fmt: skip
