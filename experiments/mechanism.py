"""What of a model's analysis a row keeps: figures by block and site, distributions, outlier dimensions, rounded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qsim.analysis import READINGS, Analysis, analyze
from qsim.analysis.histograms import HistogramRow
from qsim.importing import Model
from qsim.policy import Arithmetic

THRESHOLDS = (6.0, 4.5, 3.0)
TOKENS = 2048
BINS = 67  # of a weight's histogram, a third of the analysis's
_INPUT = ("rmse", "sqnr_db", "token_std", "kurtosis", "token_kurtosis", "channel_kurtosis", "infinity_norm")
_WEIGHT = ("spectral_norm", "std", "kurtosis", "infinity_norm", "sqnr_db")
_EARLY = ("layer", "site", "rmse", "sqnr_db", "std", "std_gain", "spectral_norm", "kurtosis", "largest")
NAMES = {"token_std": "std", "infinity_norm": "largest", "gain_std": "std_gain"}  # as rows call them


def analyzed(model: Model, policy: Arithmetic, tokens: np.ndarray) -> Analysis:
    """Of the first 2,048 of tokens (S, T); on Numba, for JAX's values are not heard."""
    some = tokens[: max(1, TOKENS // tokens.shape[1])]
    return analyze(model, some, policy=policy, executor="numba", thresholds=THRESHOLDS)


def layers(found: Analysis, early: bool) -> list[dict[str, Any]]:
    """A record a block and site: of what enters it, of the gain before, of its weight.

    Of early checkpoints fewer figures, of the two sites behind a norm.
    """
    weights = {(row.layer, row.tensor): row for row in found.weights}
    records = []
    for row in found.inputs:
        weight = weights[row.layer, f"{row.site}.weight"]
        record: dict[str, Any] = {"layer": row.layer, "site": row.site}
        record |= {NAMES.get(name, name): figure(getattr(row, name)) for name in _INPUT}
        if row.gain_std is not None:
            record["std_gain"] = figure(row.gain_std)
        record |= {(n if n == "spectral_norm" else f"weight_{n}"): figure(getattr(weight, n)) for n in _WEIGHT}
        records.append(record)
    if not early:
        return records
    return [{name: record[name] for name in _EARLY} for record in records if "std_gain" in record]


def whole(found: Analysis) -> dict[str, Any]:
    """What is kept of the last checkpoint alone.

    outliers: dimensions by threshold, a number a reading in the order of ``READINGS``.  massive: how many activations
    are.  outputs: largest and median magnitude of what each block gives out.  gains, weights: histograms.
    """
    outliers = {
        f"{threshold:g}": [figure(row.count) for row in found.outliers if row.threshold == threshold]
        for threshold in THRESHOLDS
    }
    gains = [row for row in found.histograms if row.tensor.endswith(".gain")]
    return {
        "readings": [reading.name for reading in READINGS],
        "outliers": outliers,
        "massive": len(found.massive),
        "outputs": [[figure(row.infinity_norm), figure(row.median)] for row in found.outputs],
        "gains": [_histogram(row, len(row.counts)) for row in gains],
        "gain_facts": [
            {"layer": row.layer, "norm": row.norm, "std": figure(row.std), "mean": figure(row.mean), "ones": row.ones}
            for row in found.gains
        ],
        "weights": [_histogram(row, BINS) for row in found.histograms if row not in gains],
    }


def _histogram(row: HistogramRow, bins: int) -> dict[str, Any]:
    counts = np.array(row.counts).reshape(bins, -1).sum(axis=1)
    facts = {"layer": row.layer, "tensor": row.tensor, "low": figure(row.low), "high": figure(row.high)}
    return facts | {"counts": counts.tolist()}


def figure(value: Any, digits: int = 5) -> float:
    """Of so many significant digits."""
    return float(f"{float(value):.{digits}g}") if math.isfinite(value) else float(value)
