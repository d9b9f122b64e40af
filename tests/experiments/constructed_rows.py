"""Rows of invented losses, so that every verdict can be had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.experiment import Experiment
from experiments.quantizing import PRE, SCHEMES
from experiments.results import Results
from experiments.scales import SCALES
from qsim.config import as_json

METRICS = ("rmse", "std", "std_gain", "spectral_norm", "weight_std", "weight_kurtosis", "weight_infinity_norm")
ITEMS, STEPS, ENTROPY = 16, (10, 20), 5.0
SMALL = SCALES["small"]


def constructed(
    experiment: Experiment,
    degradations: Mapping[str, float],
    *,
    pre: Mapping[str, float] | None = None,
    noise: float = 0.001,
    seeds: int = 3,
    training: Mapping[str, Mapping[str, Any]] | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    outliers: Mapping[str, int] | None = None,
    schemes: Mapping[str, float] | None = None,
) -> Results:
    """Results in which a variant's loss ``pre`` (3 unless given) rises by so many percent, with noise by sequence.

    metrics: of a variant, 0.1 unless given.  outliers: dimensions at threshold 3.  schemes: percent that one adds.
    """
    variants, draw = experiment.at(SMALL), np.random.default_rng(0)
    rows: dict[str, list[dict[str, Any]]] = {}
    for variant in variants:
        label = variant.label
        base = (pre or {}).get(label, 3.0)
        rows[label] = [
            _row(
                base,
                degradations.get(label, 0.0),
                noise,
                draw,
                (training or {}).get(label, {}),
                (metrics or {}).get(label),
                (outliers or {}).get(label, 0),
                schemes,
            )
            for _ in range(seeds)
        ]
        for row in rows[label]:
            row["config"] = as_json(variant.training(SMALL, 0).config)
    return Results(variants=variants, rows=rows)


def _row(
    base: float,
    percent: float,
    noise: float,
    draw: np.random.Generator,
    training: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    outliers: int = 0,
    schemes: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    def checkpoint() -> dict[str, Any]:
        before = base + 0.01 * np.arange(ITEMS) - 0.005 * (ITEMS - 1)
        after = {
            name: before * (1 + (percent + (schemes or {}).get(name, 0.0)) / 100) + noise * draw.normal(size=ITEMS)
            for name in SCHEMES
        }
        layers = [
            {"layer": 0, "site": site} | dict.fromkeys(METRICS, 0.1) | dict(metrics or {})
            for site in ("qkv", "mlp_up")
        ]
        more: dict[str, Any] = {"readings": ["one", "within/input/at_least/pooled"], "tasks": {}}
        more["outliers"] = {key: [0, outliers if key == "3" else 0] for key in ("6", "4.5", "3")}
        more["weights"] = [{"layer": 0, "tensor": "qkv.weight", "low": -1, "high": 1, "counts": [1, 2, 1]}]
        more["gains"] = [{"layer": 0, "tensor": "layernorm_1.gain", "low": 0, "high": 1, "counts": [1, 2]}]
        return {"losses": {PRE: list(before)} | {k: list(v) for k, v in after.items()}, "layers": layers} | more

    counted = {
        "gradients_underflowed": 0,
        "gradients_nonzero": 1000,
        "skipped_steps": 0,
        "events": {},
        "losses": {"10": 4.0},
    }
    return {
        "unigram_entropy": ENTROPY,
        "checkpoints": {str(step): checkpoint() for step in STEPS},
        "training": counted | dict(training),
        "seconds": 1.0,
        "asked": {},
    }
