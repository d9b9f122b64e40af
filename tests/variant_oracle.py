"""Other people's INT8 quantizers in plain NumPy, written from their definitions: rows of a matrix, products.

Every function takes a matrix x (m, k) in float32, bfloat16 or float16 (its dtype is D below) and quantizes its rows;
a weight w (n, k) is quantized by the same function, so a product is x w^T.  ``round_to`` is one rounding to nearest
even; an operation in D is the operation in float32 rounded once to D, which is exact rounding for +, -, *, / and D of
16 bits.  NaN codes are stated, NaN scales stay NaN.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

F32 = np.float32
BF16 = np.dtype(ml_dtypes.bfloat16)
F16 = np.dtype(np.float16)


def wide(x: Any) -> np.ndarray:
    return np.asarray(x).astype(F32)


def round_to(x: Any, dtype: Any) -> np.ndarray:
    """float32 values rounded to D and given as float32 again."""
    with np.errstate(all="ignore"):
        return np.asarray(x, F32).astype(dtype).astype(F32)


def absmax(x: np.ndarray) -> np.ndarray:
    """(m, 1) in float32, NaN for a row with one."""
    return np.max(np.abs(wide(x)), axis=1, keepdims=True, initial=0)


def int32_products(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Codes p (m, k) and q (n, k): p q^T, exact."""
    return p.astype(np.int64) @ q.astype(np.int64).T


def low_byte(x: np.ndarray) -> np.ndarray:
    """x86 cast of float32 to int8: truncated to INT32, 2^31 for what does not fit, the low 8 bits kept."""
    with np.errstate(all="ignore"):
        fits = np.abs(x) < F32(2**31)
        return np.where(fits, np.trunc(np.where(fits, x, 0)).astype(np.int64) & 255, 0).astype(np.uint8).view(np.int8)


def from_int32(x: np.ndarray) -> np.ndarray:
    """A GPU's cast of float32 to int8: to INT32 with saturation, NaN 0, then the low 8 bits."""
    whole = np.where(np.isnan(x), 0, np.clip(x.astype(np.float64), -(2**31), 2**31 - 1)).astype(np.int64)
    return (whole & 255).astype(np.uint8).view(np.int8)


def saturating(x: np.ndarray) -> np.ndarray:
    """XLA's cast to int8: NaN is 0, the rest is held within -128 ... 127."""
    return np.where(np.isnan(x), 0, np.clip(x, -128, 127)).astype(np.int8)


# torchao


@np.errstate(all="ignore")
def torchao(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s = float32(max(D(absmax / 127.5), 2^-23)), q = clamp(rint(x (1 / s)), -128, 127); scale float32 (m, 1).

    A row with a NaN has scale NaN, codes 0.
    """
    scale = round_to(absmax(x) / F32(127.5), x.dtype)
    scale = np.where(np.isnan(scale), scale, np.maximum(scale, F32(2.0**-23)))
    values = np.rint(wide(x) * (F32(1) / scale))
    return low_byte(np.clip(values, -128, 127)), scale


@np.errstate(all="ignore")
def torchao_product(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """D(D(float32(acc) s_x) s_w + bias): the product with the row's scale is rounded to D before the column's."""
    (p, row), (q, column) = torchao(x), torchao(w)
    rows = round_to(int32_products(p, q).astype(F32) * row, x.dtype)
    y = rows * column.T
    return (y if bias is None else y + wide(bias)).astype(x.dtype)


@np.errstate(all="ignore")
def torchao_int4(w: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups along k, weights only: s = max(D(absmax / 7.5), smallest normal), q = clamp(rint(D(x D(1 / s))), -8, 7).

    Scale in D, (m, k / group); dequantized values are D(q s).
    """
    x = w.reshape(-1, group)
    scale = round_to(absmax(x) / F32(7.5), w.dtype)
    smallest = F32(2.0**-14 if w.dtype == F16 else 2.0**-126)
    scale = np.where(np.isnan(scale), scale, np.maximum(scale, smallest))
    values = round_to(wide(x) * round_to(F32(1) / scale, w.dtype), w.dtype)
    codes = low_byte(np.clip(np.rint(values), -8, 7))
    return codes.reshape(w.shape), scale.reshape(len(w), -1).astype(w.dtype)


# qwix and AQT, as XLA computes them on a CPU


def flush(x: np.ndarray) -> np.ndarray:
    """Float32 subnormals as zeros of their sign."""
    x = np.array(x, F32)
    words = x.view(np.uint32)
    return np.where(words & 0x7F800000 == 0, words & np.uint32(0x80000000), words).view(F32)


def jax_multiply(x: np.ndarray, y: Any, dtype: Any) -> np.ndarray:
    return round_jax(flush(x) * flush(y), dtype)


def jax_reciprocal(x: np.ndarray, dtype: Any) -> np.ndarray:
    return round_jax(F32(1) / flush(x), dtype)


def round_jax(x: np.ndarray, dtype: Any) -> np.ndarray:
    """Float16 keeps its subnormals, bfloat16 and float32 lose theirs."""
    if np.dtype(dtype) == F16:
        return round_to(x, dtype)
    return flush(round_to(flush(x), dtype))


def jax_step(absmax: np.ndarray, dtype: Any) -> np.ndarray:
    """absmax / 127.5, which XLA makes a product with the reciprocal, rounded to D."""
    if np.dtype(dtype) == BF16:
        return round_jax(flush(absmax) / F32(127.5), dtype)
    return jax_multiply(absmax, round_to(F32(1) / F32(127.5), dtype), dtype)


def jax_scaled(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """x / scale as XLA divides by a broadcast column: x (1 / scale) in float32 and float16.

    It divides in bfloat16, and where nothing is broadcast (k = 1).
    """
    if x.dtype == BF16 or x.shape == scale.shape:
        return round_jax(flush(wide(x)) / flush(scale), x.dtype)
    return jax_multiply(wide(x), jax_reciprocal(scale, x.dtype), x.dtype)


@np.errstate(all="ignore")
def qwix(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s = D(absmax / 127.5), or 1 below sqrt of D's smallest normal; q = rint(D(x / s)); scale in D (m, 1)."""
    scale = jax_step(absmax(x), x.dtype)
    smallest = F32(2.0**-7) if x.dtype == F16 else F32(2.0**-63)
    scale = np.where(scale < smallest, F32(1), scale)
    return saturating(np.rint(jax_scaled(x, scale))), scale.astype(x.dtype)


@np.errstate(all="ignore")
def aqt(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s = D(absmax / 127.5), q = rint(clip(D(x D(1 / s)), -127, 127)); scale in D (m, 1).

    The absmax of a row of zeros is taken as 1, and so is an infinite 1 / s (float16, absmax below 2^-9).
    """
    largest = absmax(x) if x.dtype == F16 else flush(absmax(x))
    scale = jax_step(np.where(largest == 0, F32(1), largest), x.dtype)
    inverse = jax_reciprocal(scale, x.dtype)
    inverse = np.where(np.isinf(inverse), F32(1), inverse)
    values = np.rint(np.clip(jax_multiply(wide(x), inverse, x.dtype), -127, 127))
    return saturating(values), scale.astype(x.dtype)


@np.errstate(all="ignore")
def jax_dequantized(accumulated: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """D(D(D(acc) s_x) s_w) for scales in D."""
    dtype = row.dtype
    y = jax_multiply(round_to(accumulated.astype(F32), dtype), wide(row), dtype)
    return jax_multiply(y, wide(column).T, dtype).astype(dtype)


def qwix_product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    (p, row), (q, column) = qwix(x), qwix(w)
    return jax_dequantized(int32_products(p, q), row, column)


def aqt_product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    (p, row), (q, column) = aqt(x), aqt(w)
    return jax_dequantized(int32_products(p, q), row, column)


# bitsandbytes on a CPU


def outliers(x: np.ndarray, threshold: float) -> np.ndarray:
    """|x| >= threshold, the threshold rounded to D; none where it is 0."""
    if threshold == 0:
        return np.zeros(x.shape, bool)
    return np.abs(wide(x)) >= round_to(F32(threshold), x.dtype)


@np.errstate(all="ignore")
def bnb_cpu(x: np.ndarray, threshold: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """q = rint(x ((1 / absmax) 127)), three roundings; scale is absmax, float32 (m,).

    Outliers leave the absmax; their columns are 0 in every row.  A row of zeros has codes 0 (NaN cast to int8).
    """
    out = outliers(x, threshold)
    kept = np.where(out, F32(0), wide(x))
    largest = np.max(np.abs(kept), axis=1, initial=0)
    codes = low_byte(np.rint(kept * ((F32(1) / largest) * F32(127))[:, None]))
    if len(x) > 1:
        codes[:, out.any(0)] = 0
    return codes, largest


@np.errstate(all="ignore")
def bnb_cpu_dequantized(accumulated: np.ndarray, row: np.ndarray, column: np.ndarray, bias: Any = None) -> np.ndarray:
    """(acc (a_x a_w)) 6.200124e-5 + bias in float32, one rounding an operation."""
    y = accumulated.astype(F32) * (row[:, None] * column[None, :]) * F32(6.200124e-05)
    return y if bias is None else y + wide(bias)


@np.errstate(all="ignore")
def bnb_cpu_product(x: np.ndarray, w: np.ndarray, bias: Any = None, threshold: float = 0.0) -> np.ndarray:
    """Both are rounded to float16 first; the result is rounded to D.

    With a threshold D is float16 here, and the columns with outliers (|x| >= threshold) are multiplied in float16 and
    added to the rounded result: exact for one such column, the order of more is the library's.
    """
    (p, row), (q, column) = bnb_cpu(x.astype(F16), threshold), bnb_cpu(w.astype(F16))
    y = bnb_cpu_dequantized(int32_products(p, q), row, column, bias).astype(x.dtype)
    separate = outliers(x, threshold).any(0)
    if not separate.any():
        return y
    weights = (q[:, separate].astype(F32) * column[:, None]) * F32(1 / 127)
    added = wide(x[:, separate]).astype(np.float64) @ round_to(weights, x.dtype).astype(np.float64).T
    return (wide(y) + added).astype(F32).astype(x.dtype)


# bitsandbytes on a GPU

# Recorded on an H100: its approximate reciprocal of 1 + i / 1024 is one unit below the nearest float32, or one above,
# at these i of 0 ... 1023, and the nearest elsewhere.
BELOW = (
    "6 14 32 46 62 70 77 86 87 88 126 127 135 160 176 179 214 219 221 274 287 325 349 401 415 443 445 473 474 "
    "558 614 751 783 950 954 956 957 965 1010 1016"
)
ABOVE = (
    "11 17 18 20 48 91 97 98 104 105 113 138 147 148 153 203 204 209 225 226 252 260 296 298 304 305 346 371 "
    "386 395 396 403 408 409 417 425 439 449 453 454 458 467 481 488 498 505 507 519 520 521 528 531 543 547 "
    "563 564 627 647 648 650 651 667 675 676 687 700 701 724 728 785 786 787 789 805 807 813 823 872 874 876 "
    "878 893 920 923 928 944 968 987 988 997"
)


@np.errstate(all="ignore")
def gpu_quotient(a: np.ndarray) -> np.ndarray:
    """__fdividef(127, a) for a >= 0 of float16: 127 times the approximate reciprocal."""
    a = wide(a)
    shift = np.zeros(1024, np.int32)
    for at, by in ((BELOW, -1), (ABOVE, 1)):
        shift[[int(i) for i in at.split()]] = by
    significand, exponent = np.frexp(a)
    i = ((significand * 2 - 1) * 1024).astype(np.int64) % 1024
    words = (F32(1) / (1 + np.arange(1024, dtype=F32) / 1024)).view(np.int32) + shift
    reciprocal = np.ldexp(words.view(F32)[i], 1 - exponent)
    return F32(127) * np.where((a == 0) | ~np.isfinite(a), F32(1) / a, reciprocal).astype(F32)


@np.errstate(all="ignore")
def bnb_cuda(x: np.ndarray, threshold: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """x float16: q = rint(x quotient(absmax)) cast to int8; scale is absmax, float32 (m,).

    The absmax leaves out |x| >= float16(threshold) and NaN; codes are 0 where |x| >= threshold (not rounded) and,
    with several rows, in every column with an outlier.
    """
    values = wide(x)
    counted = np.where(outliers(x, threshold) | np.isnan(values), F32(0), np.abs(values))
    largest = np.max(counted, axis=1, initial=0)
    product = np.rint(values * gpu_quotient(largest)[:, None])
    codes = from_int32(product)
    if threshold:
        codes[~(np.abs(values) < F32(threshold))] = 0
        if len(x) > 1:
            codes[:, outliers(x, threshold).any(0)] = 0
    return codes, largest


@np.errstate(all="ignore")
def bnb_cuda_dequantized(
    accumulated: np.ndarray, row: np.ndarray, column: np.ndarray, bias: Any = None
) -> np.ndarray:
    """float16(fma((acc a_x) a_w, 6.200012e-5, bias)); bias float16 or none."""
    scaled = accumulated.astype(F32) * row[:, None] * column[None, :]
    product = scaled.astype(np.float64) * np.float64(F32(6.200012e-05))  # 24 and 24 bits: exact
    added = np.float64(0) if bias is None else wide(bias).astype(np.float64)
    return rounded_to_odd(product, added).astype(F32).astype(F16)


def rounded_to_odd(x: np.ndarray, y: Any) -> np.ndarray:
    """x + y in float64, rounded to odd by the error of the rounded sum: rounding to float32 is then as of x + y."""
    total = x + y
    part = total - x
    error = (x - (total - part)) + (y - part)
    words = np.asarray(total).view(np.int64)
    inexact = np.isfinite(total) & (error != 0) & (words & 1 == 0)
    outward = (error > 0) == (total > 0)
    return np.where(inexact, np.where(outward, words + 1, words - 1), words).view(np.float64)


def bnb_cuda_product(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    (p, row), (q, column) = bnb_cuda(x), bnb_cuda(w)
    return bnb_cuda_dequantized(int32_products(p, q), row, column, bias)


# SmoothQuant's fake quantization


@np.errstate(all="ignore")
def smoothquant(x: np.ndarray, *, per_tensor: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """s = D(max(absmax, D(1e-5)) / 127), D(rint(D(x / s)) s): values in D, not codes; scale in D (m, 1) or (1, 1)."""
    dtype = x.dtype
    largest = absmax(x.reshape(1, -1)) if per_tensor else absmax(x)
    smallest = round_to(F32(1e-5), dtype)
    largest = np.where(np.isnan(largest), largest, np.maximum(largest, smallest))
    scale = round_to(largest / F32(127), dtype)
    codes = np.rint(round_to(wide(x) / scale, dtype))
    return (codes * scale).astype(dtype), scale.astype(dtype)
