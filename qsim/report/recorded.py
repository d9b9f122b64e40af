"""A run folder read back: everything a report may know about a run, and nothing it would have to compute.

Files that a run may not have written yet (statistics, hashes, quantization, the last line of a log that was
cut short) are allowed to be missing; a file that is there and says nothing sensible is an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qsim import strict_json
from qsim.report.json_files import ReportError, as_mapping, read_object, read_rows
from qsim.report.sampled import KINDS, Sampled, Site, parse_site, read_sampled
from qsim.report.updates import Swallowed, WhatIf

__all__ = ["HASHED", "KINDS", "ReportError", "Run", "Site", "parse_site", "read_run"]

HASHED = ("loss", "gradients", "parameters", "optimizer")
SHADOW = "shadow"  # ``mode`` of a replay whose every step starts from the recorded weights


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder."""

    folder: Path
    label: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    data: Mapping[str, Any]
    rows: Mapping[int, Mapping[str, Any]]  # step -> everything metrics.jsonl says about it
    hashes: Mapping[int, Mapping[str, str]]
    statistics: Sampled
    quantization: Mapping[str, Any] | None

    @property
    def sampled(self) -> tuple[int, ...]:
        """Steps with statistics."""
        return self.statistics.steps

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.statistics.sites

    @property
    def swallowed(self) -> tuple[Swallowed, ...]:
        return self.statistics.swallowed

    @property
    def what_if(self) -> WhatIf | None:
        return self.statistics.what_if

    @property
    def is_shadow(self) -> bool:
        return self.config.get("mode") == SHADOW

    @cached_property
    def losses(self) -> dict[int, float]:
        return self.column("loss")

    @cached_property
    def held_out(self) -> dict[int, float]:
        return self.column("validation_loss")

    @cached_property
    def scales(self) -> dict[int, float]:
        return self.column("loss_scale")

    def column(self, name: str) -> dict[int, float]:
        """A number of metrics.jsonl by step, where it is recorded; JSON's null is no record."""
        found = {step: row.get(name) for step, row in self.rows.items()}
        return {step: float(value) for step, value in found.items() if isinstance(value, int | float)}

    @cached_property
    def skipped(self) -> list[int]:
        return [step for step, row in self.rows.items() if row.get("skipped")]

    @cached_property
    def not_finite(self) -> list[int]:
        return [step for step, loss in self.losses.items() if not math.isfinite(loss)]

    @property
    def policy(self) -> Mapping[str, Any]:
        return as_mapping(self.config.get("policy"))

    @cached_property
    def order(self) -> dict[str, int]:
        """Places of the sites in the order of computing, as far as the policy lists them."""
        names = [str(row.get("site")) for row in self.policy.get("sites") or [] if isinstance(row, Mapping)]
        return {name: place for place, name in enumerate(dict.fromkeys(names))}

    @property
    def planned(self) -> int | None:
        steps = as_mapping(self.config.get("training")).get("steps", self.config.get("steps"))
        return steps if isinstance(steps, int) else None

    @property
    def last_step(self) -> int:
        return max(self.losses, default=0)

    @property
    def interrupted(self) -> bool:
        return self.planned is not None and self.last_step < self.planned

    @property
    def scaled_dynamically(self) -> bool:
        declared = "dynamic" in map(str, as_mapping(self.policy.get("loss_scaling")).values())
        return len(set(self.scales.values())) > 1 or (declared and bool(self.scales))

    def total(self, counter: str, kinds: Iterable[str] | None = None) -> int:
        """Sum of one counter over all sites, or over those of the given kinds."""
        wanted = None if kinds is None else set(kinds)
        return sum(site.counts[counter] for site in self.sites if wanted is None or site.kind in wanted)

    def exponents(self, kind: str) -> Counter[int]:
        """Histogram of floor(log2 |x|) over all sites of a kind, without empty bins."""
        total: Counter[int] = Counter()
        for site in self.sites:
            if site.kind == kind:
                total.update(site.exponents)
        return +total


def read_run(folder: Path) -> Run:
    """Read a run folder; ReportError where it is none or where a file in it is damaged."""
    if not (folder / "config.json").is_file():
        raise ReportError(
            f"{folder} has no config.json, so it is no run folder; name the folder that "
            "`qsim train` or `qsim replay` wrote"
        )
    config = read_object(folder / "config.json")
    return Run(
        folder=folder,
        label=_label(config, folder),
        config=config,
        environment=read_object(folder / "environment.json"),
        data=read_object(folder / "data.json"),
        rows=read_rows(folder / "metrics.jsonl"),
        hashes=read_rows(folder / "hashes.jsonl"),
        statistics=read_sampled(folder / "statistics"),
        quantization=read_object(folder / "quantization.json", strict_json.loads) or None,
    )


def _label(config: Mapping[str, Any], folder: Path) -> str:
    name = str(as_mapping(config.get("policy")).get("name") or folder.name)
    return f"{name} {SHADOW}" if config.get("mode") == SHADOW else name
