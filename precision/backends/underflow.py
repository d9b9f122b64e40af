"""When float operations that flush subnormals still give the bits of operations that keep them."""

from __future__ import annotations

from typing import Any

from precision.formats import Format


def products_fit(a: Format, b: Format) -> bool:
    """Whether every product of two values has at most float32's 24 significand bits."""
    return a.precision + b.precision <= 24


def always_normal(a: Format, b: Format) -> bool:
    """Whether sums of products, from zero, are multiples of 2^-126 whatever the values are (fp16: of 2^-48)."""
    return products_fit(a, b) and a.min_subnormal_exponent + b.min_subnormal_exponent >= -126


def floats_suffice(array_module: Any, a: Any, b: Any, c: Any) -> Any:
    """True where no step of  c + sum a_k b_k  can produce or read a float32 subnormal.  a, b, c: uint32 patterns.

    With every nonzero |a| >= 2^ea and |b| >= 2^eb, each product, rounded to 24 bits, is a multiple of
    2^(ea + eb - 23), and so is each rounded sum of such multiples.  At ea + eb >= -103 that quantum is at least
    2^-126, so a nonzero result is normal.  c must be a multiple of 2^-126 as well.
    """
    ea, eb, ec = (_smallest_exponent(array_module, u) for u in (a, b, c))
    return (ea >= 1) & (eb >= 1) & (ea + eb >= 254 - 103) & (ec >= 127 - 103)


def _smallest_exponent(array_module: Any, u: Any) -> Any:
    """Smallest biased exponent of the nonzero values; 255 where there is none."""
    magnitude = u & 0x7FFFFFFF
    exponent = array_module.where(magnitude == 0, 255, (magnitude >> 23).astype("int32"))
    return array_module.min(exponent, initial=255)
