"""What ``machine_instructions`` compute, from the units' definitions: one sum after the other, patterns in and out.

A product of two 8- or 11-bit significands is exact in float64.  Its sum with c is rounded to odd there, so that the
second rounding, to 24 or 11 bits, decides as the exact sum would.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_jit = numba.njit(error_model="numpy")


def _reinterpreter(source: Any, target: Any, kind: Any) -> Any:
    @intrinsic
    def reinterpret(_context: Any, x: Any) -> Any:  # noqa: ARG001
        def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], kind)

        return target(source), build

    return reinterpret


_word64 = _reinterpreter(types.float64, types.int64, ir.IntType(64))
_float64 = _reinterpreter(types.int64, types.float64, ir.DoubleType())
_word32 = _reinterpreter(types.float32, types.uint32, ir.IntType(32))
_float32 = _reinterpreter(types.uint32, types.float32, ir.FloatType())


@_jit
def _is_nan(u):
    return (u & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)


@_jit
def _value(u):
    """float32 pattern -> float64, subnormals as zero of their sign."""
    x = np.float64(_float32(np.uint32(u)))
    return x if abs(x) >= 2.0**-126 else np.copysign(0.0, x)


@_jit
def _odd_sum(x, y):
    """x + y in float64, rounded to odd: the last bit set where the sum is not exact."""
    total = x + y
    if not np.isfinite(total):
        return total
    part = total - x
    error = (x - (total - part)) + (y - part)
    word = _word64(total)
    if error != 0.0 and word & 1 == 0:
        word += 1 if (error > 0.0) == (total > 0.0) else -1
    return _float64(word)


@_jit
def _narrow(x, dropped):
    """x rounded to nearest even after dropping so many bits, its exponent unbounded."""
    word = _word64(x)
    unit = np.int64(1) << dropped
    word += unit // 2 - 1 + ((word >> dropped) & 1)
    return _float64(word & ~(unit - 1))


@_jit
def _flushed(x):
    """float64 -> float32 pattern: 24 bits, then zero below 2^-126 and infinity from 2^128 on."""
    if np.isnan(x):
        return np.uint32(0xFFC00000)
    if np.isfinite(x) and x != 0.0:
        x = _narrow(x, 29)
        if abs(x) < 2.0**-126:
            x = np.copysign(0.0, x)
    return _word32(np.float32(x))


@_jit
def fma_dz(a, b, c):
    """a b + c of float32 patterns, a and b of bf16 values: subnormals zero, one rounding; first NaN of a, b, c."""
    if _is_nan(a) or _is_nan(b) or _is_nan(c):
        first = a if _is_nan(a) else b if _is_nan(b) else c
        return np.uint32(first | np.uint32(0x00400000))
    return _flushed(_odd_sum(_value(a) * _value(b), _value(c)))


@_jit
def add_dz(a, b):
    return fma_dz(a, np.uint32(0x3F800000), b)


@_jit
def dot_bf16(a, b, c):
    """c + a b of (m, k), (k, n) bf16 patterns in uint32, k even; each pair its odd element first."""
    out = c.copy()
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(0, a.shape[1], 2):
                odd = fma_dz(a[i, k + 1], b[k + 1, j], out[i, j])
                out[i, j] = fma_dz(a[i, k], b[k, j], odd)
    return out


@_jit
def tile_bf16(a, b, c):
    """As ``dot_bf16``: each 32 k as two sums from +0, even and odd k, added to each other and then to c."""
    out = c.copy()
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for first in range(0, a.shape[1], 32):
                even, odd = np.uint32(0), np.uint32(0)
                for k in range(first, min(first + 32, a.shape[1]), 2):
                    even = fma_dz(a[i, k], b[k, j], even)
                    odd = fma_dz(a[i, k + 1], b[k + 1, j], odd)
                out[i, j] = add_dz(out[i, j], add_dz(even, odd))
    return out


@_jit
def fused_fp16(a, b, c):
    """c + a b of fp16 values in float64, k ascending, one rounding to fp16 a step; any NaN."""
    out = c.copy()
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(a.shape[1]):
                out[i, j] = _half(_odd_sum(a[i, k] * b[k, j], out[i, j]))
    return out


@_jit
def _half(x):
    """float64 -> the nearest fp16 value; below 2^-14 a multiple of 2^-24."""
    if not np.isfinite(x) or x == 0.0:
        return x
    if abs(x) < 2.0**-14:
        return np.copysign((abs(x) + 2.0**28) - 2.0**28, x)
    x = _narrow(x, 42)
    return np.copysign(np.inf, x) if abs(x) >= 65536.0 else x
