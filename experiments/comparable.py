"""Parts of an experiment's results, judged by themselves: what cannot be compared leaves the rest to be told of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from experiments.judging import unfit
from experiments.results import Results


def part(results: Results, labels: Sequence[str]) -> Results:
    """The results of these variants; a control that is not among them is compared with no more."""
    variants = [
        variant if variant.control in labels else dataclasses.replace(variant, control=None)
        for variant in results.variants
        if variant.label in labels
    ]
    return Results(variants=variants, rows={label: results.rows[label] for label in labels})


def comparable(results: Results, label: str, apart: bool = False) -> bool:
    """Whether a variant learned, and ended close to its control unless it may lie ``apart``."""
    control = results.variant(label).control
    pair = [label] if control is None else [control, label]
    return not unfit(part(results, pair), except_for=[label] if apart else [])
