"""``round_to``, ``encode``, ``decode``: check the arguments, then call a back end."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from precision.backends import choose_backend, get_backend, is_concrete, is_jax
from precision.format import Format
from precision.formats import format_of_dtype, parse_format
from precision.random_bits import Stream, as_key
from precision.rounding_modes import Mode, Overflow, Rounding, Subnormals, rounding_of

Gradient = Literal["straight_through", "clipped", "zero"]
_SMALL_INTEGERS = tuple(map(np.dtype, (np.int8, np.uint8, np.int16, np.uint16)))
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def as_float32(module: Any, x: Any) -> Any:
    """x in a float32 carrier.  Types that float32 holds exactly widen; any other is refused.

    Errors: TypeError for float64, complex, object and wide integers, which would be rounded on the way in.
    """
    x = x if hasattr(x, "dtype") else _exactly(x)
    if x.dtype == _FLOAT32:
        return module.asarray(x)
    if not _widens(x.dtype):
        raise TypeError(f"dtype {x.dtype} does not fit a float32 carrier exactly; convert it to float32 first")
    return module.widen(x, format_of_dtype(x.dtype))


def _widens(dtype: Any) -> bool:
    """Whether every value of the dtype is a float32 value."""
    fmt = format_of_dtype(dtype)
    return (fmt is not None and np.dtype(dtype) != _FLOAT64) or np.dtype(dtype) in _SMALL_INTEGERS


def _exactly(x: Any) -> np.ndarray:
    """Python numbers and lists as float32, refused where that would round them."""
    wide = np.asarray(x)
    if wide.dtype.kind not in "fiu":
        return wide
    narrow = _narrowed(wide)
    changed = np.argwhere(np.atleast_1d((narrow != wide) & ~np.isnan(narrow)))
    if len(changed):
        value = np.atleast_1d(wide)[tuple(changed[0])]
        raise TypeError(f"{value!s} is not a float32 value; pass np.float32({value!s}) to have it rounded first")
    return narrow


def _narrowed(wide: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return wide.astype(np.float32)


def as_source(module: Any, x: Any) -> Any:
    """x as something to round: a float32 carrier, or a float64 array as it is.

    Python numbers are float32 where they are float32 values, and float64 otherwise.
    Errors: TypeError for integers that float64 does not hold, dtypes as ``as_float32``, and for float64 on JAX
    without 64-bit types.
    """
    if not hasattr(x, "dtype"):
        wide = np.asarray(x)
        x = _doubles(wide) if wide.dtype.kind in "fiu" else wide
    if x.dtype != _FLOAT64:
        return as_float32(module, x)
    if module.name == "jax":
        module.require_float64()
    return module.array_module.asarray(x)


def _doubles(wide: np.ndarray) -> np.ndarray:
    """Python numbers as float32 where that holds them all, else as float64."""
    narrow, double = _narrowed(wide), wide.astype(np.float64)
    if wide.dtype.kind in "iu" and (double.astype(object) != wide.astype(object)).any():
        raise TypeError(f"{wide!s} holds integers that float64 would round; pass float64 values")
    return narrow if np.array_equal(narrow, double, equal_nan=True) else double


def round_to(
    x: Any,
    fmt: str | Format,
    *,
    rounding: Mode = "nearest_even",
    subnormals: Subnormals = "keep",
    overflow: Overflow = "ieee",
    key: Any = None,
    counter: Any = 0,
    random_bits: int = 24,
    gradient: Gradient = "straight_through",
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> Any:
    """The values of x rounded once to a format.

    Equation: with lower <= |x| <= upper the neighbours of |x| among the magnitudes of the format, continued above
    the largest finite one as if exponents had no end, |round_to(x)| is
        nearest_even, nearest_away: the closer; of two equally close the one with an even significand (code, where
            the significand is one bit), or upper
        toward_zero: lower;  up, down: the one toward +infinity, -infinity
        to_odd: |x| if it is a value, else the neighbour with the odd significand
        stochastic: upper with probability (|x| - lower) / (upper - lower), rounded to ``random_bits`` bits
    Shapes: any, kept; an array of the same kind (NumPy or JAX), float32 carrier.
    Domain: every pattern of float32, of float64 (on JAX where 64-bit types are on) and of the narrower floats.
    A magnitude beyond the largest finite one: see ``Rounding``, ``overflow``.  Subnormals are kept, or with
    ``subnormals="flush"`` results below the smallest normal value become zeros of their sign.  Signed zeros are
    kept where the format has them.  An unsigned format turns negative values into NaN.  Every NaN, whatever its
    sign and payload, becomes 0x7FC00000; in a format without NaN, -0; an integer format refuses it eagerly and keeps
    it under JAX tracing.
    Stochastic rounding takes Threefry bits of ``key`` (an int, two words or a JAX key), element i those of index
    ``counter`` + i in row-major order, or of its own index where ``counter`` is an array: the same bits in any
    chunking and on every back end.
    ``out``: a float32 NumPy array to write to; x itself is allowed.
    Exactness: one rounding, bit-identical on NumPy, Numba and JAX.
    Gradients (JAX, forward and reverse mode): ``"straight_through"`` dy = dx; ``"clipped"`` the same where x lies
    within the format's [minimum, maximum] or is NaN, 0 beyond; ``"zero"``.
    Errors: ValueError for an unknown format, mode, gradient or back end, for "stochastic" without key, for another
    gradient than the default on NumPy arrays; TypeError for a dtype that neither float32 nor float64 holds.
    Source: IEEE 754-2019, 4.3; kernels in ``precision.bits``.
    """
    fmt = parse_format(fmt)
    how = rounding_of(rounding, overflow, subnormals, random_bits)
    module = choose_backend(x, backend=backend)
    x = as_source(module, x)
    _check_gradient(gradient, module)
    refuse_nan(x, fmt)
    if out is not None:
        check_out(out, x)
        return module.round_to(x, fmt, how, stream(how, key, counter), out)
    rounded = partial(module.round_to, fmt=fmt, rounding=how, random=stream(how, key, counter))
    return module.straight_through(rounded, x, fmt, gradient) if module.name == "jax" else rounded(x)


def encode(
    x: Any,
    fmt: str | Format,
    *,
    rounding: Mode = "nearest_even",
    subnormals: Subnormals = "keep",
    overflow: Overflow = "ieee",
    key: Any = None,
    counter: Any = 0,
    random_bits: int = 24,
    backend: str | None = None,
) -> Any:
    """Codes of ``round_to(x, fmt, ...)``: uint8 up to 8 bits, uint16 up to 16, uint32; int8 for integer formats.

    Codes narrower than their type stand in its low bits; integer codes are sign-extended.
    Shapes: any, kept.  Domain, exactness, errors: as ``round_to``; the canonical NaN is the quiet one, sign 0.
    """
    fmt = parse_format(fmt)
    how = rounding_of(rounding, overflow, subnormals, random_bits)
    module = choose_backend(x, backend=backend)
    x = as_source(module, x)
    refuse_nan(x, fmt)
    return module.encode(x, fmt, how, stream(how, key, counter))


def decode(codes: Any, fmt: str | Format, *, backend: str | None = None) -> Any:
    """Float32 values of codes; exact, every NaN code becomes 0x7FC00000.

    Shapes: any, kept.  Domain: arrays of the format's ``code_dtype``; bits above the format's are ignored.
    Errors: TypeError for any other dtype.
    """
    fmt = parse_format(fmt)
    codes = codes if hasattr(codes, "dtype") else np.asarray(codes, fmt.code_dtype)
    if np.dtype(codes.dtype) != fmt.code_dtype:
        raise TypeError(f"codes of {fmt.name} are {fmt.code_dtype}, not {codes.dtype}; view or convert them first")
    return choose_backend(codes, backend=backend).decode(codes, fmt)


def stream(rounding: Rounding, key: Any, counter: Any) -> Stream | None:
    """The random words that stochastic rounding takes; None for any other mode.

    Errors: ValueError where stochastic rounding has no key, or a key or counter is none.
    """
    if not rounding.stochastic:
        return None
    if key is None:
        raise ValueError("rounding 'stochastic' needs key: an int, two uint32 words or a JAX key")
    if np.ndim(counter) == 0 and not is_jax(counter) and not 0 <= int(counter) < 1 << 64:
        raise ValueError(
            f"counter {counter} is outside 0 <= counter < 2^64; pass the global index of the first element"
        )
    return Stream(key_words(key), counter)


def _check_gradient(gradient: str, module: Any) -> None:
    if gradient not in get_args(Gradient):
        raise ValueError(f"unknown gradient {gradient!r}; choose one of {', '.join(get_args(Gradient))}")
    if gradient != get_args(Gradient)[0] and module.name != "jax":
        raise ValueError(f"gradient={gradient!r} is for JAX arrays; {module.name} has no gradients, so leave it out")


def key_words(key: Any) -> tuple[Any, Any]:
    """Two words of a key: an int, a pair of words or a JAX key.  ValueError for anything else."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return as_key(int(key))
    if is_jax(key) or (isinstance(key, tuple) and any(map(is_jax, key))):
        return get_backend("jax").key_words(key)
    words = np.asarray(key)
    if words.shape != (2,) or words.dtype.kind not in "iu" or (words < 0).any() or (words > 0xFFFFFFFF).any():
        raise ValueError(f"key {key!r} is no key; pass an int, two uint32 words or a JAX key")
    return int(words[0]), int(words[1])


def refuse_nan(x: Any, fmt: Format) -> None:
    """ValueError where a concrete NaN is to go into an integer format."""
    if fmt.is_integer and is_concrete(x) and np.isnan(np.asarray(x)).any():
        raise ValueError(f"{fmt.name} has no NaN, and the input holds one; remove it before rounding")


def check_out(out: np.ndarray, x: Any, dtype: Any = _FLOAT32) -> None:
    """TypeError or ValueError where ``out`` cannot take a result of x's shape and that dtype."""
    if not isinstance(x, np.ndarray) or not isinstance(out, np.ndarray):
        raise TypeError("out= is for NumPy arrays; a JAX result is a new array")
    if out.dtype != dtype or out.shape != x.shape:
        raise ValueError(f"out must be {dtype} of shape {x.shape}, not {out.dtype} of shape {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only; pass an array that can be written to")
