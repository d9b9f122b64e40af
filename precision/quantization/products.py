"""Products of quantized matrices: integer sums under their scales, products of what codes stand for, or both."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from precision.accumulators import parse_accumulator
from precision.arithmetic import fma
from precision.backends import choose_backend, is_jax
from precision.block_quantizers import BlockArray, Nonfinite
from precision.formats import FP16, FP32, Format, parse_format
from precision.gemm import matmul
from precision.quantization import tiles as tiling
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
    apart: Any = None,
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
    ``apart``: booleans (k,), columns of x that are multiplied so whatever they hold, in any integer scheme.
    ``key``: of schemes that round stochastically; x takes the bits of ``fold_in(key, 0)``, w of ``fold_in(key, 1)``.
    Exactness: the conversion of a sum to float32 (a rounding above 2^24), each scaling, the sum of parts and the bias
    are one float32 rounding each; one rounding to ``output``.  Bit-identical on every back end.
    Errors: ValueError for inner axes that differ, k with which INT32 could overflow, NaN or infinity (as
    ``quantize``); TypeError for a JAX derivative.
    """
    chosen = parse_scheme(scheme)
    module = choose_backend(*(one.codes if isinstance(one, Quantized) else one for one in (x, w)), backend=backend)
    _check(x, w, chosen.integer)
    shape = (*x.shape[:-1], w.shape[-1])
    x, w = (_as_operand(module, operand) for operand in (x, w))
    bias = None if bias is None else as_float32(module, bias)
    how = _How(module, chosen, nonfinite, bias, key)
    y = _product(how, factors(module, chosen, x, w, apart=apart, nonfinite=nonfinite, key=key))
    return module.round_to(y.reshape(shape), parse_format(output))


class _How(NamedTuple):
    module: Any
    scheme: MatmulScheme
    nonfinite: Nonfinite
    bias: Any = None
    key: Any = None
    counter: Any = 0

    def biased(self, y: Any) -> Any:
        return y if self.bias is None else self.module.add(y, self.bias)


class Factors(NamedTuple):
    """What a quantized product multiplies: codes, floats of the working format, or both.

    codes: of x and of w, None for an operand that has none.  floats: (x, w); None where integers are all.
    columns: booleans (k,), None unless both are multiplied: floats where they hold, with codes of x for zero there.
    """

    codes: tuple[Any, Any]
    floats: tuple[Any, Any] | None = None
    columns: Any = None


def factors(
    module: Any,
    scheme: MatmulScheme,
    x: Any,
    w: Any,
    *,
    apart: Any = None,
    nonfinite: Nonfinite = "raise",
    key: Any = None,
) -> Factors:
    """Of float32 or quantized operands under a scheme; ``apart`` and ``key`` as in ``quantized_matmul``."""
    how = _How(module, scheme, nonfinite, key=key)
    if apart is not None and not scheme.integer:
        raise ValueError(f"{scheme.name} has no integer product to leave columns out of; pass no apart")
    if scheme.threshold is not None or apart is not None:
        return _decomposed(how, x, w, apart)
    if scheme.integer:
        return Factors((_quantized(how, x, -1), _quantized(how, w, -2)))
    return _dequantized(how, x, w)


def _product(how: _How, of: Factors) -> Any:
    """(M, n) float32, the bias added.

    Where no column is apart the sum is the integer part as it is, whatever the sign of its zeros.
    """
    if of.floats is None:
        return _integer(how, *of.codes)
    if of.columns is None:
        return how.biased(_float_product(how, *of.floats))
    where, floats = how.module.array_module.where, _without_zeros(how, *of.floats, of.columns)
    if how.scheme.absmax_of == "values":  # as bitsandbytes: the integer part leaves its kernel in the working format,
        part = how.module.round_to(_integer(how, *of.codes), parse_format(how.scheme.working))
        return where(of.columns.any(), _float_product(how, *floats, part), part)  # the other is summed onto it
    part = _integer(how._replace(bias=None), *of.codes)
    return how.biased(where(of.columns.any(), how.module.add(part, _float_product(how, *floats)), part))


def _without_zeros(how: _How, x: Any, w: Any, columns: Any) -> tuple[Any, Any]:
    """Floats in the columns that hold and in one that does not: further ones would add +0 too.

    As they are where shapes are fixed, as under JAX, and where sums are not made one product after the other.
    """
    if is_jax(columns) or not parse_accumulator(how.scheme.accumulator).is_chain:
        return x, w
    taken = np.flatnonzero(columns | (np.cumsum(~columns) == 1))
    return x[..., taken], w[taken]


def _as_operand(module: Any, x: Any) -> Any:
    """A quantized operand as it is; any other as float32, with no derivative."""
    return x if isinstance(x, Quantized) else module.without_derivative(as_float32(module, x), _NO_DERIVATIVE)


def _check(x: Any, w: Any, integer: bool) -> None:
    if len(w.shape) != 2 or len(x.shape) < 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"x of shape {tuple(x.shape)} and w of shape {tuple(w.shape)} do not multiply; x is (..., m, k), w (k, n)"
        )
    for name, operand, axis in (("x", x, -1), ("w", w, -2)):
        if (
            integer
            and isinstance(operand, Quantized)
            and operand.axis % len(operand.shape) != axis % len(operand.shape)
        ):
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
    drawn = {} if key is None else {"key": key, "counter": how.counter}
    return quantize(x, part, axis=axis, nonfinite=how.nonfinite, backend=how.module.name, **drawn)


def _integer(how: _How, x: Any, w: Any) -> Any:
    """(M, n) float32, the bias added."""
    for name, operand in (("x", x), ("w", w)):
        if not isinstance(operand, QArray):
            raise ValueError(f"{name} is in {operand.format}; pass its scheme, scheme={operand.format.name!r}")
        if not how.scheme.reads(operand.scheme):
            raise ValueError(
                f"{how.scheme.name} does not read codes of {operand.scheme.name}, in which {name} is quantized; "
                "quantize it under that scheme"
            )
    return _finished(how, integer_product(how.module, left(how.module, x), right(how.module, w), how.scheme)[0])


def _finished(how: _How, y: Any) -> Any:
    """The bias added to an integer product, under ``bnb_cuda`` in one rounding with its constant."""
    if how.scheme.dequantization != "bnb_cuda":
        return how.biased(y)
    return fma(y, _BNB_CUDA, np.float32(0) if how.bias is None else how.bias, fmt=FP32, backend=how.module.name)


def quantized_product(module: Any, x: Any, w: Any, scheme: MatmulScheme, key: Any = None, counter: Any = 0) -> Any:
    """(B, m, k) x (B, k, n) of an integer scheme, float32 and not yet rounded to an output.

    ``key``: as in ``quantized_matmul``; an element takes the bits of its row-major index among those of all blocks,
    counted from ``counter``.
    A scale of a whole tensor is that of all blocks; columns with outliers are those of each block.
    """
    how = _How(module, scheme, "propagate", key=key, counter=counter)
    if scheme.threshold is None or not len(x):
        a, b = (Operand.of(module, _quantized(how, operand, axis)) for operand, axis in ((x, -1), (w, -2)))
        return _finished(how, integer_product(module, a, b, scheme))
    zero = np.float32(0)

    def block_product(_: Any, block: dict[str, Any]) -> tuple[Any, Any]:
        return zero, _product(how, _decomposed(how, block["x"], block["w"], None))

    return module.scan(block_product, zero, {"x": x, "w": w})[1]


def integer_product(module: Any, x: Operand, w: Operand, scheme: MatmulScheme) -> Any:
    """Sums of groups along k, each exact in INT32, scaled in float32 and added, ascending."""
    if x.codes.shape[2] == 0:
        return module.asarray(np.zeros((x.codes.shape[0], x.codes.shape[1], w.codes.shape[2]), np.float32))
    groups, length = max((x.scale.shape[2], x.length), (w.scale.shape[1], w.length))
    total = None
    for i in range(groups):
        part = _group_product(module, x.group(-1, i, length), w.group(-2, i, length), scheme)
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
    return _scaled(module, sums, x.scale, w.scale, scheme)


def _scaled(module: Any, sums: Any, x_scale: Any, w_scale: Any, scheme: MatmulScheme) -> Any:
    """float32 of int32 ``sums``, which are overwritten where a back end can."""
    fused = module.fused_scaler()
    if fused is not None and (scheme.dequantization, scheme.converted, scheme.partial) == ("scales", "fp32", "fp32"):

        def composed(sums: Any, x_scale: Any, w_scale: Any) -> Any:
            return module.multiply(module.multiply(module.asarray(sums), x_scale), w_scale)

        return fused(sums, x_scale, w_scale, composed)
    sums = module.asarray(sums)
    if scheme.dequantization == "bnb_cpu":
        return module.multiply(module.multiply(sums, module.multiply(x_scale, w_scale)), _BNB_CPU)
    converted = _narrowed(module, sums, scheme.converted)
    return module.multiply(_narrowed(module, module.multiply(converted, x_scale), scheme.partial), w_scale)


def _narrowed(module: Any, x: Any, name: str) -> Any:
    fmt = parse_format(name)
    return x if fmt == FP32 else module.round_to(x, fmt)


def _dequantized(how: _How, x: Any, w: Any) -> Factors:
    """Operands as floats of the working format."""
    codes, floats = [], []
    for operand, axis, part in ((x, -1, how.scheme.x), (w, -2, how.scheme.w)):
        quantized = None
        if part is not None or isinstance(operand, Quantized):
            quantized = _quantized(how, operand, axis)
            operand = quantized.dequantize(backend=how.module.name)
        codes.append(quantized)
        floats.append(how.module.round_to(operand, parse_format(how.scheme.working)))
    return Factors((codes[0], codes[1]), (floats[0], floats[1]))


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


def _decomposed(how: _How, x: Any, w: Any, apart: Any) -> Factors:
    """Columns of x without outliers in integers, the others in the working format."""
    module, scheme = how.module, how.scheme
    if isinstance(x, Quantized):
        raise ValueError(f"{scheme.name} looks for outliers in x itself; pass the array, not its codes")
    where, zero, working = module.array_module.where, np.float32(0), parse_format(scheme.working)
    large = _large(module, x, scheme.threshold, apart)
    columns = large.any(axis=tuple(range(x.ndim - 1)))
    qw = _quantized(how, w, -2)
    qx = _quantized(how, where(large if scheme.absmax_of == "values" else columns, zero, x), -1)
    codes = where(columns, _zero_codes(module, qx), qx.codes)
    weights = where(columns[:, None], module.round_to(_outlier_weights(how, w, qw), working), zero)
    return Factors(
        (replace(qx, codes=codes), qw), (module.round_to(where(columns, x, zero), working), weights), columns
    )


def _large(module: Any, x: Any, threshold: float | None, apart: Any) -> Any:
    """Values of at least the threshold, by integer order, in which subnormals count and NaN does not; with them
    whatever stands in columns ``apart``."""
    large = module.array_module.zeros(x.shape, bool)
    if threshold is not None:
        magnitude = module.to_bits(x).reshape(x.shape) & np.uint32(0x7FFFFFFF)
        large = (magnitude >= np.float32(threshold).view(np.uint32)) & (magnitude <= _INFINITY)
    return large if apart is None else large | module.array_module.asarray(apart)


def _zero_codes(module: Any, q: QArray) -> Any:
    """The codes that stand for 0."""
    if q.zero_point is None:
        return np.int8(0)
    return tiling.spread(module, module.array_module.asarray(q.zero_point), q.shape, q.tiles).astype(q.codes.dtype)


def _outlier_weights(how: _How, w: Any, qw: QArray) -> Any:
    if how.scheme.outlier_weights == "dequantized":
        return qw.dequantize(backend=how.module.name)
    if isinstance(w, Quantized):
        raise ValueError(
            f"{how.scheme.name} multiplies outlier columns by the original w, of which codes are all there is; pass "
            "the array, or a scheme with outlier_weights='dequantized'"
        )
    return w
