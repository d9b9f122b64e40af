"""Matrix products under chains: s <- step(s, a_k, b_k), k strictly ascending, one sum a lane.

    total[i, j] = s_K,   s_0 = total[i, j] on entry,   s_(k+1) = step(s_k, a[i, k], b[k, j])

A kernel is called with a (B, m, k) and b (B, k, n), float32 of any strides, total (B, m, n), float32 and contiguous,
which holds the start and then the sums, and ``words``, int64: a first one that is not 0 says that the start is +0,
whatever ``total`` holds (``fp32_fma_flushing``, which others call with their words, reads none).
The work is cut as matrix products usually are (Goto and van de Geijn 2008): slices of k, of which a block of rows of
a and one panel of b stay in the second cache; between slices the sums wait in ``total``, exactly.  Threads share
blocks of outputs.
Neither the cuts nor the threads change a bit, as every output walks its own k in order.

Domain: any float32 a and b; the start is a value of the step's format.  Subnormals are kept, whatever the calling
thread's control register says, but for ``fp32_fma_flushing``.  Every NaN comes out as 0x7FC00000.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange, types

from precision.backends.numba_.chain_steps import STEPS, StepBuilder
from precision.backends.numba_.compilation import PRODUCT, Kernel, kernel, made_inline, specialised
from precision.backends.numba_.few_rows import FEW, make_few_rows
from precision.backends.numba_.inner_functions import inner
from precision.backends.numba_.microkernels import (
    FLUSHING,
    IEEE,
    Lanes,
    add_values,
    clear_words,
    copy_words,
    exchange_control,
    flushing_offered,
    make_tile,
)
from precision.backends.numba_.panels import make_pack
from precision.backends.numba_.target import target

__all__ = ["CHAINS", "add_flushing", "flushing_offered"]

_DEPTH, _BLOCK_ROWS, _BLOCK_COLUMNS = 512, 384, 3072  # k, rows of a and columns of b that are packed at a time
_ROWS, _VECTORS = target().tile
_LINE = 64  # bytes


def _make_packs(fits: int | None, half: bool):
    """Jitted packing of rows of a in panels of R, and of columns of b in panels of V L, then of L."""
    lanes = Lanes(half)
    narrow, size = lanes.count, lanes.bytes
    width = _VECTORS * narrow
    pack_a, pack_wide, pack_narrow = (
        make_pack(fits, twice, columns) for twice, columns in ((half, _ROWS), (False, width), (False, narrow))
    )

    @made_inline(f"rows_{fits}_{half}")
    def rows(source, row_pitch, k_pitch, count, depth, panels):
        noted = 0
        for i in range(0, count, _ROWS):
            lanes = min(_ROWS, count - i)
            noted |= pack_a(source + i * row_pitch, row_pitch, k_pitch, lanes, depth, panels + i * depth * 4)
        return noted

    @made_inline(f"columns_{fits}_{half}")
    def columns(source, column_pitch, k_pitch, count, depth, panels):
        noted = 0
        full = count // width * width
        for j in range(0, full, width):
            panel = panels + j * depth * size
            noted |= pack_wide(source + j * column_pitch, column_pitch, k_pitch, width, depth, panel)
        for j in range(full, count, narrow):
            lanes, panel = min(narrow, count - j), panels + j * depth * size
            noted |= pack_narrow(source + j * column_pitch, column_pitch, k_pitch, lanes, depth, panel)
        return noted

    return rows, columns


def _make_edge(name: str, tile: Any, width: int):
    """Jitted: a tile that the edge of the outputs cuts off, by way of a full one in ``scratch``."""

    @made_inline(f"edge_{name}_{width}")
    def edge(a, b, sums, pitch, depth, rows, columns, scratch):
        for r in range(rows):
            copy_words(scratch + r * width * 4, sums + r * pitch, columns)
        tile(a, b, scratch, width * 4, depth)
        for r in range(rows):
            copy_words(sums + r * pitch, scratch + r * width * 4, columns)

    return edge


def _make_sweep(name: str, step: StepBuilder, half: bool):
    """Jitted: every tile of a block, from its panels; ``fresh`` where its sums start from +0."""
    lanes = Lanes(half)
    narrow, size = lanes.count, lanes.bytes
    wide = _VECTORS * narrow
    wide_tile, narrow_tile = make_tile(name, step, half, _ROWS, _VECTORS), make_tile(name, step, half, _ROWS, 1)
    wide_edge, narrow_edge = _make_edge(name, wide_tile, wide), _make_edge(name, narrow_tile, narrow)

    @made_inline(f"clear_{name}")
    def clear(sums, pitch, rows, columns):
        for r in range(rows):
            clear_words(sums + r * pitch, columns)

    @made_inline(f"sweep_{name}")
    def sweep(a, b, sums, pitch, rows, columns, depth, scratch, fresh):
        whole = rows // _ROWS * _ROWS
        full = columns // wide * wide
        for j in range(0, full, wide):
            panel, place = b + j * depth * size, sums + j * 4
            for i in range(0, whole, _ROWS):
                if fresh:
                    clear(place + i * pitch, pitch, _ROWS, wide)
                wide_tile(a + i * depth * 4, panel, place + i * pitch, pitch, depth)
            if whole < rows:
                place += whole * pitch
                if fresh:
                    clear(place, pitch, rows - whole, wide)
                wide_edge(a + whole * depth * 4, panel, place, pitch, depth, rows - whole, wide, scratch)
        for j in range(full, columns, narrow):
            lanes, panel = min(narrow, columns - j), b + j * depth * size
            for i in range(0, rows, _ROWS):
                count, place = min(_ROWS, rows - i), sums + i * pitch + j * 4
                if fresh:
                    clear(place, pitch, count, lanes)
                if count == _ROWS and lanes == narrow:
                    narrow_tile(a + i * depth * 4, panel, place, pitch, depth)
                else:
                    narrow_edge(a + i * depth * 4, panel, place, pitch, depth, count, lanes, scratch)

    return sweep


def _rounded_up(count: int, unit: int) -> int:
    return (count + unit - 1) // unit * unit


_up = inner(_rounded_up)


def _make_block(name: str, control: int):
    """Jitted product of one thread: outputs (m, n) and all of k, addresses and pitches in bytes.

    Operands are packed narrow until one is met that is not, then for any float32: the bits are the same.
    """
    step = STEPS[name]
    half = step.narrow is not None and step.fits is None
    wide_rows, wide_columns = _make_packs(0, False)
    wide_sweep = _make_sweep(f"{name}.any", step.any, False)
    has_narrow = step.narrow is not None
    narrow_rows, narrow_columns = _make_packs(step.fits, half) if has_narrow else (wide_rows, wide_columns)
    narrow_sweep = _make_sweep(f"{name}.narrow", step.narrow, half) if step.narrow is not None else wide_sweep
    widest = _VECTORS * Lanes(half).count
    few_rows, lanes = make_few_rows(f"{name}.any", step.any), Lanes(False).count

    @made_inline(f"block_{name}_{control}")
    def block(a, a_row, a_k, b, b_k, b_column, sums, pitch, m, n, k, fresh):
        before = exchange_control(control)
        if m <= FEW and b_column == 4 and n >= lanes and k > 0:
            row = np.empty(m * k, np.float32)
            whole = n // lanes * lanes
            few_rows(a, a_row, a_k, b, b_k, sums, pitch, m, whole, k, fresh, row.ctypes.data)
            b, sums, n = b + whole * 4, sums + whole * 4, n - whole
            if n == 0:
                exchange_control(before)
                return row.view(np.uint8)[0]  # its address above does not keep it
        depth_, rows_, columns_ = min(k, _DEPTH), min(m, _BLOCK_ROWS), min(n, _BLOCK_COLUMNS)
        of_a = _up(_up(rows_, _ROWS) * depth_ * 4, _LINE)
        of_b = _up(_up(columns_, widest) * depth_ * 4, _LINE)
        memory = np.empty(of_a + of_b + _ROWS * widest * 4 + _LINE, np.uint8)
        packed_a = _up(memory.ctypes.data, _LINE)
        packed_b = packed_a + of_a
        scratch = packed_b + of_b
        memory[of_a + of_b :] = 0
        any_operands = not has_narrow
        for j in range(0, n, _BLOCK_COLUMNS):
            columns = min(n - j, _BLOCK_COLUMNS)
            for k0 in range(0, max(k, 1), _DEPTH):
                depth, starts = min(k - k0, _DEPTH), fresh and k0 == 0
                source_b = b + k0 * b_k + j * b_column
                if not any_operands:
                    any_operands = narrow_columns(source_b, b_column, b_k, columns, depth, packed_b) != 0
                if any_operands:
                    wide_columns(source_b, b_column, b_k, columns, depth, packed_b)
                for i in range(0, m, _BLOCK_ROWS):
                    rows, place = min(m - i, _BLOCK_ROWS), sums + i * pitch + j * 4
                    source_a = a + i * a_row + k0 * a_k
                    if not any_operands and narrow_rows(source_a, a_row, a_k, rows, depth, packed_a) != 0:
                        any_operands = True
                        wide_columns(source_b, b_column, b_k, columns, depth, packed_b)
                    if any_operands:
                        wide_rows(source_a, a_row, a_k, rows, depth, packed_a)
                        wide_sweep(packed_a, packed_b, place, pitch, rows, columns, depth, scratch, starts)
                    else:
                        narrow_sweep(packed_a, packed_b, place, pitch, rows, columns, depth, scratch, starts)
        exchange_control(before)
        return memory[0]  # the addresses above do not keep it

    return block


# what parallel loops call: ``numba.get_num_threads`` would keep a kernel from being cached
_num_threads = types.ExternalFunction("get_num_threads", types.intp())


@inner
def _one():
    return 1


@inner
def _parts(threads, batch):
    """Into how many each of the batch is cut, so that threads have equal numbers of parts."""
    return 1 if batch >= 8 * threads else threads // math.gcd(threads, batch)


@inner
def _grid(parts, m):
    """Rows and columns of parts: rows first, as columns are packed again for each."""
    rows = min(parts, max(1, m // (4 * _ROWS)))
    while parts % rows:
        rows -= 1
    return rows, parts // rows


@inner
def _first_word(words):
    return words.size > 0 and words[0] != 0


@inner
def _never(words):  # noqa: ARG001
    return False


def _product(a, b, total, words):
    batch, m, n = total.shape
    k = a.shape[2]
    if total.size == 0:
        return
    fresh = _starts_anew(words)
    down, across = _grid(_parts(_threads(), batch), m)
    height = _up(-(-m // down), _ROWS)
    breadth = _up(-(-n // across), _UNIT)
    a0, b0, sums = a.ctypes.data, b.ctypes.data, total.ctypes.data
    for task in prange(batch * down * across):
        index, part = task // (down * across), task % (down * across)
        i, j = part // across * height, part % across * breadth
        if i < m and j < n:
            _block(
                a0 + index * a.strides[0] + i * a.strides[1],
                a.strides[1],
                a.strides[2],
                b0 + index * b.strides[0] + j * b.strides[2],
                b.strides[1],
                b.strides[2],
                sums + ((index * m + i) * n + j) * 4,
                n * 4,
                min(height, m - i),
                min(breadth, n - j),
                k,
                fresh,
            )


_UNIT = _VECTORS * Lanes(False).count
_threads, _block, _starts_anew = _one, _make_block("fp32_fma", IEEE), _first_word


def _make(name: str, step: str, control: int, starts_anew: Any = _first_word) -> Kernel:
    known = {"_block": _make_block(step, control), "_starts_anew": starts_anew}
    return Kernel(
        specialised(_product, name, _threads=_one, **known),
        specialised(_product, name + "_parallel", _threads=_num_threads, **known),
        signature=PRODUCT,
    )


CHAINS: dict[str, Kernel] = {name: _make(name, name, IEEE) for name in STEPS}
if flushing_offered():
    CHAINS["fp32_fma_flushing"] = _make("fp32_fma_flushing", "fp32_fma", FLUSHING, _never)


@kernel
def add_flushing(x, y, total):
    """total <- x + y, all (B, m, n), float32 and contiguous; subnormals are zero, read and written (x86)."""
    count = 1 << 16
    for part in prange(-(-total.size // count)):
        before = exchange_control(FLUSHING)
        offset = part * count
        place = offset * 4
        add_values(
            x.ctypes.data + place, y.ctypes.data + place, total.ctypes.data + place, min(count, total.size - offset)
        )
        exchange_control(before)
