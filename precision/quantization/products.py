"""Products of quantized matrices: integer sums under their scales, products of what codes stand for, or both."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from precision.arithmetic import fma
from precision.backends import choose_backend, get_backend
from precision.block_quantizers import BlockArray, Nonfinite
from precision.formats import FP16, FP32, Format, parse_format
from precision.gemm import matmul
from precision.quantization.array import QArray
from precision.quantization.operands import Operand, left, right
from precision.quantization.quantizers import quantize
from precision.quantization.scheme import MatmulScheme, QScheme
from precision.quantization.schemes import parse_scheme
from precision.random_bits import fold_in
from precision.rounding import as_float32, key_words

Quantized = QArray | BlockArray
_NO_DERIVATIVE = "quantized_matmul has no derivative; make_dot_general takes the quantization of all three products"
_BNB_CPU, _BNB_CUDA = np.float32(6.200124e-05), np.float32(6.200012e-05)  # near 1 / 127^2
_INFINITY = np.uint32(0x7F800000)
_FOLDS = {-1: 0, -2: 1}  # of the key, by contraction axis: x and w share no bits, whatever their sizes


def quantized_matmul(
    x: Any,
    w: Any,
    *,
    scheme: str | MatmulScheme = "int8_vectorwise",
    output: str | Format = FP16,
    bias: Any = None,
    nonfinite: Nonfinite = "raise",
    key: Any = None,
    backend: str | None = None,
) -> Any:
    """x w with operands quantized along k.

        y = round_output((sum_k qx qw) s_x s_w + bias)      integer schemes
        y = round_output(sum_k x^ w^ + bias)                others: x^, w^ what codes stand for, or x, w themselves

    Shapes: x (..., m, k), an array or quantized along axis -1; w (k, n), an array or quantized along axis -2;
    bias (n,).  -> (..., m, n).
    Integer sums are exact; groups along k are each scaled and then added in float32, ascending.  With a threshold,
    columns of x that hold an outlier are multiplied in ``scheme.working`` instead, and that product is added.
    ``key``: of schemes that round stochastically; x takes the bits of ``fold_in(key, 0)``, w of ``fold_in(key, 1)``.
    Exactness: the conversion of a sum to float32 (a rounding above 2^24), each scaling, the sum of parts and the bias
    are one float32 rounding each; one rounding to ``output``.  Bit-identical on every back end.
    Errors: ValueError for inner axes that differ, k with which INT32 could overflow, NaN or infinity (as
    ``quantize``); TypeError for a JAX derivative.
    """
    chosen = parse_scheme(scheme)
    module = get_backend(backend) if backend else choose_backend(x.codes if isinstance(x, Quantized) else x)
    _check(x, w)
    shape = (*x.shape[:-1], w.shape[-1])
    x, w = (_as_operand(module, operand) for operand in (x, w))
    bias = None if bias is None else as_float32(module, bias)
    how = _How(module, chosen, nonfinite, bias, key)
    if chosen.threshold is not None:
        y = _decomposed(how, x, w)
    elif chosen.integer:
        y = _integer(how, _quantized(how, x, -1), _quantized(how, w, -2))
    else:
        y = how.biased(_dequantized(how, x, w))
    return module.round_to(y.reshape(shape), parse_format(output))


class _How(NamedTuple):
    module: Any
    scheme: MatmulScheme
    nonfinite: Nonfinite
    bias: Any = None
    key: Any = None

    def biased(self, y: Any) -> Any:
        return y if self.bias is None else self.module.add(y, self.bias)


def _as_operand(module: Any, x: Any) -> Any:
    """A quantized operand as it is; any other as float32, with no derivative."""
    return x if isinstance(x, Quantized) else module.without_derivative(as_float32(module, x), _NO_DERIVATIVE)


def _check(x: Any, w: Any) -> None:
    if len(w.shape) != 2 or len(x.shape) < 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"x of shape {tuple(x.shape)} and w of shape {tuple(w.shape)} do not multiply; x is (..., m, k), w (k, n)"
        )
    for name, operand, axis in (("x", x, -1), ("w", w, -2)):
        if isinstance(operand, Quantized) and operand.axis % len(operand.shape) != axis % len(operand.shape):
            raise ValueError(
                f"{name} is quantized along axis {operand.axis}; quantize it along its contraction axis, {axis}"
            )


def _quantized(how: _How, x: Any, axis: int) -> Any:
    """The operand under its part of the scheme."""
    if isinstance(x, Quantized):
        return x
    part, key = how.scheme.operand(axis), None
    if how.key is not None and isinstance(part, QScheme) and part.rounding == "stochastic":
        key = fold_in(key_words(how.key), _FOLDS[axis])
    return quantize(x, part, axis=axis, nonfinite=how.nonfinite, key=key, backend=how.module.name)


def _integer(how: _How, x: Any, w: Any) -> Any:
    """(M, n) float32, the bias added."""
    for name, operand in (("x", x), ("w", w)):
        if not isinstance(operand, QArray):
            raise ValueError(f"{name} is in {operand.format}; pass its scheme, scheme={operand.format.name!r}")
    return _finished(how, integer_product(how.module, left(how.module, x), right(how.module, w), how.scheme)[0])


def _finished(how: _How, y: Any) -> Any:
    """The bias added to an integer product, under ``bnb_cuda`` in one rounding with its constant."""
    if how.scheme.dequantization != "bnb_cuda":
        return how.biased(y)
    return fma(y, _BNB_CUDA, np.float32(0) if how.bias is None else how.bias, fmt=FP32, backend=how.module.name)


def quantized_product(module: Any, x: Any, w: Any, scheme: MatmulScheme, key: Any = None) -> Any:
    """(B, m, k) x (B, k, n) of an integer scheme, float32 and not yet rounded to an output.

    ``key``: as in ``quantized_matmul``; an element takes the bits of its row-major index among those of all blocks.
    A scale of a whole tensor is that of all blocks; columns with outliers are those of each block.
    """
    how = _How(module, scheme, "propagate", key=key)
    if scheme.threshold is None or not len(x):
        a, b = (Operand.of(module, _quantized(how, operand, axis)) for operand, axis in ((x, -1), (w, -2)))
        return _finished(how, integer_product(module, a, b, scheme))
    zero = np.float32(0)
    _, y = module.scan(lambda _, block: (zero, _decomposed(how, block["x"], block["w"])), zero, {"x": x, "w": w})
    return y


def integer_product(module: Any, x: Operand, w: Operand, scheme: MatmulScheme) -> Any:
    """Sums of groups along k, each exact in INT32, scaled in float32 and added, ascending."""
    groups = max(x.scale.shape[2], w.scale.shape[1])
    total = None
    for i in range(groups):
        part = _group_product(module, x.group(-1, i, groups), w.group(-2, i, groups), scheme)
        total = part if total is None else module.add(total, part)
    return total


def _group_product(module: Any, x: Operand, w: Operand, scheme: MatmulScheme) -> Any:
    largest = (2**31 - 1) // (x.largest * w.largest)
    k = x.codes.shape[2]
    if k > largest:
        raise ValueError(f"k = {k} could overflow INT32; at most {largest} is exact, so split k")
    sums = module.integer_matmul(x.codes, w.codes)
    if x.zero_point is not None:
        sums = sums - x.zero_point * w.codes.sum(axis=1, keepdims=True, dtype=np.int32)
    if w.zero_point is not None:
        sums = sums - x.codes.sum(axis=2, keepdims=True, dtype=np.int32) * w.zero_point
        if x.zero_point is not None:
            sums = sums + np.int32(k) * x.zero_point * w.zero_point
    return _scaled(module, module.asarray(sums), x.scale, w.scale, scheme)


def _scaled(module: Any, sums: Any, x_scale: Any, w_scale: Any, scheme: MatmulScheme) -> Any:
    if scheme.dequantization == "bnb_cpu":
        return module.multiply(module.multiply(sums, module.multiply(x_scale, w_scale)), _BNB_CPU)
    converted = _narrowed(module, sums, scheme.converted)
    return module.multiply(_narrowed(module, module.multiply(converted, x_scale), scheme.partial), w_scale)


def _narrowed(module: Any, x: Any, name: str) -> Any:
    fmt = parse_format(name)
    return x if fmt == FP32 else module.round_to(x, fmt)


def _dequantized(how: _How, x: Any, w: Any) -> Any:
    """Operands as floats of the working format, summed by the scheme's accumulator.  (M, n) float32."""
    floats = []
    for operand, axis, part in ((x, -1, how.scheme.x), (w, -2, how.scheme.w)):
        if part is not None or isinstance(operand, Quantized):
            operand = _quantized(how, operand, axis).dequantize(backend=how.module.name)
        floats.append(how.module.round_to(operand, parse_format(how.scheme.working)))
    return _float_product(how, *floats)


def _float_product(how: _How, x: Any, w: Any, start: Any = None) -> Any:
    """start + x (..., k) times w (k, n), values of the working format, in float32.  (M, n)"""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return matmul(
        rows,
        w,
        c=start,
        inputs=how.scheme.working,
        accumulator=how.scheme.accumulator,
        output=FP32,
        backend=how.module.name,
    )


# Mixed decomposition


def _decomposed(how: _How, x: Any, w: Any) -> Any:
    """Columns of x without outliers in integers, the others in the working format.  (M, n)

    Where no column is an outlier the sum is the integer part as it is, whatever the sign of its zeros.
    """
    module, scheme = how.module, how.scheme
    if isinstance(x, Quantized):
        raise ValueError(f"{scheme.name} looks for outliers in x itself; pass the array, not its codes")
    where, zero, working = module.array_module.where, np.float32(0), parse_format(scheme.working)
    package = scheme.absmax_of == "values"
    large = _magnitude_at_least(module, x, scheme.threshold or 0)
    columns = large.any(axis=tuple(range(x.ndim - 1)))
    qw, qx = _quantized(how, w, -2), _quantized(how, where(large if package else columns, zero, x), -1)
    kept = replace(qx, codes=where(columns, np.int8(0), qx.codes))
    left_out = module.round_to(where(columns, x, zero), working)
    weights = where(columns[:, None], module.round_to(_outlier_weights(how, w, qw), working), zero)
    if package:  # the integer part leaves its kernel in the working format, and the other is summed onto it
        part = module.round_to(_integer(how, kept, qw), working)
        return where(columns.any(), _float_product(how, left_out, weights, part), part)
    part = _integer(how._replace(bias=None), kept, qw)
    return how.biased(where(columns.any(), module.add(part, _float_product(how, left_out, weights)), part))


def _magnitude_at_least(module: Any, x: Any, threshold: float) -> Any:
    """By integer order, in which subnormals count; NaN is no outlier."""
    magnitude = module.to_bits(x).reshape(x.shape) & np.uint32(0x7FFFFFFF)
    return (magnitude >= np.float32(threshold).view(np.uint32)) & (magnitude <= _INFINITY)


def _outlier_weights(how: _How, w: Any, qw: QArray) -> Any:
    if how.scheme.outlier_weights == "dequantized":
        return qw.dequantize(backend=how.module.name)
    if isinstance(w, Quantized):
        raise ValueError(
            f"{how.scheme.name} multiplies outlier columns by the original w, of which codes are all there is; pass "
            "the array, or a scheme with outlier_weights='dequantized'"
        )
    return w
