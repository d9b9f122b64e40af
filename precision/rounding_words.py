"""Roundings as kernels of whole layers are told them: a way and the thresholds that it takes, as integers."""

from __future__ import annotations

from precision.format import Format
from precision.formats import FP32
from precision.nearest import plan
from precision.rounding_modes import NEAREST_EVEN, Rounding

AS_IT_IS, FLOAT32, BY_ADDITION, SAME_RANGE = range(4)  # nothing, NaN made canonical, both ways of ``nearest``
WORDS = 7  # the way and its thresholds
NOT_ROUNDED = (AS_IT_IS, *(0,) * (WORDS - 1))


def rounding_words(rounding: Rounding, fmt: Format) -> tuple[int, ...] | None:
    """The words of a rounding; None where there is no short way to it."""
    if fmt == FP32 and rounding == NEAREST_EVEN:
        return (FLOAT32, *(0,) * (WORDS - 1))
    short = plan(rounding, fmt)
    return None if short is None else (BY_ADDITION if short.by_addition else SAME_RANGE, *map(int, short.thresholds))
