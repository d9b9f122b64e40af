"""``round_to``, ``encode``, ``decode``: check the arguments, then call a back end."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np

from precision.backends import choose_backend, is_concrete
from precision.formats import Format, parse_format

Subnormals = Literal["keep", "flush"]
Gradient = Literal["straight_through", "clipped", "zero"]
_WIDENS_EXACTLY = tuple(
    map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn))
)
_SMALL_INTEGERS = tuple(map(np.dtype, (np.int8, np.uint8, np.int16, np.uint16)))


def as_float32(module: Any, x: Any) -> Any:
    """x in a float32 carrier.  Types that float32 holds exactly widen; any other is refused.

    Errors: TypeError for float64, complex, object and wide integers, which would be rounded on the way in.
    """
    x = x if hasattr(x, "dtype") else _exactly(x)
    if np.dtype(x.dtype) not in _WIDENS_EXACTLY + _SMALL_INTEGERS:
        raise TypeError(f"dtype {x.dtype} does not fit a float32 carrier exactly; convert it to float32 first")
    return module.asarray(x)


def _exactly(x: Any) -> np.ndarray:
    """Python numbers and lists as float32, refused where that would round them."""
    wide = np.asarray(x)
    if wide.dtype.kind not in "fiu":
        return wide
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    changed = np.argwhere(np.atleast_1d((narrow != wide) & ~np.isnan(narrow)))
    if len(changed):
        value = np.atleast_1d(wide)[tuple(changed[0])]
        raise TypeError(f"{value!s} is not a float32 value; pass np.float32({value!s}) to have it rounded first")
    return narrow


def round_to(
    x: Any,
    fmt: str | Format,
    *,
    rounding: str = "nearest_even",
    subnormals: Subnormals = "keep",
    gradient: Gradient = "straight_through",
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> Any:
    """The values of x rounded once to a format.

        round_to(x) = the value of the format nearest to x, ties to the even significand

    Shapes: any, kept; float32 in, float32 carrier out, of the same array kind (NumPy or JAX).
    Domain: every pattern.  Subnormals are kept, or with ``subnormals="flush"`` results below the smallest
    normal value become zeros of their sign.  Signed zeros are kept (integer formats have one zero).  A value
    that rounds beyond the largest finite one becomes infinity, and saturates in an integer format.  Every NaN
    becomes 0x7FC00000; into an integer format NaN is refused eagerly and stays NaN under JAX tracing.
    Exactness: one rounding, bit-identical on NumPy, Numba and JAX.
    Gradients (JAX, forward and reverse mode): ``"straight_through"`` dy = dx; ``"clipped"`` the same where x lies
    within the format's [minimum, maximum] or is NaN, 0 beyond; ``"zero"``.
    Errors: ValueError for an unknown format, mode, gradient or back end, or another gradient than the default for
    NumPy arrays; TypeError for a dtype float32 cannot hold.
    Source: IEEE 754-2019, 4.3.1; kernels in ``precision.bits``.
    """
    fmt = parse_format(fmt)
    _check(rounding, subnormals)
    module = choose_backend(x, backend=backend)
    x = as_float32(module, x)
    _check_gradient(gradient, module)
    _refuse_nan(x, fmt)
    if out is not None:
        _check_out(out, x)
    # an integer format has no subnormals: its values below the top binade are ordinary integers
    rounded = partial(module.round_to, fmt=fmt, subnormals="keep" if fmt.is_integer else subnormals)
    if module.name == "jax":
        return module.straight_through(rounded, x, fmt, gradient)
    result = rounded(x)
    if out is None:
        return result
    np.copyto(out, result)
    return out


def encode(x: Any, fmt: str | Format, *, rounding: str = "nearest_even", backend: str | None = None) -> Any:
    """Codes of ``round_to(x, fmt)``: uint8 up to 8 bits, uint16 up to 16, uint32; int8 for integer formats.

    Shapes: any, kept.  Domain, exactness, errors: as ``round_to``; the canonical NaN is the quiet one, sign 0.
    """
    fmt = parse_format(fmt)
    _check(rounding, "keep")
    module = choose_backend(x, backend=backend)
    x = as_float32(module, x)
    _refuse_nan(x, fmt)
    return module.encode(x, fmt)


def decode(codes: Any, fmt: str | Format, *, backend: str | None = None) -> Any:
    """Float32 values of codes; exact, every NaN code becomes 0x7FC00000.

    Shapes: any, kept.  Domain: arrays of the format's ``code_dtype``.
    Errors: TypeError for any other dtype.
    """
    fmt = parse_format(fmt)
    codes = codes if hasattr(codes, "dtype") else np.asarray(codes, fmt.code_dtype)
    if np.dtype(codes.dtype) != fmt.code_dtype:
        raise TypeError(f"codes of {fmt.name} are {fmt.code_dtype}, not {codes.dtype}; view or convert them first")
    return choose_backend(codes, backend=backend).decode(codes, fmt)


def _check(rounding: str, subnormals: str) -> None:
    if rounding != "nearest_even":
        raise ValueError(f"rounding {rounding!r} is not offered; choose 'nearest_even'")
    if subnormals not in ("keep", "flush"):
        raise ValueError(f"subnormals must be 'keep' or 'flush', not {subnormals!r}")


def _check_gradient(gradient: str, module: Any) -> None:
    if gradient not in get_args(Gradient):
        raise ValueError(f"unknown gradient {gradient!r}; choose one of {', '.join(get_args(Gradient))}")
    if gradient != get_args(Gradient)[0] and module.name != "jax":
        raise ValueError(f"gradient={gradient!r} is for JAX arrays; {module.name} has no gradients, so leave it out")


def _refuse_nan(x: Any, fmt: Format) -> None:
    if fmt.is_integer and is_concrete(x) and np.isnan(np.asarray(x)).any():
        raise ValueError(f"{fmt.name} has no NaN, and the input holds one; remove it before rounding")


def _check_out(out: np.ndarray, x: Any) -> None:
    if not isinstance(x, np.ndarray):
        raise TypeError("out= is for NumPy arrays; a JAX result is a new array")
    if out.dtype != np.float32 or out.shape != x.shape:
        raise ValueError(f"out must be float32 of shape {x.shape}, not {out.dtype} of shape {out.shape}")
