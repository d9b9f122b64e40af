"""From tiles to codes: the range of each tile, its scale, and every element in units of it.

Written once over a back end; each step is one float32 operation that flushes subnormals, rounded once more where the
scheme's ``arithmetic`` is narrower.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from precision.formats import E8M0, FP32, INT8, Format, parse_format
from precision.quantization.approximate_division import approximate_quotient
from precision.quantization.scheme import QScheme
from precision.random_bits import Stream
from precision.rounding_modes import Rounding

_WHOLE = replace(INT8, name="int10", significand_bits=9)  # -512 ... 511: affine codes before their zero point
_NEAREST = Rounding(overflow="saturate")
_UPWARDS = Rounding(mode="up", overflow="saturate")


class Limits(NamedTuple):
    """The range of each tile, (tiles, 1); symmetric schemes read ``high`` alone, its absmax."""

    low: Any
    high: Any


class Scaled(NamedTuple):
    """Elements in units of their scale, not yet rounded; scales; zero points as float32, or None."""

    values: Any
    scale: Any
    zero_point: Any


@dataclass(frozen=True)
class Arithmetic:
    """Multiplication and division in a format of at most float32."""

    module: Any
    fmt: Format

    def rounded(self, x: Any) -> Any:
        return x if self.fmt == FP32 else self.module.round_to(x, self.fmt)

    def multiply(self, x: Any, y: Any) -> Any:
        return self.rounded(self.module.multiply(x, y))

    def divide(self, x: Any, y: Any) -> Any:
        """x / y of arrays that broadcast; spread before they meet, so that no compiler takes a reciprocal."""
        xp = self.module.array_module
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        return self.rounded(self.module.divide(*(xp.broadcast_to(xp.asarray(v, np.float32), shape) for v in (x, y))))


def scaled(module: Any, rows: Any, limits: Limits, scheme: QScheme) -> Scaled:
    """Rows (tiles, elements) in units of their scales."""
    return (_symmetric if scheme.symmetric else _affine)(module, rows, limits, scheme)


def _symmetric(module: Any, rows: Any, limits: Limits, scheme: QScheme) -> Scaled:
    where = module.array_module.where
    steps = Arithmetic(module, scheme.computes_in)
    finite = limits.high < np.float32(np.inf)
    none = limits.high < np.float32(scheme.threshold if scheme.tiny == "zero" else 0)
    largest = _at_least(module, limits.high, scheme)
    scale = _scale(steps, largest, scheme)
    none = none | ~(scale > 0) & finite
    unusable = none | ~finite
    values = _quotient(
        steps, rows, where(unusable, np.float32(1), largest), where(unusable, np.float32(1), scale), scheme
    )
    values = where(none, np.float32(0), where(finite, values, np.float32(np.nan)))
    return Scaled(values, where(none, np.float32(0), where(finite, scale, np.float32(np.nan))), None)


def _at_least(module: Any, largest: Any, scheme: QScheme) -> Any:
    """The absmax that the scale is made of."""
    if scheme.tiny not in ("absmax_one", "least_absmax"):
        return largest
    floor = np.array([1 if scheme.tiny == "absmax_one" else scheme.threshold], np.float32)
    floor = module.round_to(module.asarray(floor), scheme.computes_in)[0]
    return module.array_module.where(largest < np.float32(scheme.threshold), floor, largest)


def _scale(steps: Arithmetic, largest: Any, scheme: QScheme) -> Any:
    """The scale of that absmax, a value of the scheme's ``stored_scale``."""
    module, fmt, threshold = steps.module, scheme.stored_scale, np.float32(scheme.threshold)
    if scheme.scale_step == "absmax":
        return largest
    if scheme.scale_step == "division":
        scale = steps.divide(largest, np.float32(scheme.span))
    else:
        scale = steps.multiply(largest, steps.rounded(np.asarray([1 / scheme.span], np.float32)))
    if fmt != FP32:
        scale = module.round_to(scale, fmt, _UPWARDS if fmt == E8M0 else _NEAREST)
    if scheme.tiny in ("least_scale", "one"):
        floor = threshold if scheme.tiny == "least_scale" else np.float32(1)
        scale = module.array_module.where(scale < threshold, floor, scale)
    return scale


def _quotient(steps: Arithmetic, rows: Any, largest: Any, scale: Any, scheme: QScheme) -> Any:
    """The elements in units of the scale, as the scheme takes them."""
    span = np.float32(scheme.span)
    inner = steps if scheme.inverse_format is None else Arithmetic(steps.module, parse_format(scheme.inverse_format))
    if scheme.quotient == "scale":
        return steps.divide(rows, scale)
    if scheme.quotient == "bound":
        return steps.multiply(rows, inner.divide(span, largest))
    if scheme.quotient == "unit":
        return steps.multiply(rows, inner.multiply(inner.divide(np.float32(1), largest), span))
    if scheme.quotient == "approximate":
        return steps.multiply(rows, approximate_quotient(steps.module, largest))
    inverse = inner.divide(np.float32(1), scale)
    infinite = inverse == np.float32(np.inf)  # a subnormal scale in fp16: AQT takes 1 for its inverse
    return steps.multiply(rows, steps.module.array_module.where(infinite, np.float32(1), inverse))


def _affine(module: Any, rows: Any, limits: Limits, scheme: QScheme) -> Scaled:
    """s = (high - low) RN(1 / levels),  z = least + round(-low (levels / (high - low))).

    From halves of low and high, whose difference does not overflow.  Tiles without a scale have z = 0.
    """
    where = module.array_module.where
    steps, half, infinity = Arithmetic(module, scheme.computes_in), np.float32(0.5), np.float32(np.inf)
    low, high = (steps.multiply(end, half) for end in limits)
    width = steps.rounded(module.subtract(high, low))
    finite, none = width < infinity, width < np.float32(scheme.threshold)
    scale = steps.multiply(width, steps.rounded(np.asarray([2 / scheme.span], np.float32)))
    usable = finite & ~none
    inverse = steps.divide(np.float32(scheme.span / 2), where(usable, width, np.float32(1)))
    zero = steps.multiply(where(usable, -limits.low, np.float32(0)), inverse)
    zero = where(usable, module.round_to(zero, _WHOLE, _NEAREST) + np.float32(scheme.least), np.float32(0))
    values = steps.multiply(where(usable, rows, np.float32(0)), inverse)
    return Scaled(values, where(none, np.float32(0), where(finite, scale, np.float32(np.nan))), zero)


def codes(module: Any, values: Any, zero_point: Any, scheme: QScheme, random: Stream | None) -> Any:
    """clamp(round(values) + zero_point), of the scheme's ``code_dtype``; 0 for NaN."""
    how = Rounding(mode=scheme.rounding, overflow="saturate")
    if not scheme.clamps:
        whole = module.round_to(values, _WHOLE, how, random)
        return module.array_module.where(whole == whole, whole, np.float32(0)).astype(np.int16)
    if zero_point is None:
        return module.encode(_clamped(module, values, scheme), INT8, how, random)
    whole = module.round_to(values, _WHOLE, how, random) + zero_point
    return module.encode(_clamped(module, whole, scheme), INT8)


def clamped(module: Any, values: Any, zero_point: Any, scheme: QScheme) -> Any:
    """Where the nearest whole number, zero point added, is no code of the scheme and is clamped; not at NaN."""
    whole = module.round_to(values, _WHOLE, _NEAREST)
    if zero_point is not None:
        whole = whole + zero_point
    return ((whole < np.float32(scheme.least)) | (whole > np.float32(scheme.largest))) & scheme.clamps


def _clamped(module: Any, values: Any, scheme: QScheme) -> Any:
    """Within the codes; NaN stays."""
    where = module.array_module.where
    least, largest = np.float32(scheme.least), np.float32(scheme.largest)
    return where(values < least, least, where(values > largest, largest, values))
