"""The formats by name, and ``parse_format``."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np

from precision.format import Format, NanEncoding


def _ieee(name: str, exponent_bits: int, significand_bits: int) -> Format:
    """IEEE 754-2019, 3.3: bias 2^(e - 1) - 1, infinities, NaNs, subnormals, two zeros."""
    bias = (1 << (exponent_bits - 1)) - 1
    return Format(name=name, exponent_bits=exponent_bits, significand_bits=significand_bits, bias=bias)


def _finite(name: str, exponent_bits: int, significand_bits: int, bias: int, nan: NanEncoding) -> Format:
    """A format without infinities."""
    return Format(
        name=name,
        exponent_bits=exponent_bits,
        significand_bits=significand_bits,
        bias=bias,
        infinities=False,
        nan=nan,
    )


def _integer(bits: int) -> Format:
    return _finite(f"int{bits}", 0, bits - 1, 0, "none")


def _p3109(precision: int, signed: bool, extended: bool) -> Format:
    """IEEE P3109 binary8: K = 8, one zero, one NaN; ``extended`` formats have infinities."""
    return Format(
        name=f"binary8p{precision}{'s' if signed else 'u'}{'e' if extended else 'f'}",
        exponent_bits=8 - precision + (not signed),
        significand_bits=precision - 1,
        bias=1 << (8 - precision - signed),
        infinities=extended,
        nan="negative_zero" if signed else "all_ones",
        signed=signed,
    )


FP64 = _ieee("fp64", 11, 52)
FP32 = _ieee("fp32", 8, 23)
TF32 = _ieee("tf32", 8, 10)
FP16 = _ieee("fp16", 5, 10)
BF16 = _ieee("bf16", 8, 7)
E5M2 = _ieee("e5m2", 5, 2)
E4M3 = _ieee("e4m3", 4, 3)
E3M4 = _ieee("e3m4", 3, 4)
E4M3FN = _finite("e4m3fn", 4, 3, 7, "all_ones")
E4M3FNUZ = _finite("e4m3fnuz", 4, 3, 8, "negative_zero")
E5M2FNUZ = _finite("e5m2fnuz", 5, 2, 16, "negative_zero")
E4M3B11FNUZ = _finite("e4m3b11fnuz", 4, 3, 11, "negative_zero")
E8M0 = Format(
    name="e8m0", exponent_bits=8, significand_bits=0, bias=127, subnormals=False, infinities=False, nan="all_ones",
    signed=False, zero=False,
)  # fmt: skip
E3M2 = _finite("e3m2", 3, 2, 3, "none")
E2M3 = _finite("e2m3", 2, 3, 1, "none")
E2M1 = _finite("e2m1", 2, 1, 1, "none")
INT8, INT4, INT2 = map(_integer, (8, 4, 2))
P3109 = tuple(
    _p3109(precision, signed, extended)
    for signed in (True, False)
    for precision in range(1, 8 + (not signed))
    for extended in (True, False)
)

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        FP64, FP32, TF32, FP16, BF16, E5M2, E4M3, E3M4, E4M3FN, E5M2FNUZ, E4M3FNUZ, E4M3B11FNUZ, E8M0, E3M2, E2M3,
        E2M1, INT8, INT4, INT2, *P3109,
    )
}  # fmt: skip

_DTYPES: dict[str, Any] = {
    "fp64": np.float64,
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "int8": np.int8,
    "int4": ml_dtypes.int4,
    "int2": ml_dtypes.int2,
}
_BY_DTYPE = {np.dtype(dtype): FORMATS[name] for name, dtype in _DTYPES.items()}
_BY_FIELDS = {
    (f.exponent_bits, f.significand_bits): f for f in FORMATS.values() if f.nan == "ieee" and f.name != "fp64"
}
_EXPONENT_AND_SIGNIFICAND = re.compile(r"e([2-8])m([1-9]|1\d|2[0-3])")


def dtype_of(fmt: Format) -> np.dtype:
    """The dtype whose bit patterns are the format's codes.  ValueError where NumPy and ml_dtypes have none."""
    if FORMATS.get(fmt.name) != fmt or fmt.name not in _DTYPES:
        raise ValueError(f"format {fmt.name} has no NumPy dtype; carry its values in float32")
    return np.dtype(_DTYPES[fmt.name])


def format_of_dtype(dtype: Any) -> Format | None:
    """The format whose codes are the dtype's bit patterns, or None."""
    return _BY_DTYPE.get(np.dtype(dtype))


def parse_format(name: str | Format | np.dtype | type) -> Format:
    """The format of that name or dtype: ``"fp16"``, ``np.float16``, ``ml_dtypes.bfloat16``, or itself.

    ``e<k>m<n>``, 2 <= k <= 8, 1 <= n <= 23, is the IEEE-like format of so many exponent and significand bits where
    the name is not taken (the six- and four-bit OCP formats): ``"e5m10"`` is FP16, ``"e6m9"`` one of its own.
    ``"binary8p3"`` is P3109's signed extended ``"binary8p3se"``.
    Errors: ValueError, naming the known formats, for anything else.
    """
    if isinstance(name, Format):
        return name
    found = _by_name(name.lower()) if isinstance(name, str) else _BY_DTYPE.get(_dtype(name))
    if found is None:
        named = [known for known in FORMATS if not known.startswith("binary8")]
        raise ValueError(
            f"unknown number format {str(name)!r}; known formats: {', '.join(named)}, binary8p1se ... binary8p8uf, "
            "and e<k>m<n> with 2 to 8 exponent and 1 to 23 significand bits"
        )
    return found


def _by_name(name: str) -> Format | None:
    if name in FORMATS or f"{name}se" in FORMATS:
        return FORMATS.get(name) or FORMATS[f"{name}se"]
    fields = _EXPONENT_AND_SIGNIFICAND.fullmatch(name)
    if fields is None:
        return None
    exponent_bits, significand_bits = map(int, fields.groups())
    return _BY_FIELDS.get((exponent_bits, significand_bits)) or _ieee(name, exponent_bits, significand_bits)


def _dtype(name: Any) -> np.dtype | None:
    """The dtype that NumPy makes of it, or None."""
    try:
        return None if name is None else np.dtype(name)  # NumPy takes None for float64
    except TypeError:
        return None
