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
) -> Results:
    """Results in which a variant's loss ``pre`` (3 unless given) rises by so many percent, with noise by sequence."""
    variants, draw = experiment.at(SMALL), np.random.default_rng(0)
    rows: dict[str, list[dict[str, Any]]] = {}
    for variant in variants:
        label = variant.label
        base = (pre or {}).get(label, 3.0)
        rows[label] = [
            _row(base, degradations.get(label, 0.0), noise, draw, (training or {}).get(label, {}))
            for _ in range(seeds)
        ]
        for row in rows[label]:
            row["config"] = as_json(variant.training(SMALL, 0).config)
    return Results(variants=variants, rows=rows)


def _row(
    base: float, percent: float, noise: float, draw: np.random.Generator, training: Mapping[str, Any]
) -> dict[str, Any]:
    def checkpoint() -> dict[str, Any]:
        before = base + 0.01 * np.arange(ITEMS) - 0.005 * (ITEMS - 1)
        after = {name: before * (1 + percent / 100) + noise * draw.normal(size=ITEMS) for name in SCHEMES}
        layers = [
            {"layer": 0, "site": site, "rmse": 0.1, "std": 1.0, "std_gain": 0.01, "spectral_norm": 2.0}
            for site in ("qkv", "mlp_up")
        ]
        return {"losses": {PRE: list(before)} | {k: list(v) for k, v in after.items()}, "layers": layers}

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
    }
