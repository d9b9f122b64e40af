"""NumPy arrays through Numba kernels: the fast CPU executor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from precision.backends.numba_ import kernels, scalars
from precision.backends.numba_.blocks import times_power
from precision.backends.numba_.gemm import (
    counted_matmul,
    exact_add,
    exact_matmul,
    exact_result,
    exact_start,
    integer_matmul,
    matmul,
)
from precision.backends.numba_.layers import fused_layer
from precision.backends.numba_.operations import compare, extreme, operate, ordered_sum
from precision.backends.numba_.quantizers import fused_quantizer
from precision.backends.numba_.rounding import (
    count_foreign,
    decode,
    encode,
    flat_bits,
    observe,
    pass_on_foreign,
    random_words,
    round_each,
    round_to,
    statistics,
    tally,
)
from precision.backends.numba_.scaling import fused_dequantizer, fused_scaler
from precision.backends.numpy_ import (
    addable,
    array_module,
    asarray,
    branch,
    computed_once,
    count,
    differentiable,
    from_bits,
    jit,
    join,
    join_all,
    repeat,
    round_exact,
    scan,
    shared_scales,
    to_bits,
    widen,
    without_derivative,
)
from precision.formats import FP32, Format

name = "numba"
Array = np.ndarray
__all__ = [
    "addable",
    "array_module",
    "asarray",
    "branch",
    "compare",
    "computed_once",
    "count",
    "count_foreign",
    "counted_matmul",
    "decode",
    "differentiable",
    "encode",
    "exact_add",
    "exact_matmul",
    "exact_result",
    "exact_start",
    "extreme",
    "from_bits",
    "fused_dequantizer",
    "fused_layer",
    "fused_quantizer",
    "fused_scaler",
    "integer_matmul",
    "jit",
    "join",
    "join_all",
    "matmul",
    "name",
    "observe",
    "operate",
    "ordered_sum",
    "pass_on_foreign",
    "random_words",
    "repeat",
    "round_each",
    "round_exact",
    "round_to",
    "scan",
    "shared_scales",
    "statistics",
    "tally",
    "times_power",
    "to_bits",
    "widen",
    "without_derivative",
]


def flush(x: Array) -> Array:
    u = flat_bits(x)
    out = np.empty_like(u)
    kernels.flush_flat(u, out, FP32.constants)
    return out.view(np.float32).reshape(np.shape(x))


def _binary(operation: int, x: Array, y: Array) -> Array:
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    shape = np.broadcast_shapes(x.shape, y.shape)
    x = np.ascontiguousarray(x) if x.shape == shape else np.array(np.broadcast_to(x, shape))
    columns = shape[-1] if shape else 1
    wide = x.reshape(-1, columns) if x.size else x.reshape(0, columns)
    out = np.empty_like(wide)
    kernels.binary(wide, _rows(y, shape), out, operation)
    return out.reshape(shape)


def _rows(y: Array, shape: tuple[int, ...]) -> Array:
    """y as (rows, columns), with 1 in place of an axis along which it is constant."""
    if y.size == 1:
        return y.reshape(1, 1)
    width = y.shape[-1]
    if y.size == width:
        return np.ascontiguousarray(y).reshape(1, width)
    whole = (*shape[:-1], width)
    rows = np.ascontiguousarray(y) if y.shape == whole else np.array(np.broadcast_to(y, whole))
    return rows.reshape(-1, width)


def add(x: Array, y: Array) -> Array:
    return _binary(scalars.ADD, x, y)


def subtract(x: Array, y: Array) -> Array:
    return _binary(scalars.SUBTRACT, x, y)


def multiply(x: Array, y: Array) -> Array:
    return _binary(scalars.MULTIPLY, x, y)


def divide(x: Array, y: Array) -> Array:
    return _binary(scalars.DIVIDE, x, y)


def _unary(kernel: Any, x: Array) -> Array:
    flat = np.ascontiguousarray(x, dtype=np.float32).reshape(-1)
    out = np.empty_like(flat)
    kernel(flat, out)
    return out.reshape(np.shape(x))


def square_root(x: Array) -> Array:
    return _unary(kernels.square_root, x)


def exp(x: Array) -> Array:
    return _unary(kernels.exp, x)


def log(x: Array) -> Array:
    return _unary(kernels.log, x)


def erf(x: Array) -> Array:
    return _unary(kernels.erf, x)


def tanh(x: Array) -> Array:
    return _unary(kernels.tanh, x)


def rsqrt(x: Array) -> Array:
    return _unary(kernels.rsqrt, x)


def tree_sum(x: Array, axis: int = -1) -> Array:
    x = np.ascontiguousarray(x, dtype=np.float32)
    axis %= x.ndim
    width = x.shape[axis]
    size = 1 << max(width - 1, 0).bit_length()
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    blocks, columns = math.prod(before), math.prod(after)
    out = np.empty((blocks, columns), np.float32)
    if columns == 1:
        kernels.tree_sum_rows(x.reshape(blocks, width), size, out.reshape(-1))
    else:
        kernels.tree_sum_columns(x.reshape(blocks, width, columns), size, out)
    return out.reshape(before + after)


def row_max(x: Array, mask: Array | None = None) -> Array:
    columns = x.shape[-1]
    if mask is None:
        mask = np.ones((1, columns), np.bool_)
    out = np.empty(math.prod(x.shape[:-1]), np.uint32)
    kernels.row_max(flat_bits(x).reshape(-1, columns), np.ascontiguousarray(mask).reshape(-1, columns), out)
    return out.view(np.float32).reshape(*x.shape[:-1], 1)


def absmax(x: Array, axis: int) -> Array:
    moved = np.ascontiguousarray(np.moveaxis(x, axis, -1), dtype=np.float32)
    out = np.empty(math.prod(moved.shape[:-1]), np.uint32)
    kernels.absmax_rows(moved.view(np.uint32).reshape(out.size, moved.shape[-1]), out)
    return np.expand_dims(out.view(np.float32).reshape(moved.shape[:-1]), axis)


def lookup(table: Array, x: Array, fmt: Format) -> Array:
    u = flat_bits(x)
    out = np.empty(u.size, np.float32)
    kernels.lookup(table, u, out, fmt.constants, work=u.size)
    return out.reshape(np.shape(x))


def scatter_add_rows(indices: Array, rows: Array, size: int) -> Array:
    """Indices outside 0 ... size - 1 as the kernel says."""
    return fused_layer("scattered_rows")((), scatter_add_rows, indices, rows, sizes={"v": size})[0]
