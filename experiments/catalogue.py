"""The experiments by name, the paper's main claims first: rows are made in this order."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from experiments.experiment import Experiment
from experiments.standalone import Standalone
from qsim.config import ConfigError

TRAINED = (
    "half_precision",
    "weight_decay",
    "int4",
    "gradient_clipping",
    "dropout",
    "underflow",
    "positions",
    "layernorm_precision",
    "early_checkpoints",
    "scale",
    "learning_rate_decay",
    "formats",
    "finetune",
    "fp16_on_tpu",
    "accumulators",
)
STANDALONE = ("half_precision_evidence", "frozen_gains", "fp16_attribution")  # with tables of their own
NAMES = (*TRAINED, *STANDALONE)


def experiments_named(names: Sequence[str]) -> list[Experiment | Standalone]:
    """Those of these names, each once; ``all`` stands for every one.  ConfigError for an unknown name."""
    wanted = NAMES if "all" in names else tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in NAMES:
            raise ConfigError(f"unknown experiment {name!r}; known: {', '.join(NAMES)}, all, list")
    return [import_module(f"experiments.{name}").EXPERIMENT for name in wanted]
