"""Models beside the first of them: ratios of means over blocks, and in how many blocks one exceeds the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qsim.analysis.results import PAPER_NAMES, Analysis

_OF_INPUTS = ("rmse", "sqnr_db", "token_std", "kurtosis", "token_kurtosis", "channel_kurtosis", "infinity_norm")
_OF_WEIGHTS = ("spectral_norm", "std", "kurtosis")
_BLOCK_NORMS = ("layernorm_1", "layernorm_2")


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """A figure of a model beside that of the reference, means over blocks.

    ratio: mean / reference_mean, NaN over zero.  exceeds: in how many of ``layers`` blocks, of the same number, the
    model's is the larger one;  None for models of different depths.
    """

    place: str
    paper: str | None
    metric: str
    model: str
    reference: str
    mean: float
    reference_mean: float
    ratio: float
    exceeds: int | None
    layers: int | None


def compare(analyses: Sequence[Analysis]) -> list[ComparisonRow]:
    """Every model after the first, beside that, in every figure that both have by block."""
    if not analyses:
        return []
    reference, *others = [(one.model, dict(_curves(one))) for one in analyses]
    return [
        _row(key, name, curves[key], reference[0], expected)
        for key, expected in reference[1].items()
        for name, curves in others
        if key in curves
    ]


def _curves(one: Analysis) -> Iterator[tuple[tuple[str, str], list[float]]]:
    """Values by block of each (place, metric)."""
    for site in dict.fromkeys(row.site for row in one.inputs):
        for metric in _OF_INPUTS:
            yield (f"{site}.input", metric), [getattr(row, metric) for row in one.inputs_of(site)]
    for norm in _BLOCK_NORMS:
        yield (f"{norm}.gain", "std"), [row.std for row in one.gains_of(norm)]
    for tensor in dict.fromkeys(row.tensor for row in one.weights):
        for metric in _OF_WEIGHTS:
            yield (tensor, metric), [getattr(row, metric) for row in one.weights_of(tensor)]


def _row(
    key: tuple[str, str], model: str, values: list[float], reference: str, expected: list[float]
) -> ComparisonRow:
    place, metric = key
    mean, of_reference = (sum(curve) / len(curve) for curve in (values, expected))
    alike = len(values) == len(expected)
    return ComparisonRow(
        place=place,
        paper=PAPER_NAMES.get(place.split(".")[0]),
        metric=metric,
        model=model,
        reference=reference,
        mean=mean,
        reference_mean=of_reference,
        ratio=mean / of_reference if of_reference else math.nan,
        exceeds=sum(a > b for a, b in zip(values, expected, strict=True)) if alike else None,
        layers=len(values) if alike else None,
    )
