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


def floats_suffice(array_module: Any, a: Any, b: Any, c: Any, exact: bool) -> Any:
    """True where no step of  c + sum a_k b_k  can produce or read a float32 subnormal.  a, b, c: uint32 patterns.

    With every nonzero |a| >= 2^ea and |b| >= 2^eb, each product, rounded to 24 bits, is a multiple of
    2^(ea + eb - 23), and so is each rounded sum of such multiples.  At ea + eb >= -103 that quantum is at least
    2^-126, so a nonzero result is normal.  c must be a multiple of 2^-126 as well.

    With ``exact`` products none may overflow either: 2^128 - 2^127 is finite, though 2^128 is no float32.  Finite
    |a| < 2^(da + 1) and |b| < 2^(db + 1) have products below 2^128 where da + db <= 126.
    """
    ea, eb, ec = (_smallest_exponent(array_module, u) for u in (a, b, c))
    normal = (ea >= 1) & (eb >= 1) & (ea + eb >= 254 - 103) & (ec >= 127 - 103)
    if not exact:
        return normal
    return normal & (_largest_exponent(array_module, a) + _largest_exponent(array_module, b) <= 254 + 126)


def _smallest_exponent(array_module: Any, u: Any) -> Any:
    """Smallest biased exponent of the nonzero values; 255 where there is none."""
    magnitude = u & 0x7FFFFFFF
    exponent = array_module.where(magnitude == 0, 255, (magnitude >> 23).astype("int32"))
    return array_module.min(exponent, initial=255)


def _largest_exponent(array_module: Any, u: Any) -> Any:
    """Largest biased exponent of the finite values; 0 where there is none."""
    exponent = ((u & 0x7FFFFFFF) >> 23).astype("int32")
    return array_module.max(array_module.where(exponent == 255, 0, exponent), initial=0)
