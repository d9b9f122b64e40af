"""A variant of an experiment, and the training that it is once a scale and a seed are known."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qsim.config import RunConfig, as_json, override_all
from qsim.policy import Arithmetic, parse_policy

if TYPE_CHECKING:
    from experiments.scales import Scale

MEASUREMENT = 2  # raised with what ``experiments.measuring`` writes, so that rows of another kind are never mixed

_SINCE = {"position_scale": 1.0}  # keys of a model that rows did not always have, and what was then the only way


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What one line of a figure was trained with.

    changes: (dotted key, value) on the scale's configuration.  policy: by name, or itself where it has none.
    control: label of the variant that it is compared with; None for one that is compared with nothing.
    start: the variant whose last weights it starts from, of the same seed; drawn from the seed without one.
    """

    label: str
    changes: tuple[tuple[str, Any], ...] = ()
    policy: str | Arithmetic = "bf16"
    control: str | None = None
    start: Variant | None = None

    def training(self, scale: Scale, seed: int) -> Training:
        """This variant at a scale, from one seed.  ConfigError for changes that do not fit the scale."""
        config = override_all(scale.config, (*self.changes, ("seed", seed)))
        return Training(
            label=self.label,
            config=config,
            policy=scale.arithmetic(parse_policy(self.policy)),
            executor=scale.executor,
            measured=scale.measured,
            sequences=scale.sequences,
            start=None if self.start is None else self.start.training(scale, seed),
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """One row to be made: a run, and what is measured of it.

    measured: steps whose checkpoints are measured, the last one among them.  sequences: held-out sequences.
    start: the training whose last weights it starts from.
    """

    label: str
    config: RunConfig
    policy: Arithmetic
    executor: str
    measured: tuple[int, ...]
    sequences: int
    start: Training | None = None

    @cached_property
    def policy_sha256(self) -> str:
        """Of what the policy computes, whatever it is called."""
        return dataclasses.replace(self.policy, name="").sha256

    def key(self, data_sha256: str) -> str:
        """SHA-256 of all that a row depends on: equal trainings are one row, whichever experiments want them.

        Left out: the preset's name, how often what is recorded, and, where the policy promises bits, the executor.
        """
        config = {k: v for k, v in as_json(self.config).items() if k not in ("preset", "record")}
        config["model"] = {k: v for k, v in config["model"].items() if k not in _SINCE or v != _SINCE[k]}
        facts: dict[str, Any] = {
            "config": config,
            "policy": self.policy_sha256,
            "data": data_sha256,
            "executor": None if self.policy.promises_bits else self.executor,
            "measured": [MEASUREMENT, self.measured, self.sequences],
        }
        if self.start is not None:
            facts["start"] = self.start.key(data_sha256)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
