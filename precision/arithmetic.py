"""Scalar operations in any format: the exact result of the operands, rounded once."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

import numpy as np

from precision.backends import choose_backend, is_concrete
from precision.format import Format
from precision.formats import FP16, parse_format
from precision.rounding import as_float32, check_out, stream
from precision.rounding_modes import Mode, Overflow, Rounding, Subnormals


class Options(TypedDict, total=False):
    """How a result is rounded, and where: each as in ``round_to``."""

    fmt: str | Format  # FP16 unless given
    rounding: Mode
    subnormals: Subnormals
    overflow: Overflow
    key: Any
    counter: Any
    random_bits: int
    out: np.ndarray | None
    backend: str | None


def add(x: Any, y: Any, **options: Unpack[Options]) -> Any:
    """x + y in a format.

    Equation: add(x, y, fmt=..., rounding=...) = round_to(x + y, ...) of the exact sum.
    Shapes: any that broadcast; a float32 carrier of the same kind (NumPy or JAX).
    Options: ``fmt`` (FP16 unless given), ``rounding``, ``subnormals``, ``overflow``, ``key``, ``counter`` (index of
    the first element of the result), ``random_bits``, ``out`` and ``backend``, as in ``round_to``.
    Domain: every pattern of float32 and of narrower types; operands need not be values of the format.  NaN and
    infinities as in IEEE 754: inf - inf is NaN; x + (-x) is +0, or -0 when rounding down.
    Exactness: one rounding of the exact result, in every format and mode, subnormals kept; bit-identical on NumPy,
    Numba and JAX.
    Gradient on JAX: the float32 derivative of the real operation, as if nothing were rounded; not part of the bit
    contract.
    Errors: TypeError for a dtype that float32 does not hold (float64 among them); ValueError for shapes that do not
    broadcast, as in ``round_to``, and where a NaN would have to become an integer.
    Source: IEEE 754-2019, 5.4.1, 6.3, 7; kernels in ``precision.soft_float``.
    """
    return _operate("add", x, y, **options)


def sub(x: Any, y: Any, **options: Unpack[Options]) -> Any:
    """x - y in a format: the exact difference, rounded once.

    Shapes, options, domain, exactness, errors, source: as ``add``.
    """
    return _operate("sub", x, y, **options)


def mul(x: Any, y: Any, **options: Unpack[Options]) -> Any:
    """x y in a format: the exact product, rounded once; 0 inf is NaN.

    Shapes, options, domain, exactness, errors, source: as ``add``.
    """
    return _operate("mul", x, y, **options)


def div(x: Any, y: Any, **options: Unpack[Options]) -> Any:
    """x / y in a format: the exact quotient, rounded once.

    Shapes, options, exactness, errors: as ``add``.  Domain: 0 / 0 and inf / inf are NaN, x / 0 is an infinity.
    Source: IEEE 754-2019, 5.4.1, 7.3; long division in base 256, ``precision.soft_division``.
    """
    return _operate("div", x, y, **options)


def sqrt(x: Any, **options: Unpack[Options]) -> Any:
    """The square root of x in a format: the exact root, rounded once.

    Shapes, options, exactness, errors: as ``add``.  Domain: the root of -0 is -0, of any other negative value NaN.
    Source: IEEE 754-2019, 5.4.1; digit by digit, ``precision.soft_division``.
    """
    return _operate("sqrt", x, **options)


def fma(x: Any, y: Any, z: Any, **options: Unpack[Options]) -> Any:
    """x y + z in a format: the exact product and sum, rounded once.

    Neither float32 nor float64 arithmetic gives that for bf16, nor float32 for fp16: their own rounding comes first.
    Shapes, options, domain, exactness, errors, source: as ``add``; 0 inf + z is NaN.
    """
    return _operate("fma", x, y, z, **options)


def _operate(
    operation: str,
    *operands: Any,
    fmt: str | Format = FP16,
    rounding: Mode = "nearest_even",
    subnormals: Subnormals = "keep",
    overflow: Overflow = "ieee",
    key: Any = None,
    counter: Any = 0,
    random_bits: int = 24,
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> Any:
    fmt = parse_format(fmt)
    how = Rounding(mode=rounding, overflow=overflow, subnormals=subnormals, random_bits=random_bits)
    module = choose_backend(*operands, backend=backend)
    values = tuple(as_float32(module, x) for x in operands)
    shape = np.broadcast_shapes(*(x.shape for x in values))
    if out is not None:
        check_out(out, module.array_module.broadcast_to(values[0], shape))
    result = module.operate(operation, values, fmt, how, stream(how, key, counter))
    _refuse_nan(operation, result, fmt)
    if out is None:
        return result
    np.copyto(out, result)
    return out


def _refuse_nan(operation: str, result: Any, fmt: Format) -> None:
    if fmt.is_integer and is_concrete(result) and np.isnan(np.asarray(result)).any():
        where = tuple(map(int, np.argwhere(np.isnan(np.asarray(result)))[0]))
        raise ValueError(f"{operation} gives NaN at {where}, and {fmt.name} has none; choose a format with NaN")
