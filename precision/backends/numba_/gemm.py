"""Matrix products: each output walks k in order, vectorised over a row of outputs, threads share the rows."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from precision.accumulator import Accumulator
from precision.backends.numba_ import scalars
from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.foreign import Foreign, array
from precision.formats import FP32
from precision.rounding_modes import Constants

_step = scalars.add_product
_round = scalars.words["round_nearest_even"]
_to_bits, _from_bits = scalars.to_bits, scalars.from_bits

_FIELDS = len(Constants._fields)


@numba.njit(nogil=True)
def _constants(words):
    return Constants(*to_fixed_tuple(words.astype(np.uint32), _FIELDS))


@kernel
def sequential(a, b, total, words):
    """total (B, m, n) += a (B, m, k) b (B, k, n) in float32, one rounding an addition.

    words: whether products are exact, not rounded before they are added.  Four k a pass, nested in their order, so
    that a row of sums is loaded and stored once for all four.
    """
    exact, rows, depth = words[0] != 0, a.shape[1], a.shape[2]
    for i in prange(a.shape[0] * rows):
        block, row = i // rows, i % rows
        out = total[block, row]
        fours = depth - depth % 4
        for k in range(0, fours, 4):
            x0, x1, x2, x3 = a[block, row, k], a[block, row, k + 1], a[block, row, k + 2], a[block, row, k + 3]
            y0, y1, y2, y3 = b[block, k], b[block, k + 1], b[block, k + 2], b[block, k + 3]
            for j in range(out.size):
                two = _step(exact, x1, y1[j], _step(exact, x0, y0[j], out[j]))
                out[j] = _step(exact, x3, y3[j], _step(exact, x2, y2[j], two))
        for k in range(fours, depth):
            x, y = a[block, row, k], b[block, k]
            for j in range(out.size):
                out[j] = _step(exact, x, y[j], out[j])


@kernel
def rounded_everywhere(a, b, total, words):
    """As ``sequential``, product and sum each rounded to the format of the running sum, of which words are the
    ``Constants``."""
    rows = a.shape[1]
    for i in prange(a.shape[0] * rows):
        f, block, row = _constants(words), i // rows, i % rows
        out = total[block, row]
        for k in range(a.shape[2]):
            x = a[block, row, k]
            y = b[block, k]
            for j in range(out.size):
                rounded = _from_bits(_round(_to_bits(np.float32(x * y[j])), f))
                out[j] = _from_bits(_round(_to_bits(np.float32(out[j] + rounded)), f))


@kernel
def integer(a, b, total):
    """int32 total += int8 a b, exact in any order."""
    rows = a.shape[1]
    for i in prange(a.shape[0] * rows):
        block, row = i // rows, i % rows
        out = total[block, row]
        for k in range(a.shape[2]):
            x = np.int32(a[block, row, k])
            y = b[block, k]
            for j in range(out.size):
                out[j] += x * np.int32(y[j])


_OPERANDS = (array(np.float32, "bmk"), array(np.float32, "bkn"))
_TOTAL = (array(np.float32, "bmn"),)
_foreign = {
    kernel: Foreign(kernel=kernel, operands=_OPERANDS + _TOTAL, results=_TOTAL, starts=1)
    for kernel in (sequential, rounded_everywhere)
}


def plan(accumulator: Accumulator) -> tuple[Any, np.ndarray]:
    """The kernel of an accumulator, and its words."""
    if accumulator.sum is FP32:
        return sequential, np.array([accumulator.product == "exact"], np.int64)
    return rounded_everywhere, np.array(accumulator.sum.constants, np.int64)


def foreign(accumulator: Accumulator) -> tuple[Foreign, np.ndarray]:
    """``plan``, the kernel as XLA calls it."""
    kernel, words = plan(accumulator)
    return _foreign[kernel], words
