"""Unary functions: correctly rounded by table up to 16 bits, the project's own in float32."""

from __future__ import annotations

from typing import Any

from precision.backends import choose_backend, is_concrete
from precision.formats import FP16, FP32, Format, parse_format
from precision.representation import check_representable
from precision.rounding import as_float32

FormatLike = str | Format
_IN_FLOAT32 = ("erf", "exp", "log", "rsqrt", "tanh")


def exp(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """The exponential e^x of values of a format, rounded once.

        exp(x) = round(e^x),  to ``output`` (``fmt`` unless given), to nearest even

    Shapes: any, kept; NumPy or JAX array (also traced), float32 carrier in and out.
    Domain: values of ``fmt``, a floating-point format of at most 16 bits; under JAX tracing, where they cannot be
    looked at, values are rounded to it first, to nearest even.  Special values: exp(-inf) = +0, exp(+-0) = 1,
    exp(inf) = inf, or what ``round_to`` makes of infinity where ``output`` has none.  Every NaN is 0x7FC00000.
    Exactness: correctly rounded, bit-identical on NumPy, Numba and JAX.  With ``fmt=FP32`` exp, log, tanh, erf and
    rsqrt are the functions of ``precision.elementary``: bit-identical too, at most 1 ulp off, subnormal arguments
    and results read as zero.
    Derivative under JAX: that of the real function, as XLA has it in float32; it is not part of the bit contract.
    Errors: ValueError for a value that is not of ``fmt``, for a wider format than 16 bits other than FP32, and for
    an integer format; TypeError for a dtype that float32 cannot hold.
    Source: IEEE 754-2019, 9.2, for the special values; tables: ``precision.tables``.
    """
    return _apply("exp", x, fmt, output, backend)


def exp2(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """2^x of values of a format of at most 16 bits, rounded once; everything else as in ``exp``.

    Special values: exp2(-inf) = +0, exp2(n) exact for integers n in range, exp2(inf) = inf.
    """
    return _apply("exp2", x, fmt, output, backend)


def log(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """The natural logarithm of values of a format, rounded once; everything else as in ``exp``, FP32 included.

    Special values: log(+-0) = -inf, log(1) = +0, log(inf) = inf, log(x < 0) = NaN.
    """
    return _apply("log", x, fmt, output, backend)


def tanh(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """The hyperbolic tangent of values of a format, rounded once; everything else as in ``exp``, FP32 included.

    Special values: tanh(+-0) = +-0, tanh(+-inf) = +-1.
    """
    return _apply("tanh", x, fmt, output, backend)


def erf(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x, rounded once; all else as in ``exp``, FP32 included.

    Special values: erf(+-0) = +-0, erf(+-inf) = +-1.
    """
    return _apply("erf", x, fmt, output, backend)


def gelu(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """x Phi(x) = x (1 + erf(x / sqrt 2)) / 2 for values of a format of at most 16 bits, rounded once.

    Special values: gelu(+-0) = +-0, gelu(-inf) = -0, gelu(inf) = inf.  Everything else as in ``exp``.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415; not its tanh approximation.
    """
    return _apply("gelu", x, fmt, output, backend)


def gelu_gradient(
    x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None
) -> Any:
    """Phi(x) + x phi(x), the derivative of ``gelu``, for values of a format of at most 16 bits, rounded once.

    Special values: gelu_gradient(+-0) = 1/2, gelu_gradient(-inf) = -0, gelu_gradient(inf) = 1.  Else as ``exp``.
    """
    return _apply("gelu_gradient", x, fmt, output, backend)


def gelu_tanh(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 of values of a format of at most 16 bits, rounded once.

    Special values: gelu_tanh(+-0) = +-0, gelu_tanh(-inf) = -0, gelu_tanh(inf) = inf.  Everything else as in ``exp``.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, its tanh approximation; GPT-2 and BLOOM have it.
    """
    return _apply("gelu_tanh", x, fmt, output, backend)


def rsqrt(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """x^(-1/2) of values of a format, rounded once, not through a rounded root; else as ``exp``, FP32 included.

    Special values: rsqrt(+-0) = +-inf, rsqrt(inf) = +0, rsqrt(x < 0) = NaN.
    """
    return _apply("rsqrt", x, fmt, output, backend)


def reciprocal(
    x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None
) -> Any:
    """1 / x of values of a format of at most 16 bits, rounded once; everything else as in ``exp``.

    Special values: reciprocal(+-0) = +-inf, reciprocal(+-inf) = +-0; exact for powers of two in range.
    """
    return _apply("reciprocal", x, fmt, output, backend)


def sigmoid(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """1 / (1 + e^-x) of values of a format of at most 16 bits, rounded once; everything else as in ``exp``.

    Special values: sigmoid(-inf) = +0, sigmoid(+-0) = 1/2, sigmoid(inf) = 1.
    """
    return _apply("sigmoid", x, fmt, output, backend)


def silu(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """x / (1 + e^-x), also called swish, of values of a format of at most 16 bits, rounded once; else as ``exp``.

    Special values: silu(+-0) = +-0, silu(-inf) = -0, silu(inf) = inf.
    """
    return _apply("silu", x, fmt, output, backend)


def sin(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """The sine of values of a format of at most 16 bits, in radians, rounded once however large they are.

    Special values: sin(+-0) = +-0, sin(+-inf) = NaN.  Everything else as in ``exp``.
    """
    return _apply("sin", x, fmt, output, backend)


def cos(x: Any, *, fmt: FormatLike = FP16, output: FormatLike | None = None, backend: str | None = None) -> Any:
    """The cosine of values of a format of at most 16 bits, in radians, rounded once however large they are.

    Special values: cos(+-0) = 1, cos(+-inf) = NaN.  Everything else as in ``exp``.
    """
    return _apply("cos", x, fmt, output, backend)


def _apply(function: str, x: Any, fmt: FormatLike, output: FormatLike | None, backend: str | None) -> Any:
    source = parse_format(fmt)
    module = choose_backend(x, backend=backend)
    x = as_float32(module, x)
    if source == FP32:
        return _in_float32(function, module, x, output)
    # imported on first use: mpmath and SciPy, which build the tables, take longer to import than all of this package
    from precision.tables import table

    values = table(function, source, output)
    if is_concrete(x):
        check_representable(module, x, source, "x")
    return module.differentiable(function, lambda x: module.lookup(values, x, source))(x)


def _in_float32(function: str, module: Any, x: Any, output: FormatLike | None) -> Any:
    if function not in _IN_FLOAT32:
        raise ValueError(
            f"{function} of fp32 is not offered, only {', '.join(_IN_FLOAT32)}; give fmt a format of at most 16 bits"
        )
    if output is not None:
        raise ValueError(f"{function} of fp32 is an fp32 value; leave output out and round_to {output} afterwards")
    return module.differentiable(function, getattr(module, function))(x)
