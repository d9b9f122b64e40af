"""Comparisons, extremes and conversions of values: nothing is rounded but by ``convert``."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.backends import choose_backend
from precision.format import Format
from precision.rounding import as_float32, decode, encode
from precision.rounding_modes import Mode, Overflow, Subnormals


def equal(x: Any, y: Any, *, backend: str | None = None) -> Any:
    """Where x = y.

    Equation: equal(x, y) = (x = y) as numbers; -0 = +0, and NaN is equal to nothing.
    Shapes: any that broadcast; an array of bool, of the same kind (NumPy or JAX).
    Domain: every pattern of float32 and of narrower types; subnormals count, where the executor flushes them too.
    Exactness: decided on integers, the same on NumPy, Numba and JAX.
    Errors: TypeError for a dtype that float32 does not hold; ValueError for shapes that do not broadcast.
    Source: IEEE 754-2019, 5.11, compareQuietEqual.
    """
    return _apply("compare", "equal_to", x, y, backend)


def less(x: Any, y: Any, *, backend: str | None = None) -> Any:
    """Where x < y; false with NaN, and for -0 and +0.

    Shapes, domain, exactness, errors: as ``equal``.  Source: IEEE 754-2019, 5.11, compareQuietLess.
    """
    return _apply("compare", "less_than", x, y, backend)


def less_equal(x: Any, y: Any, *, backend: str | None = None) -> Any:
    """Where x <= y; false with NaN, true for -0 and +0 in either order.

    Shapes, domain, exactness, errors: as ``equal``.  Source: IEEE 754-2019, 5.11, compareQuietLessEqual.
    """
    return _apply("compare", "less_or_equal", x, y, backend)


def minimum(x: Any, y: Any, *, backend: str | None = None) -> Any:
    """The lesser of x and y, -0 below +0; NaN (0x7FC00000) where either is NaN.

    Shapes: any that broadcast; a float32 carrier of the same kind.
    Domain, exactness, errors: as ``equal``.  The result is one of the operands: values of a format stay values of it.
    Gradient on JAX: that of the operand taken, half of each where they are equal.
    Source: IEEE 754-2019, 9.6, minimum.
    """
    return _apply("extreme", "minimum", x, y, backend)


def maximum(x: Any, y: Any, *, backend: str | None = None) -> Any:
    """The greater of x and y, +0 above -0; NaN where either is NaN.  Otherwise as ``minimum``."""
    return _apply("extreme", "maximum", x, y, backend)


def minimum_number(x: Any, y: Any, *, backend: str | None = None) -> Any:
    """The lesser of x and y, -0 below +0; the number where the other is NaN, NaN where both are.

    Otherwise as ``minimum``.  Source: IEEE 754-2019, 9.6, minimumNumber.
    """
    return _apply("extreme", "minimum_number", x, y, backend)


def maximum_number(x: Any, y: Any, *, backend: str | None = None) -> Any:
    """The greater of x and y, +0 above -0; the number where the other is NaN.  Otherwise as ``minimum_number``."""
    return _apply("extreme", "maximum_number", x, y, backend)


def convert(
    codes: Any,
    source: str | Format,
    target: str | Format,
    *,
    rounding: Mode = "nearest_even",
    subnormals: Subnormals = "keep",
    overflow: Overflow = "ieee",
    key: Any = None,
    counter: Any = 0,
    random_bits: int = 24,
    backend: str | None = None,
) -> Any:
    """Codes of one format as codes of another.

    Equation: convert(codes) = encode(decode(codes, source), target, ...); decoding is exact, so this rounds once.
    Shapes: any, kept; arrays of the target's ``code_dtype``.
    Domain: arrays of the source's ``code_dtype``.  Options, NaN and overflow: as ``encode``.
    Exactness: one rounding, bit-identical on NumPy, Numba and JAX.  To a format that has all values of the source and
    back, it gives the codes again (of NaN the canonical one).
    Errors: as ``decode`` and ``encode``.
    Source: IEEE 754-2019, 5.4.2, convertFormat.
    """
    values = decode(codes, source, backend=backend)
    return encode(
        values,
        target,
        rounding=rounding,
        subnormals=subnormals,
        overflow=overflow,
        key=key,
        counter=counter,
        random_bits=random_bits,
        backend=backend,
    )


def _apply(kind: str, function: str, x: Any, y: Any, backend: str | None) -> Any:
    """A function of ``ordering``, as the back end's ``compare`` or ``extreme``."""
    module = choose_backend(x, y, backend=backend)
    x, y = as_float32(module, x), as_float32(module, y)
    np.broadcast_shapes(x.shape, y.shape)
    return getattr(module, kind)(function, x, y)
