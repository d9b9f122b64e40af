"""The three matrix products of a linear operation: forward, and the gradients of its two operands."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

from precision.accumulator import Accumulator
from precision.accumulators import parse_accumulator
from precision.backends import choose_backend
from precision.format import Format
from precision.formats import FP16, FP32, parse_format
from precision.gemm import FormatLike, matmul
from precision.quantization.products import quantized_product
from precision.quantization.scheme import MatmulScheme
from precision.quantization.schemes import parse_scheme
from precision.rounding import round_to
from precision.rounding_modes import Overflow, Rounding


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """How one product of matrices computes.

        y = round_output(sum over k of round_a(a_ik) round_b(b_kj)),   summed as the accumulator says

    Fields
        inputs: what operands are rounded to (nearest even) before they are multiplied: one format, or one for each.
        overflow: what operands beyond the range of their format become, as in ``round_to``; fp8 wants "saturate".
        accumulator: a name of ``ACCUMULATORS`` or a record.
        output: what the sum is rounded to, once, to nearest even; None for the accumulator's own format, or for the
            format of the dtype asked for where that is narrower.
        quantization: an integer scheme of ``SCHEMES`` quantizes the rounded operands along k and sums in INT32, in
            place of the accumulator.
    Called with (B, m, k) and (B, k, n) it returns (B, m, n) in float32; bit-identical on every back end.
    Errors: ValueError on creation for unknown names and for inputs that are integers or float64.
    """

    inputs: FormatLike | tuple[FormatLike, FormatLike] = FP16
    overflow: Overflow = "ieee"
    accumulator: str | Accumulator = "fp32_sequential"
    output: FormatLike | None = None
    quantization: str | MatmulScheme | None = None

    def __post_init__(self) -> None:
        parse_accumulator(self.accumulator)
        Rounding(overflow=self.overflow)
        if self.output is not None:
            parse_format(self.output)
        if self.quantization is not None and not parse_scheme(self.quantization).integer:
            raise ValueError(
                f"scheme {self.quantization!s} multiplies no integers; name one of both operands, or None"
            )
        for fmt in self.formats:
            if fmt.is_integer or fmt.bits > FP32.bits:
                raise ValueError(f"a Gemm takes floats of at most {FP32.bits} bits as inputs, not {fmt.name}")

    @property
    def formats(self) -> tuple[Format, Format]:
        """Formats of a and of b."""
        a, b = self.inputs if isinstance(self.inputs, tuple) else (self.inputs, self.inputs)
        return parse_format(a), parse_format(b)

    def swapped(self) -> Gemm:
        """The same for b^T a^T, the transposed product."""
        return dataclasses.replace(self, inputs=self.formats[::-1])

    def __call__(self, a: Any, b: Any) -> Any:
        a, b = (round_to(x, fmt, overflow=self.overflow) for x, fmt in zip((a, b), self.formats, strict=True))
        if self.quantization is None:
            return matmul(a, b, inputs=self.formats, accumulator=self.accumulator, output=self.output)
        scheme = parse_scheme(self.quantization)
        return round_to(quantized_product(choose_backend(a, b), a, b, scheme), self.output or FP32)


class Passes(NamedTuple):
    """Products of  y = a b,  da = dy b^T,  db = a^T dy.  ``inputs`` stand in the order of each product's operands."""

    fprop: Gemm
    dgrad: Gemm
    wgrad: Gemm

    def of_dgrad(self) -> Passes:
        """Passes of  da = dy b^T:  gradient of dy is  g b,  gradient of b^T is  dy^T g = (g^T dy)^T."""
        return Passes(self.dgrad, self.fprop, self.wgrad.swapped())

    def of_wgrad(self) -> Passes:
        """Passes of  db = a^T dy:  gradient of a^T is  g dy^T = (dy g^T)^T,  gradient of dy is  a g."""
        return Passes(self.wgrad, self.dgrad.swapped(), self.fprop)
