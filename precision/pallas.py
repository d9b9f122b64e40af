"""Fused kernels for JAX on a TPU or an NVIDIA GPU, written in Pallas: the bits of the functions they stand in for.

Nothing calls them by itself; whoever wants a kernel takes it from here.  Each is lowered for the platform of the
computation: for TPU by Mosaic, for CUDA by Triton, on a CPU as interpreted XLA operations, which is slow and serves
to hold the bits.  Lowering for any other platform fails.  They have no derivative; inside ``shard_map`` they take
``check_vma=False``.  ``import precision.pallas`` does not import JAX.

Memory traffic, counted in bytes from the blocks, and not a measured speed:

    round_and_count    8.5 a value, 10.5 with significands: one pass; partial counters are written and read back
    quantized_matmul   4 a value of x (2 of BF16), 4 a result, and w once for each 128 rows of x: no codes of x and no
                       INT32 sums; on a GPU, x is read and quantized again for each 256 columns of w
    matmul             1 / 16 a multiplication: sums of a 128 x 128 tile stay in registers while k goes by
"""

from __future__ import annotations

import importlib
import math
from functools import cache
from typing import Any, Literal

from precision.backends import get_backend
from precision.formats import FP16, Format, parse_format
from precision.quantization.array import QArray
from precision.quantization.quantizers import quantize
from precision.quantization.schemes import parse_scheme
from precision.rounding import as_float32, refuse_nan
from precision.rounding_modes import Overflow, Subnormals, rounding_of

__all__ = ["matmul", "quantized_matmul", "round_and_count"]
_NO_DERIVATIVE = "a Pallas kernel has no derivative; use the function of the same bits in precision"


@cache
def _kernels() -> Any:
    return importlib.import_module("precision.backends.jax_.pallas")


def round_and_count(
    x: Any,
    fmt: str | Format,
    *,
    subnormals: Subnormals = "keep",
    overflow: Overflow = "ieee",
    significands: bool = False,
) -> tuple[Any, Any]:
    """x rounded to nearest even, and what that did to its values, in one pass over memory; traced or not.

        rounded = round_to(x, fmt, subnormals=..., overflow=...)
        counted = (counts, largest, smallest, significands): as ``statistics(x, fmt, ...)`` has them

    counts: int32 (9,), in the order of ``precision.statistics.COUNTERS``.  largest, smallest: uint32, float32
    patterns of the largest finite and the smallest nonzero magnitude; 0 and that of infinity where there is none.
    significands: int32 (277, 24), or None where they are not asked for: they cost a matrix unit 2^20 additions for
    128 values.  ``Statistics.from_counts(fmt, x.size, counts, significands)`` makes a record of them.
    Shapes: any.  Domain: float32, every pattern, and narrower floats, widened exactly.
    Exactness: every bit and every count, on every platform: integer operations, and table sums below 2^24.
    Errors: as ``round_to``; ValueError from 2^31 values on.
    """
    module, fmt = get_backend("jax"), parse_format(fmt)
    x = module.without_derivative(as_float32(module, x), _NO_DERIVATIVE)
    refuse_nan(x, fmt)
    how = rounding_of("nearest_even", overflow, subnormals, 24)
    return _kernels().round_and_count(x, fmt, how, significands=significands)


def quantized_matmul(x: Any, w: Any, *, output: str | Format = FP16, unit: Literal["int8", "bf16"] = "int8") -> Any:
    """x w in INT8, vector-wise: ``precision.quantized_matmul(x, w, output=output, nonfinite="propagate")``.

        y = round_output((sum_k qx qw) s_x s_w)

    Rows of x are quantized inside the kernel, where codes and INT32 sums stay.
    Shapes: x (..., m, k), float32 or a narrower float (BF16 is read as it is); w (k, n), an array or quantized along
    axis -2, symmetric codes with one scale a column.  -> (..., m, n) float32.
    ``unit``: "int8", or "bf16" where the matrix unit multiplies no INT8 (Mosaic on a TPU v4); the same bits.
    Exactness: all bits, on a platform whose float32 products and sums of normal numbers round to nearest even;
    subnormals, quotients, codes and the output's rounding are integer operations.
    Errors: ValueError for shapes that do not match, other codes, and k beyond what a TPU core's fast memory holds
    beside 32 rows (23,040).
    """
    module, scheme = get_backend("jax"), parse_scheme("int8_vectorwise")
    if unit not in ("int8", "bf16"):
        raise ValueError(f"unit {unit!r} is not offered; choose int8 or bf16")
    if len(w.shape) != 2 or len(x.shape) < 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"x of shape {tuple(x.shape)} and w of shape {tuple(w.shape)} do not multiply; x is (..., m, k), w (k, n)"
        )
    q = w if isinstance(w, QArray) else quantize(w, scheme, axis=-2, nonfinite="propagate", backend="jax")
    if not scheme.reads(q.scheme) or q.zero_point is not None or tuple(q.scale.shape) != (1, q.shape[1]):
        raise ValueError(f"the kernel takes symmetric codes with one scale a column, not {q.scheme.name}")
    x = module.array_module.asarray(x) if str(getattr(x, "dtype", "")) == "bfloat16" else as_float32(module, x)
    x = module.without_derivative(x, _NO_DERIVATIVE)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    codes, scale = (module.array_module.asarray(part) for part in (q.codes, q.scale))
    y = _kernels().quantized_product(rows, codes, scale.reshape(-1), parse_format(output), unit)
    return y.reshape(*x.shape[:-1], q.shape[1])


def matmul(a: Any, b: Any, *, c: Any = None, inputs: str | Format | tuple[Any, Any] = FP16) -> Any:
    """c + a b as ``precision.matmul(a, b, c=c, inputs=inputs, accumulator="fp32_sequential")``.

        s <- RN32(s + a_ik b_kj),  k ascending, from c or +0

    Shapes: a (m, k), b (k, n), c (m, n) -> (m, n) float32.  Values of the formats ``inputs``, one or (of a, of b).
    Domain: formats whose products have at most 24 significand bits: there the product is exact, and a fused and an
    unfused multiply-add give the same bits.  FP16, formats of 8 bits and fewer, from +0: always by the kernel.  BF16,
    TF32, and any with c: by the kernel where exponents prove that no sum is subnormal and no product overflows, else
    by integer operations outside it; both are compiled.
    Exactness: all bits, on a platform whose float32 sums of normal numbers round to nearest even.
    Errors: ValueError for formats with wider products, as FP32, and for shapes that do not match.
    """
    module = get_backend("jax")
    one, other = inputs if isinstance(inputs, tuple) else (inputs, inputs)
    a, b = (module.without_derivative(as_float32(module, operand), _NO_DERIVATIVE) for operand in (a, b))
    c = None if c is None else as_float32(module, c)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"a of shape {a.shape} and b of shape {b.shape} do not multiply; a is (m, k), b (k, n)")
    if c is not None and c.shape != (a.shape[0], b.shape[1]):
        raise ValueError(f"c must have the shape of the product, {(a.shape[0], b.shape[1])}, not {c.shape}")
    return _kernels().sequential_product(a, b, c, (parse_format(one), parse_format(other)))
