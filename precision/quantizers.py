"""Vector-wise INT8: one scale for each row of X and each column of W, exact INT32 products, one output rounding.

    a = max |x| over the vector        s = a RN32(1/127)
    q = round_half_even(x RN32(127/a))  in -127 ... 127

A vector with a < 2^-112 is a zero vector: q = 0, s = 0.  Float32 throughout, subnormals flushed; the bound is
|x - q s| <= s (1/2 + 2^-15).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, overload

import numpy as np

from precision.backends import choose_backend, get_backend, is_concrete
from precision.block_formats import BLOCK_FORMATS, BlockFormat
from precision.block_quantizers import BlockArray, Nonfinite, quantize_blocks
from precision.formats import FP16, INT8, Format, parse_format
from precision.representation import refuse_nonfinite
from precision.rounding import as_float32

SCHEMES = ("int8_vectorwise",)  # of vectors; the others are block formats
LARGEST_K = 133_144  # 127^2 k < 2^31
_SMALLEST_ABSMAX = np.float32(2.0**-112)
_LARGEST_CODE = np.float32(127)
_STEP = np.float32(1 / 127)


@dataclass(frozen=True, kw_only=True)
class QArray:
    """INT8 codes with one float32 scale a vector: x is about ``codes * scale``.

    Shapes: codes any; scale the same with 1 along ``axis``, the contraction axis (-1 for X, -2 for W).
    """

    codes: Any
    scale: Any
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int8)

    def dequantize(self) -> Any:
        """codes * scale, one float32 rounding a value."""
        module = choose_backend(self.codes)
        return module.multiply(module.asarray(self.codes), self.scale)


@overload
def quantize(
    x: Any,
    scheme: Literal["int8_vectorwise"] = "int8_vectorwise",
    *,
    axis: int,
    nonfinite: Nonfinite = "raise",
    backend: str | None = None,
) -> QArray: ...


@overload
def quantize(
    x: Any,
    scheme: str | BlockFormat,
    *,
    axis: int,
    nonfinite: Nonfinite = "raise",
    backend: str | None = None,
    **options: Any,
) -> QArray | BlockArray: ...


def quantize(
    x: Any,
    scheme: str | BlockFormat = "int8_vectorwise",
    *,
    axis: int,
    nonfinite: Nonfinite = "raise",
    backend: str | None = None,
    **options: Any,
) -> QArray | BlockArray:
    """x (any shape, float32 or narrower) as INT8 codes with one scale for each vector along ``axis``, or in a block
    format: ``quantize_blocks``, which takes the ``options``.

    Exactness: codes and scales bit-identical on NumPy, Numba and JAX.
    Errors: ValueError for an unknown scheme, an axis that x does not have, or (``nonfinite="raise"``, eager only)
    a NaN or infinity, named by its position; ``"propagate"`` makes that vector's (block's) scale NaN.
    """
    if isinstance(scheme, BlockFormat) or str(scheme).lower() in BLOCK_FORMATS:
        return quantize_blocks(x, scheme, axis=axis, nonfinite=nonfinite, backend=backend, **options)
    if scheme not in SCHEMES:
        _refuse_scheme(scheme, (*SCHEMES, *BLOCK_FORMATS))
    if options:
        raise TypeError(f"{scheme} takes no {', '.join(options)}; those are options of block formats")
    return _quantize_vectors(x, scheme, axis, nonfinite, backend)


def _refuse_scheme(scheme: str, known: tuple[str, ...]) -> NoReturn:
    raise ValueError(f"unknown quantization scheme {scheme!r}; known schemes: {', '.join(known)}")


def _quantize_vectors(x: Any, scheme: str, axis: int, nonfinite: Nonfinite, backend: str | None) -> QArray:
    if scheme not in SCHEMES:
        _refuse_scheme(scheme, SCHEMES)
    module = choose_backend(x, backend=backend)
    x = as_float32(module, x)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} does not exist in an array of shape {tuple(x.shape)}")
    if nonfinite == "raise" and is_concrete(x):
        refuse_nonfinite(np.asarray(x), "which INT8 cannot hold")
    return QArray(axis=axis, **dict(zip(("codes", "scale"), _codes_and_scale(module, x, axis), strict=True)))


def _codes_and_scale(module: Any, x: Any, axis: int) -> tuple[Any, Any]:
    where = module.array_module.where
    largest = module.absmax(x, axis)
    zero = largest < _SMALLEST_ABSMAX
    divisor = where(zero, np.float32(1), largest)
    inverse = module.divide(module.array_module.full_like(divisor, _LARGEST_CODE), divisor)
    scale = where(zero, np.float32(0), module.multiply(largest, _STEP))
    scale = where(largest < np.float32(np.inf), scale, np.float32(np.nan)) if x.size else scale
    scaled = module.multiply(x, where(zero, np.float32(0), inverse))
    return module.encode(scaled, INT8), scale


def quantized_product(module: Any, x: Any, w: Any) -> Any:
    """(B, m, k) x (B, k, n), both quantized along k, float32 and not yet rounded to an output: (acc s_x) s_w."""
    x_codes, x_scale = _codes_and_scale(module, x, -1)
    w_codes, w_scale = _codes_and_scale(module, w, -2)
    return _dequantized_product(module, x_codes, x_scale, w_codes, w_scale)


def _dequantized_product(module: Any, x: Any, x_scale: Any, w: Any, w_scale: Any) -> Any:
    total = module.asarray(module.integer_matmul(x, w))
    return module.multiply(module.multiply(total, x_scale), w_scale)


def quantized_matmul(
    x: Any,
    w: Any,
    *,
    scheme: str = "int8_vectorwise",
    output: str | Format = FP16,
    bias: Any = None,
    backend: str | None = None,
) -> Any:
    """x w with both operands in vector-wise INT8.

        y = round_output((sum_k qx qw) s_x s_w + bias)

    Shapes: x (..., m, k), an array or a ``QArray`` along axis -1; w (k, n), an array or a ``QArray`` along axis -2;
    bias (n,).  -> (..., m, n).
    Exactness: INT32 sums exact; their conversion to float32 (a rounding above 2^24), each scaling and the bias are
    one float32 rounding each; one rounding to ``output``.  Bit-identical on every back end.
    Errors: ValueError for inner axes that differ, k > 133,144 (INT32 could overflow), NaN or infinity.
    """
    module = get_backend(backend) if backend else choose_backend(x.codes if isinstance(x, QArray) else x)
    qx = x if isinstance(x, QArray) else _quantize_vectors(x, scheme, -1, "raise", module.name)
    qw = w if isinstance(w, QArray) else _quantize_vectors(w, scheme, -2, "raise", module.name)
    _check_product(qx, qw)
    m = math.prod(qx.shape[:-1])
    rows, row_scale = qx.codes.reshape(1, m, qx.shape[-1]), qx.scale.reshape(1, m, 1)
    y = _dequantized_product(module, rows, row_scale, qw.codes[None], module.asarray(qw.scale)[None])
    if bias is not None:
        y = module.add(y, as_float32(module, bias))
    return module.round_to(y.reshape(*qx.shape[:-1], qw.shape[-1]), parse_format(output))


def _check_product(x: QArray, w: QArray) -> None:
    if len(w.shape) != 2 or len(x.shape) < 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(f"x of shape {x.shape} and w of shape {w.shape} do not multiply; x is (..., m, k), w (k, n)")
    if w.axis not in (-2, 0):
        raise ValueError(f"w is quantized along axis {w.axis}; quantize it along its contraction axis, -2")
    if x.axis not in (-1, len(x.shape) - 1):
        raise ValueError(f"x is quantized along axis {x.axis}; quantize it along its contraction axis, -1")
    if x.shape[-1] > LARGEST_K:
        raise ValueError(f"k = {x.shape[-1]} could overflow INT32; at most {LARGEST_K} is exact, so split k")
