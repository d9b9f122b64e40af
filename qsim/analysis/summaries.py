"""Short tables out of an analysis: what the terminal and the page show of the many rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qsim.analysis.results import PAPER_NAMES, Analysis

_SHOWN = ("fp32", "fp16", "bf16", "e5m2", "e4m3fn", "e4m3", "e3m4", "e2m3", "e2m1")


@dataclass(frozen=True, kw_only=True)
class SiteRow:
    """Means over blocks of what enters one site and of the weight there; the largest infinity norm of any block."""

    model: str
    site: str
    paper: str | None
    rmse: float
    sqnr_db: float
    token_std: float
    gain_std: float | None
    spectral_norm: float
    residual: float
    kurtosis: float
    token_kurtosis: float
    channel_kurtosis: float
    infinity_norm: float


def overview(one: Analysis) -> Iterator[SiteRow]:
    """A row a site.  residual: the largest of the spectral norms."""
    for site in dict.fromkeys(row.site for row in one.inputs):
        inputs, weights = one.inputs_of(site), one.weights_of(f"{site}.weight")
        gains = [row.gain_std for row in inputs if row.gain_std is not None]
        means = {
            name: sum(getattr(row, name) for row in inputs) / len(inputs)
            for name in ("rmse", "sqnr_db", "token_std", "kurtosis", "token_kurtosis", "channel_kurtosis")
        }
        yield SiteRow(
            model=one.model,
            site=site,
            paper=PAPER_NAMES.get(site),
            gain_std=sum(gains) / len(gains) if gains else None,
            spectral_norm=sum(row.spectral_norm for row in weights) / len(weights),
            residual=max(row.residual for row in weights),
            infinity_norm=max(row.infinity_norm for row in inputs),
            **means,
        )


@dataclass(frozen=True, kw_only=True)
class FormatTotal:
    """Everything of a kind that a format would lose, over all places of a model."""

    model: str
    kind: str
    format: str
    finite: int
    underflowed: int
    flushed: int
    overflowed: int


def by_format(one: Analysis, formats: Sequence[str] = _SHOWN) -> Iterator[FormatTotal]:
    """Sums over places, of weights and of activations."""
    for kind in ("weights", "activations"):
        for name in formats:
            rows = [row for row in one.losses if (row.kind, row.format) == (kind, name)]
            if rows:
                yield FormatTotal(
                    model=one.model,
                    kind=kind,
                    format=name,
                    finite=sum(row.finite for row in rows),
                    underflowed=sum(row.underflowed for row in rows),
                    flushed=sum(row.flushed for row in rows),
                    overflowed=sum(row.overflowed for row in rows),
                )


def outlier_table(analyses: Sequence[Analysis]) -> list[dict[str, Any]]:
    """A row a reading, a column for each model (named where there are several) and threshold: how many dimensions."""
    columns = {
        (f"{one.model} " if len(analyses) > 1 else "") + f"|x| {threshold:g}": {
            row.reading: row.count for row in one.outliers if row.threshold == threshold
        }
        for one in analyses
        for threshold in dict.fromkeys(row.threshold for row in one.outliers)
    }
    readings = dict.fromkeys(row.reading for one in analyses for row in one.outliers)
    return [
        {"reading": reading} | {name: found.get(reading) for name, found in columns.items()} for reading in readings
    ]
