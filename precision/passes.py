"""The three matrix products of a linear operation: forward, and the gradients of its two operands."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from precision.accumulator import Accumulator
from precision.accumulators import parse_accumulator
from precision.backends import choose_backend
from precision.format import Format
from precision.formats import FP16, FP32, parse_format
from precision.gemm import FormatLike, matmul
from precision.quantization.products import quantized_product
from precision.quantization.scheme import MatmulScheme, QScheme
from precision.quantization.schemes import parse_scheme
from precision.random_bits import Key, fold_in
from precision.rounding import round_to
from precision.rounding_modes import Overflow, Rounding

KEYS = "an int, two uint32 words or a JAX key"


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
        quantization: an integer scheme of ``SCHEMES``, or a relative of one, quantizes the rounded operands along k
            and sums in INT32, in place of the accumulator.
    Called with (B, m, k) and (B, k, n) it returns (B, m, n) in float32; bit-identical on every back end.  Where the
    scheme rounds an operand stochastically it takes a ``key`` as well: an int, two uint32 words or a JAX key; a draws
    from ``fold_in(key, 0)``, b from ``fold_in(key, 1)``, each element by its row-major index.
    Errors: ValueError on creation for unknown names and for inputs that are integers or float64; on calling it for a
    stochastic scheme without key.
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
        self._check_scheme()
        for fmt in self.formats:
            if fmt.is_integer or fmt.bits > FP32.bits:
                raise ValueError(f"a Gemm takes floats of at most {FP32.bits} bits as inputs, not {fmt.name}")

    def _check_scheme(self) -> None:
        if self.scheme is None:
            return
        if not self.scheme.integer:
            raise ValueError(
                f"scheme {self.quantization!s} multiplies no integers; name one of both operands, or None"
            )
        if self.stochastic and self.scheme.threshold is not None:
            raise ValueError(f"scheme {self.scheme} keeps outliers apart; a Gemm rounds it to nearest only")

    @property
    def scheme(self) -> MatmulScheme | None:
        return None if self.quantization is None else parse_scheme(self.quantization)

    @property
    def stochastic(self) -> bool:
        """Whether it takes a key."""
        parts = () if self.scheme is None else (self.scheme.x, self.scheme.w)
        return any(isinstance(part, QScheme) and part.rounding == "stochastic" for part in parts)

    @property
    def separable(self) -> bool:
        """Whether an element of the result depends on its own row of a and column of b alone."""
        if self.scheme is None:
            return True
        own = {"x": ("vector", "group", "row"), "w": ("vector", "group", "column")}
        parts = ((self.scheme.x, own["x"]), (self.scheme.w, own["w"]))
        by_vector = all(isinstance(part, QScheme) and part.granularity in allowed for part, allowed in parts)
        return by_vector and not self.stochastic and self.scheme.threshold is None

    @property
    def formats(self) -> tuple[Format, Format]:
        """Formats of a and of b."""
        a, b = self.inputs if isinstance(self.inputs, tuple) else (self.inputs, self.inputs)
        return parse_format(a), parse_format(b)

    def swapped(self) -> Gemm:
        """The same for b^T a^T, the transposed product."""
        return dataclasses.replace(self, inputs=self.formats[::-1], quantization=self._swapped_scheme())

    def _swapped_scheme(self) -> str | MatmulScheme | None:
        if self.scheme is None:
            return None
        other = dataclasses.replace(self.scheme, x=_transposed(self.scheme.w), w=_transposed(self.scheme.x))
        return self.quantization if other == self.scheme else other

    def __call__(self, a: Any, b: Any, key: Any = None) -> Any:
        a, b = (round_to(x, fmt, overflow=self.overflow) for x, fmt in zip((a, b), self.formats, strict=True))
        if self.scheme is None:
            return matmul(a, b, inputs=self.formats, accumulator=self.accumulator, output=self.output)
        if self.stochastic and key is None:
            raise ValueError(f"scheme {self.scheme} rounds stochastically and needs key: {KEYS}")
        return round_to(quantized_product(choose_backend(a, b), a, b, self.scheme, key), self.output or FP32)


def _transposed(scheme: Any) -> Any:
    """How the transpose of an operand is quantized."""
    other = {"row": "column", "column": "row"}.get(getattr(scheme, "granularity", ""))
    return scheme if other is None else dataclasses.replace(scheme, granularity=other)


class Passes(NamedTuple):
    """Products of  y = a b,  da = dy b^T,  db = a^T dy.  ``inputs`` stand in the order of each product's operands.

    Where one of them takes a key, all share one: ``key_of`` a pass.
    """

    fprop: Gemm
    dgrad: Gemm
    wgrad: Gemm

    @property
    def stochastic(self) -> bool:
        return any(gemm.stochastic for gemm in self)

    @staticmethod
    def key_of(direction: Literal["fprop", "dgrad", "wgrad"], key: Key) -> Key:
        """The key itself, or its third or fourth child: the first two are those of the operands of ``fprop``.

        So no two operands of the products share bits, those of derivatives of any order included.
        """
        return key if direction == "fprop" else fold_in(key, {"dgrad": 2, "wgrad": 3}[direction])

    def of_dgrad(self) -> Passes:
        """Passes of  da = dy b^T:  gradient of dy is  g b,  gradient of b^T is  dy^T g = (g^T dy)^T."""
        return Passes(self.dgrad, self.fprop, self.wgrad.swapped())

    def of_wgrad(self) -> Passes:
        """Passes of  db = a^T dy:  gradient of a^T is  g dy^T = (dy g^T)^T,  gradient of dy is  a g."""
        return Passes(self.wgrad, self.dgrad.swapped(), self.fprop)
