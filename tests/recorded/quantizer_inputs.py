"""What the recorded INT8 quantization took, drawn by integers alone, and its published steps in NumPy.

    a = max |x| of a row of fp16, NaN left out;   q = int8(round_half_even(x * (127 / a)));   0 where that is NaN
    y = RN16(fma((acc r) c, 6.200012e-05, bias))

With a threshold t, |x| >= RN16(t) is left out of a, and q = 0 where not |x| < t.  127 / a is an approximate division
of the GPU: its distances from the rounded quotient are what is recorded.
"""

from __future__ import annotations

import numpy as np
from recorded.operands import LAYOUTS, Draws

ROWS, COLUMNS = 240, 48
THRESHOLDS = (0.0, 6.0, 2.3)  # 2.3 lies between two fp16
DEQUANTIZE = np.float32(6.200012e-05)
_FP16 = LAYOUTS["fp16"]


def positive_halves() -> np.ndarray:
    """Every positive finite fp16."""
    return np.arange(1, 0x7C00, dtype=np.uint16)


def matrix() -> np.ndarray:
    """fp16 patterns (ROWS, COLUMNS); rows of eight kinds in turn."""
    draws = Draws("quantizer rows")
    count, shape = ROWS // 8, (ROWS // 8, COLUMNS)
    level = 1 + draws.below(26, (count, 1))  # exponent fields
    fields = np.clip(level + 3 - draws.below(7, shape), 0, 30)
    rows = draws.signs(_FP16, shape) | fields << 10 | draws.significands(10, shape)
    wide = draws.codes(_FP16, shape, (0, 30))
    subnormal = draws.signs(_FP16, shape) | draws.below(1 << 10, shape)
    ties = _ties(draws, level, shape)
    zeros = draws.signs(_FP16, shape)
    outliers = np.where(draws.one_in(12, shape), draws.codes(_FP16, shape, (16, 20)), rows)
    near_thresholds = draws.signs(_FP16, shape) | _near(draws, shape)
    special = np.where(draws.one_in(16, shape), draws.special(_FP16, shape), rows)
    kinds = [rows, wide, subnormal, ties, zeros, outliers, near_thresholds, special]
    return np.stack(kinds, axis=1).reshape(ROWS, COLUMNS).astype(np.uint16)


def _ties(draws: Draws, level: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Halves of whole numbers up to 127, times a power of two: x (127 / a) lies half way between codes."""
    numbers = draws.below(254, shape)
    numbers[:, 0] = 254
    scaled = numbers.astype(np.float64) * 2.0 ** (np.clip(level, 4, 20) - 20).astype(np.float64)
    return draws.signs(_FP16, shape) | scaled.astype(np.float16).view(np.uint16).astype(np.int64)


def _near(draws: Draws, shape: tuple[int, ...]) -> np.ndarray:
    """Within two units of a threshold, or less than half of it."""
    thresholds = np.array(THRESHOLDS[1:], np.float16).view(np.uint16).astype(np.int64)
    near = thresholds[draws.below(2, shape)] + draws.below(5, shape) - 2
    return np.where(draws.one_in(3, shape), near, thresholds[1] - 1024 - draws.below(2048, shape))


def sums() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """int32 sums (96, 40), float32 absmax of rows (96,) and columns (40,), fp16 bias patterns (40,)."""
    draws, rows, columns = Draws("sums"), 96, 40
    bits = 1 + draws.below(31, (rows, columns))
    total = (draws.below(1 << 31, (rows, columns)) >> 31 - bits) * (1 - 2 * draws.below(2, (rows, columns)))
    scales = [draws.codes(_FP16, (count,), (0, 22)) & 0x7FFF for count in (rows, columns)]
    bias = np.where(draws.one_in(4, (columns,)), 0, draws.codes(_FP16, (columns,), (0, 20)))
    r, c = (x.astype(np.uint16).view(np.float16).astype(np.float32) for x in scales)
    return total.astype(np.int32), r, c, bias.astype(np.uint16)


# The published steps


def quotients(distances: np.ndarray) -> np.ndarray:
    """127 / a by fp16 pattern 0 ... 0x7C00, from the recorded distances: infinity of zero, zero of infinity."""
    rounded = np.float32(127) / positive_halves().view(np.float16).astype(np.float32)
    approximate = (rounded.view(np.int32) + distances).view(np.float32)
    return np.concatenate([[np.float32(np.inf)], approximate, [np.float32(0)]]).astype(np.float32)


def quantized(x: np.ndarray, threshold: float, quotient: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 codes, float32 absmax and 127 / absmax of rows of fp16 patterns; ``quotient`` from ``quotients``."""
    magnitude = (x & 0x7FFF).astype(np.uint16)
    values = x.view(np.float16).astype(np.float32)
    counted = magnitude <= 0x7C00
    kept = np.ones(x.shape, bool)
    if threshold > 0:
        with np.errstate(invalid="ignore"):
            counted &= np.abs(values) < np.float32(np.float16(threshold))
            kept = np.abs(values) < np.float32(threshold)
    largest = np.where(counted, magnitude, 0).max(axis=1)
    scale = quotient[largest]
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.rint(values * scale[:, None])
    return _as_int8(np.where(kept, scaled, 0)), largest.view(np.float16).astype(np.float32), scale


def _as_int8(x: np.ndarray) -> np.ndarray:
    """Whole float32 as the GPU converts them: NaN to 0, saturated to int32, then the last eight bits."""
    whole = np.clip(np.nan_to_num(x.astype(np.float64), nan=0), -(2**31), 2**31 - 1)
    return whole.astype(np.int64).astype(np.int8)


def dequantized(total: np.ndarray, r: np.ndarray, c: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """fp16 patterns.  The product with the 24-bit constant has 48 bits and float64 holds it exactly; adding the bias
    there may round, so that the sum is rounded to odd on its way to float32."""
    with np.errstate(over="ignore"):
        scaled = total.astype(np.float32) * r[:, None] * c
        product = scaled.astype(np.float64) * np.float64(DEQUANTIZE)
        start = np.broadcast_to(bias.view(np.float16).astype(np.float64), product.shape)
        return _to_float32(*_sum_and_error(product, start)).astype(np.float16).view(np.uint16)


def _sum_and_error(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def _to_float32(total: np.ndarray, error: np.ndarray) -> np.ndarray:
    """float64 pairs rounded once to float32: an inexact total is made odd first."""
    words = total.view(np.int64)
    toward_zero = words - ((error != 0) & ((error > 0) != (total > 0)))
    return (toward_zero | (error != 0)).view(np.float64).astype(np.float32)
