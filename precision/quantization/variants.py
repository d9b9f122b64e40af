"""INT8 as named packages compute it, each step in the format they take it in.

Facts read in torchao 0.18.0, qwix 0.1.8, aqtp 0.9.0, bitsandbytes 0.50.2 and mit-han-lab/smoothquant.  The first three
work in the dtype of their input: the plain name is float32, ``_bf16`` and ``_fp16`` the others.
"""

from __future__ import annotations

from precision.quantization.scheme import MatmulScheme, QScheme

_DTYPES = ("fp32", "bf16", "fp16")


def _suffix(dtype: str) -> str:
    return "" if dtype == "fp32" else f"_{dtype}"


def _torchao(dtype: str) -> MatmulScheme:
    """s = D(a / 127.5), at least 2^-23;  q = rint(x (1 / s)) in float32, -128 ... 127;  y = D(D(sum s_x) s_w)."""
    name = f"torchao{_suffix(dtype)}"
    scheme = QScheme(
        name=name, bound=127.5, lowest=-128, scale_step="division", quotient="inverse", scale_format=dtype,
        tiny="least_scale", threshold=2.0**-23,
    )  # fmt: skip
    return MatmulScheme(
        name=name, x=scheme, w=scheme, working=dtype, partial=dtype, evidence="package",
        description=f"torchao's Int8DynamicActivationInt8Weight, {dtype}: bound 127.5, codes to -128",
    )  # fmt: skip


VARIANTS: tuple[MatmulScheme, ...] = tuple(_torchao(dtype) for dtype in _DTYPES)
