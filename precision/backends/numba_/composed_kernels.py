"""Products that fast kernels compute in parts, and what those cannot do by the general one.

All have the signature of products: a (B, m, k), b (B, k, n), total (B, m, n), words; ``words`` end in those of
``ordered_kernels``.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from precision.accumulator import Accumulator
from precision.backends.numba_ import chains, fused, ordered_kernels
from precision.backends.numba_.chains import CHAINS, add_flushing
from precision.backends.numba_.compilation import PACKED_PRODUCT, Kernel, composed, specialised
from precision.backends.numba_.inner_functions import inner
from precision.formats import FP32

# what ``composed`` puts in the place of these
_fast: Any = None
_chain: Any = None
_add: Any = None
_again: Any = None
_rows: Any = None
_CHUNK = 64  # rows that one thread takes at a time
_FUSED_WORDS = fused.INTERLEAVED + 1


def _truncated(a, b, total, words):
    """Truncated fused sums."""
    redo = np.empty(total.shape, np.uint8)
    _fast(a, b, total, redo, words[:_FUSED_WORDS])
    if redo.any():
        _again(a, b, total, redo, words[_FUSED_WORDS:])


@inner
def _marked(total, start):
    """1 where a sum is NaN, whose payload operands decide; the sum is what it began as again."""
    redo = np.zeros(total.shape, np.uint8)
    found = False
    for i in range(total.shape[0]):
        for j in range(total.shape[1]):
            for k in range(total.shape[2]):
                if np.isnan(total[i, j, k]):
                    redo[i, j, k] = 1
                    total[i, j, k] = start[i, j, k]
                    found = True
    return redo, found


@inner
def _even(x, axis):
    """x with +0 behind an odd axis of k."""
    rows, columns = x.shape[1] + (axis == 1) * (x.shape[1] % 2), x.shape[2] + (axis == 2) * (x.shape[2] % 2)
    out = np.zeros((x.shape[0], rows, columns), np.float32)
    out[:, : x.shape[1], : x.shape[2]] = x
    return out


@inner
def _swapped(x, axis):
    """k in the order 1 0 3 2 ..."""
    out = np.empty_like(x)
    if axis == 2:
        out[:, :, 0::2], out[:, :, 1::2] = x[:, :, 1::2], x[:, :, 0::2]
    else:
        out[:, 0::2, :], out[:, 1::2, :] = x[:, 1::2, :], x[:, 0::2, :]
    return out


def _odd_first(a, b, total, words):
    """Flushing chains that take the odd product of each pair first."""
    start = total.copy()
    x, y = _even(a, 2), _even(b, 1)
    _chain(_swapped(x, 2), _swapped(y, 1), total, words)
    redo, found = _marked(total, start)
    if found:
        _again(a, b, total, redo, words)


def _rows_of_two_chains(a, b, total, words):
    start = total.copy()
    even, odd = np.empty_like(total), np.empty_like(total)
    for first in range(0, a.shape[2], words[2]):
        last = min(first + words[2], a.shape[2])
        even[:], odd[:] = np.float32(0), np.float32(0)
        _chain(a[:, :, first:last:2], b[:, first:last:2, :], even, words)
        _chain(a[:, :, first + 1 : last : 2], b[:, first + 1 : last : 2, :], odd, words)
        _add(even, odd, even)
        _add(total, even, total)
    redo, found = _marked(total, start)
    if found:
        _again(a, b, total, redo, words)


def _two_chains(a, b, total, words):
    """Flushing chains of even and of odd k from +0 in each tile (words[2]), their sum added to the total.

    Threads share rows, and each walks all tiles of its own: there is nothing to wait for in between.
    """
    x, y = _even(a, 2), _even(b, 1)
    chunks = -(-total.shape[1] // _CHUNK)
    for i in prange(total.shape[0] * chunks):
        block, row = i // chunks, i % chunks * _CHUNK
        some = total[block : block + 1, row : row + _CHUNK].copy()
        _rows(x[block : block + 1, row : row + _CHUNK], y[block : block + 1], some, words)
        total[block : block + 1, row : row + _CHUNK] = some


truncated = composed(
    _truncated, "truncated", signature=PACKED_PRODUCT, _fast=fused.fused, _again=ordered_kernels.redo
)
_FLUSHING: dict[str, Kernel] = {}
if chains.flushing_offered():
    _parts = {"_chain": CHAINS["fp32_fma_flushing"], "_again": ordered_kernels.redo}
    _one_thread = {name: part.compiled(parallel=False) for name, part in (_parts | {"_add": add_flushing}).items()}
    _rows = inner(specialised(_rows_of_two_chains, "rows_of_two_chains", **_one_thread))
    _FLUSHING = {
        "odd_first": composed(_odd_first, "odd_first", signature=PACKED_PRODUCT, **_parts),
        "two_chains": Kernel(_two_chains, signature=PACKED_PRODUCT),
        "chain": CHAINS["fp32_fma_flushing"],
    }


def flushing_kernel(accumulator: Accumulator) -> Kernel | None:
    """The kernel of exact products added one by one in float32 whose subnormals are zero everywhere, or None.

    Such an accumulator flushes as the processor does that has been told so, its operands being of a format whose
    subnormals are float32's.
    """
    record = accumulator
    alone = record.summation == "ordered" and record.product == "exact" and record.block == 1
    plain = alone and record.alignment is None and record.sum == FP32 and record.zero == "ieee"
    flushes = record.flush_inputs and record.flush_start and record.flush_sums
    nearest = record.rounding == "nearest_even" and record.tile_rounding is None and record.overflow == "ieee"
    if not (plain and flushes and nearest) or record.compensated or record.nan == "all_ones":
        return None
    shape = (record.order, record.chains, record.chain_order, record.granule)
    if record.start == "first" and record.tile is None:
        whole = {("ascending", 1, "interleaved", 1): "chain", ("odd_first", 1, "interleaved", 2): "odd_first"}
        name = whole.get(shape)
        return None if name == "chain" and record.nan != "canonical" else _FLUSHING.get(name or "")
    even = record.tile is not None and record.tile % 2 == 0
    return _FLUSHING.get("two_chains") if even and shape == ("ascending", 2, "interleaved", 2) else None
