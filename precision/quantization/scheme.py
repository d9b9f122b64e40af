"""How an array becomes integer codes, as frozen records: ``QScheme`` for one operand, ``MatmulScheme`` for a product.

    q = clamp(round(x / s) + z)        x is about  s (q - z)

with one scale s (and, where codes are not symmetric, one zero point z) for each tile of the array.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from precision.block_formats import BlockFormat
from precision.format import Format
from precision.formats import parse_format
from precision.rounding_modes import Mode, Rounding

Granularity = Literal["tensor", "row", "column", "vector", "group", "block"]
Quotient = Literal["bound", "unit", "approximate", "inverse", "scale"]
ScaleStep = Literal["reciprocal", "division", "absmax"]
Tiny = Literal["zero", "one", "absmax_one", "least_absmax", "least_scale"]
Method = Literal["absmax", "percentile", "mse"]
AbsmaxOf = Literal["columns", "values"]
OutlierWeights = Literal["original", "dequantized"]
Dequantization = Literal["scales", "bnb_cpu", "bnb_cuda"]
Tiles = tuple[int | None, ...]  # edge of a tile along each axis; None: the whole axis
SMALLEST_ABSMAX = 2.0**-112
_FLOATS = ("fp32", "fp16", "bf16")


def _check_choices(scheme: Any, **allowed: Any) -> None:
    """ValueError where a field holds none of its literals."""
    for what, choices in allowed.items():
        value = getattr(scheme, what)
        if value not in get_args(choices):
            known = ", ".join(get_args(choices))
            raise ValueError(f"scheme {scheme.name}: {what} {value!r} is not offered; choose one of {known}")


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """The range that the codes of a tile span; values beyond it are clipped.

    Fields
        method: absmax: all of it.  percentile: the nearest-rank percentile of the magnitudes.  mse: of ``candidates``
            equal steps from 0 to absmax the one with the smallest squared error.
        percentile: 0 < percentile <= 100, of "percentile".
        candidates: 2 to 1,024, of "mse".
    Errors: ValueError for anything else.
    """

    method: Method = "absmax"
    percentile: float = 99.9
    candidates: int = 64

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"clipping {self.method!r} is not offered; choose one of {', '.join(get_args(Method))}")
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile {self.percentile} is outside 0 < percentile <= 100; choose one inside")
        if not 2 <= self.candidates <= 1024:
            raise ValueError(f"{self.candidates} candidates are outside 2 to 1024; choose a number inside")


@dataclass(frozen=True, kw_only=True)
class QScheme:
    """How one array is quantized.

    Fields
        name: as ``parse_scheme`` reads it, or any other.
        bits: 2 to 8, of a code.
        source: format that the array is rounded to first.
        symmetric: codes are -c ... c and z = 0; else they are all of two's complement and 0 is one of the values.
        granularity: which elements share a scale: the ``tensor``; a ``row`` (last axis), a ``column`` (last but one),
            a ``vector`` along the contraction axis; a ``group`` of that many elements of it; a ``block`` of that many
            rows and columns.
        group: how many, of "group" and "block".
        bound: what the largest magnitude a of a tile is scaled to: 2^(bits-1) - 1, or 127.5 as some have it.
        lowest: the least code, -(2^(bits-1) - 1) where symmetric.
        clamps: whether codes stay within the bits; else they are int16.
        rounding: of x / s.  ``stochastic`` takes a key when quantizing.
        clipping: the range of a tile.
        arithmetic: format of every step between x and its code.
        scale_step: "reciprocal"  s = a RN(1 / bound);  "division"  s = a / bound;  "absmax"  s = a, and bound is left
            to who reads the scale.
        quotient: what is rounded: "bound"  x (bound / a);  "unit"  x ((1 / a) bound);  "approximate"  x times what
            a GPU's ``__fdividef(bound, a)`` gives;  "inverse"  x (1 / s);  "scale"  x / s.
        inverse_format: of 1 / s where that is wider than ``arithmetic``.
        scale_format: of s: fp32, fp16, bf16, or e8m0, rounded up to a power of two; "inverse" and "scale" see it.
            Beyond the largest value of the format s is that, and codes are clipped; where it rounds to 0, q = 0.
        tiny: tiles below the threshold: "zero": s = 0 and q = 0 where a < threshold;  "one": s = 1 where
            s < threshold;  "absmax_one": a = 1 where a < threshold;  "least_absmax": a is at least the threshold;
            "least_scale": s is.
        threshold: of ``tiny``.
    Domain: a up to bound x 2^126, affine ranges up to levels x 2^126, which is all of float32 from 4 bits on; beyond
    it the reciprocal is flushed and codes stand for zero.  "unit": a up to 2^126.
    Errors: ValueError for facts that contradict each other.  ``dataclasses.replace`` makes relatives.
    """

    name: str
    bits: int = 8
    source: str = "fp32"
    symmetric: bool = True
    granularity: Granularity = "vector"
    group: int | None = None
    bound: float | None = None
    lowest: int | None = None
    clamps: bool = True
    rounding: Mode = "nearest_even"
    clipping: Clipping = Clipping()
    arithmetic: str = "fp32"
    scale_step: ScaleStep = "reciprocal"
    quotient: Quotient = "bound"
    inverse_format: str | None = None
    scale_format: str = "fp32"
    tiny: Tiny = "zero"
    threshold: float = SMALLEST_ABSMAX

    def __post_init__(self) -> None:
        Rounding(mode=self.rounding)
        _check_choices(self, granularity=Granularity, scale_step=ScaleStep, quotient=Quotient, tiny=Tiny)
        if not 2 <= self.bits <= 8:
            raise ValueError(f"scheme {self.name}: codes of {self.bits} bits; 2 to 8 are offered")
        for wrong, because in self._contradictions():
            if wrong:
                raise ValueError(f"scheme {self.name}: {because}")

    def _contradictions(self) -> list[tuple[bool, str]]:
        grouped = self.granularity in ("group", "block")
        formats = [parse_format(name).name for name in (self.scale_format, self.arithmetic, self.source)]
        return [
            (grouped and not (isinstance(self.group, int) and self.group >= 1),
             f"group {self.group}; a whole number of elements, at least 1, shares a scale"),
            (not grouped and self.group is not None, f"{self.granularity} takes no group; leave out {self.group}"),
            (not -(1 << (self.bits - 1)) <= self.least < 0, f"lowest code {self.lowest} outside {self.bits} bits"),
            (not self.symmetric and (self.bound, self.lowest) != (None, None), "affine codes have no other bound"),
            (not self.symmetric and self.quotient != "bound", "affine codes are x (levels / range); leave quotient"),
            (not self.symmetric and self.scale_step != "reciprocal", "affine scales are ranges; leave scale_step"),
            (not self.symmetric and not self.clamps, "affine codes clamp; leave clamps"),
            (not self.symmetric and self.tiny != "zero", "affine tiles below the threshold are zero; leave tiny"),
            (not self.symmetric and self.clipping.method != "absmax", "clipping is for symmetric codes"),
            (self.clipping.method == "mse" and ((self.tiny, *formats[:2]) != ("zero", "fp32", "fp32")),
             "mse clipping is for float32 arithmetic and scales, and tiny 'zero'"),
            (self.clipping.method == "mse" and (self.scale_step == "absmax" or self.quotient == "approximate"),
             "mse clipping is for scales that divide by the bound"),
            (not 0 < self.span < 1 << self.bits, f"bound {self.bound} outside 0 < bound < {1 << self.bits}"),
            (formats[0] not in (*_FLOATS, "e8m0"), f"scales in {formats[0]}; choose fp32, fp16, bf16 or e8m0"),
            (formats[2] not in _FLOATS, f"a source in {formats[2]}; choose fp32, fp16 or bf16"),
            (formats[1] not in _FLOATS, f"arithmetic in {formats[1]}; choose fp32, fp16 or bf16"),
            (formats[0] != "fp32" and self.quotient not in ("inverse", "scale"),
             "rounded scales go with quotient 'inverse' or 'scale'"),
            (self.scale_step == "absmax" and (self.quotient in ("inverse", "scale") or formats[0] != "fp32"),
             "a scale that is the absmax goes with float32 and quotients 'bound', 'unit' and 'approximate'"),
            (self.quotient == "approximate" and (self.span, formats[2]) != (127, "fp16"),
             "approximate quotients are known of bound 127 and fp16 sources"),
            (self.tiny in ("one", "least_scale") and self.quotient not in ("inverse", "scale"),
             f"codes do not see a scale that tiny {self.tiny!r} puts in; take quotient 'inverse' or 'scale'"),
            (not 0 < self.threshold < 1, f"threshold {self.threshold} outside 0 < threshold < 1"),
        ]  # fmt: skip

    @property
    def largest(self) -> int:
        """The greatest code."""
        return (1 << (self.bits - 1)) - 1

    @property
    def least(self) -> int:
        """The least code."""
        if self.lowest is not None:
            return self.lowest
        return -self.largest if self.symmetric else -self.largest - 1

    @property
    def span(self) -> float:
        """What the largest magnitude is scaled to; of affine codes, the number of steps."""
        return float(self.largest if self.bound is None else self.bound) if self.symmetric else (1 << self.bits) - 1.0

    @property
    def code_dtype(self) -> np.dtype:
        return np.dtype(np.int8 if self.clamps else np.int16)

    @property
    def takes(self) -> Format:
        return parse_format(self.source)

    @property
    def stored_scale(self) -> Format:
        return parse_format(self.scale_format)

    @property
    def computes_in(self) -> Format:
        return parse_format(self.arithmetic)

    def tiles(self, ndim: int, axis: int) -> Tiles:
        """Edges of a tile of an array of so many axes, contracted along ``axis`` (negative).

        Errors: ValueError where the array has too few axes.
        """
        needed = {"column": 2, "block": 2}.get(self.granularity, 1)
        if ndim < needed:
            raise ValueError(f"scheme {self.name} needs {needed} axes or more, and the array has {ndim}")
        if self.granularity == "tensor":
            return (None,) * ndim
        edges: list[int | None] = [1] * ndim
        if self.granularity == "block":
            edges[-2:] = [self.group, self.group]
        else:
            place = {"row": -1, "column": -2}.get(self.granularity, axis)
            edges[place] = self.group
        return tuple(edges)

    def __str__(self) -> str:
        return self.name


VECTOR = QScheme(name="int8_vector")  # INT8, one scale for each vector along the contraction axis


@dataclass(frozen=True, kw_only=True)
class MatmulScheme:
    """How a product y = x w is quantized.

    Fields
        name: as ``parse_scheme`` reads it, or any other.
        x, w: how each operand is, a ``QScheme`` or a block format; None: it stays a float of the format ``working``.
        integer: whether codes are multiplied and summed in INT32; else dequantized operands are, in ``working``.
        working: format of operands that stay, and of dequantized ones.
        accumulator: how products of these are summed.
        threshold: columns of x that hold a magnitude of at least this are left out of the integer product and, with
            their rows of w, multiplied in ``working``; None: none is.
        absmax_of: with a threshold: "columns": a row's absmax is over the columns that stay;  "values": over its
            values below the threshold, whichever columns they stand in.
        outlier_weights: their rows of w: "original", or "dequantized" ones.
        dequantization: of an integer sum, in float32: "scales"  (sum s_x) s_w;  "bnb_cpu"  (sum (s_x s_w)) c, with
            scales that are absmax;  "bnb_cuda"  fma((sum s_x) s_w, c, bias).
        converted, partial: formats of the sum, and of sum s_x, where these are rounded to narrower ones.
        description: one line, for tables.
        evidence: "definition"; "package": held bit for bit against the package; "recorded" from silicon; "source": as
            its source reads; "nominal": in part a guess.
    Errors: ValueError for facts that contradict each other.
    """

    name: str
    x: QScheme | BlockFormat | None
    w: QScheme | BlockFormat | None
    integer: bool = True
    working: str = "fp16"
    accumulator: str = "fp32_sequential"
    threshold: float | None = None
    absmax_of: AbsmaxOf = "columns"
    outlier_weights: OutlierWeights = "original"
    dequantization: Dequantization = "scales"
    converted: str = "fp32"
    partial: str = "fp32"
    description: str = ""
    evidence: Literal["definition", "package", "recorded", "source", "nominal"] = "definition"

    def __post_init__(self) -> None:
        _check_choices(self, absmax_of=AbsmaxOf, outlier_weights=OutlierWeights, dequantization=Dequantization)
        codes = [one for one in (self.x, self.w) if isinstance(one, QScheme)]
        for name in (self.working, self.converted, self.partial):
            parse_format(name)
        for wrong, because in (
            (self.x is None and self.w is None, "quantizes neither operand; use matmul"),
            (self.integer and len(codes) < 2, "an integer product takes a QScheme for x and for w"),
            (not (self.threshold is None or self.threshold > 0), f"threshold {self.threshold}; outliers are above 0"),
            (self.threshold is not None and not self.integer, "a threshold goes with an integer product"),
            (self.integer and not all(one.clamps for one in codes), "an integer product takes codes that clamp"),
            (self.integer and not all(map(self.reads, codes)),
             "dequantization 'scales' is for scales, 'bnb_cpu' and 'bnb_cuda' for absmax with bound 127"),
        ):  # fmt: skip
            if wrong:
                raise ValueError(f"scheme {self.name}: {because}")

    def reads(self, scheme: QScheme) -> bool:
        """Whether ``dequantization`` takes the codes and scales of that scheme for what they are."""
        if not scheme.clamps:
            return False
        if self.dequantization == "scales":
            return scheme.scale_step != "absmax"
        return scheme.scale_step == "absmax" and scheme.span == 127

    def operand(self, axis: int) -> QScheme | BlockFormat:
        """The scheme of x (``axis`` -1) or of w (any other).  ValueError where that operand is not quantized.

        An array stored the other way round, such as keys (..., tokens, width), takes the record itself:
        ``quantize(keys, SCHEMES["int8_kv"].w, axis=-1)``.
        """
        found = self.x if axis == -1 else self.w
        if found is None:
            stays, other, along = ("x", "w", -2) if axis == -1 else ("w", "x", -1)
            raise ValueError(f"scheme {self.name} leaves {stays} as it is; quantize {other}, along axis {along}")
        return found

    def __str__(self) -> str:
        return self.name
