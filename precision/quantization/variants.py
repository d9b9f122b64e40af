"""INT8 as named packages compute it, each step in the format they take it in.

Facts read in torchao 0.18.0, qwix 0.1.8, aqtp 0.9.0, bitsandbytes 0.50.2 and mit-han-lab/smoothquant, on a CPU unless
the name says otherwise.  The first three work in the dtype D of their input: the plain name is float32, ``_bf16`` and
``_fp16`` are the others.
"""

from __future__ import annotations

from precision.quantization.scheme import MatmulScheme, QScheme

_DTYPES = ("fp32", "bf16", "fp16")
_BOUND = 127.5
_LLM_THRESHOLD = 6.0


def _suffix(dtype: str) -> str:
    return "" if dtype == "fp32" else f"_{dtype}"


def _torchao(dtype: str) -> MatmulScheme:
    """s = D(a / 127.5), at least 2^-23;  q = rint(x (1 / s)) in float32, -128 ... 127;  y = D(D(sum s_x) s_w)."""
    name = f"torchao{_suffix(dtype)}"
    scheme = QScheme(
        name=name,
        source=dtype,
        bound=_BOUND,
        lowest=-128,
        scale_step="division",
        quotient="inverse",
        scale_format=dtype,
        tiny="least_scale",
        threshold=2.0**-23,
    )
    text = f"torchao, dynamic INT8 in {dtype}: bound 127.5, codes to -128"
    return _in_dtype(name, scheme, dtype, text, converted="fp32")


def _qwix(dtype: str) -> MatmulScheme:
    """s = D(a / 127.5), 1 where that is tiny;  q = rint(D(x (1 / s))), -128 ... 127;  y = D(D(D(sum) s_x) s_w).

    XLA on a CPU makes a product with a reciprocal of the division by 127.5 in float32 and fp16.
    """
    name = f"qwix{_suffix(dtype)}"
    scheme = QScheme(
        name=name,
        source=dtype,
        bound=_BOUND,
        lowest=-128,
        scale_step="division" if dtype == "bf16" else "reciprocal",
        quotient="inverse",
        arithmetic=dtype,
        inverse_format="fp32" if dtype == "bf16" else None,
        scale_format=dtype,
        tiny="one",
        threshold=2.0**-7 if dtype == "fp16" else 2.0**-63,
    )
    return _in_dtype(name, scheme, dtype, f"qwix in {dtype}: bound 127.5, codes to -128, scale 1 if tiny")


def _aqt(dtype: str) -> MatmulScheme:
    """As qwix, but a = 1 where it is 0, 1 / s rounded to D, and codes from -127 on."""
    name = f"aqt{_suffix(dtype)}"
    scheme = QScheme(
        name=name,
        source=dtype,
        bound=_BOUND,
        scale_step="division" if dtype == "bf16" else "reciprocal",
        quotient="inverse",
        arithmetic=dtype,
        scale_format=dtype,
        tiny="absmax_one",
        threshold=2.0**-126,
    )
    return _in_dtype(name, scheme, dtype, f"AQT v2 in {dtype}: bound 127.5, codes from -127")


def _in_dtype(name: str, scheme: QScheme, dtype: str, description: str, converted: str | None = None) -> MatmulScheme:
    return MatmulScheme(
        name=name,
        x=scheme,
        w=scheme,
        converted=converted or dtype,
        partial=dtype,
        description=description,
        evidence="package",
    )


def _bitsandbytes(device: str, mixed: bool) -> MatmulScheme:
    """Scales are fp16 absmax;  q = rint(x r), with r = (1 / a) 127 on a CPU, __fdividef(127, a) on a GPU.

    The divide is recorded on an H100.  Mixed: values of 6 or more leave the absmax, their columns are zeroed and
    multiplied in fp16 by dequantized weights, in an order that the library chooses and that is nominal here.
    """
    name = f"bnb_{device}{'_mixed' if mixed else ''}"
    scheme = QScheme(
        name=f"bnb_{device}",
        source="fp16",
        scale_step="absmax",
        quotient="unit" if device == "cpu" else "approximate",
    )
    return MatmulScheme(
        name=name,
        x=scheme,
        w=scheme,
        threshold=_LLM_THRESHOLD if mixed else None,
        absmax_of="values",
        outlier_weights="dequantized",
        dequantization="bnb_cpu" if device == "cpu" else "bnb_cuda",
        description=f"bitsandbytes on a {'CPU' if device == 'cpu' else 'CUDA device'}, fp16"
        + (", columns with an outlier apart" if mixed else ""),
        evidence="nominal" if mixed else "package" if device == "cpu" else "recorded",
    )


_SMOOTHQUANT = QScheme(
    name="smoothquant",
    source="fp16",
    clamps=False,
    scale_step="division",
    quotient="scale",
    arithmetic="fp16",
    scale_format="fp16",
    tiny="least_absmax",
    threshold=1e-5,
)
VARIANTS: tuple[MatmulScheme, ...] = (
    *map(_torchao, _DTYPES),
    *map(_qwix, _DTYPES),
    *map(_aqt, _DTYPES),
    *(_bitsandbytes(device, mixed) for device in ("cpu", "cuda") for mixed in (False, True)),
    MatmulScheme(
        name="smoothquant",
        x=_SMOOTHQUANT,
        w=_SMOOTHQUANT,
        integer=False,
        description="SmoothQuant's fake_quant in fp16: absmax at least 1e-5, no clipping; fp16 products",
        evidence="source",
    ),
)
