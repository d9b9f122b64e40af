"""A run folder read back: everything a report may know about a run, and nothing it would have to compute.

Files that a run may not have written yet (statistics, hashes, quantization, the last line of a log that was
cut short) are allowed to be missing; a file that is there and says nothing sensible is an error.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qsim import strict_json
from qsim.report.updates import Swallowed, WhatIf, read_swallowed, read_what_if

__all__ = ["HASHED", "KINDS", "ReportError", "Run", "Site", "read_run"]

HASHED = ("loss", "gradients", "parameters", "optimizer")
KINDS = {
    "weights": "weights",
    "fprop": "activations",
    "dgrad": "activation gradients",
    "wgrad": "weight gradients",
}
_COUNTERS = ("count", "zero", "became_subnormal", "underflowed", "overflowed", "nan", "infinite")


class ReportError(ValueError):
    """A run folder cannot be read; the message names the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What one place of the step rounded, summed over the sampled steps."""

    layer: int | None
    site: str
    kind: str  # a key of KINDS, or "" where the name ends in none of them
    format: str
    counts: Mapping[str, int]  # the counters of the files, and "nonzero"
    exponents: Mapping[int, int]  # floor(log2 |x|) of nonzero finite values, before rounding

    def lost(self) -> int:
        return self.counts["underflowed"] + self.counts["overflowed"]


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
    sampled: tuple[int, ...]  # steps with statistics
    sites: tuple[Site, ...]
    swallowed: tuple[Swallowed, ...]  # by parameter
    what_if: WhatIf | None
    quantization: Mapping[str, Any] | None

    @cached_property
    def losses(self) -> dict[int, float]:
        return _column(self.rows, "loss")

    @cached_property
    def held_out(self) -> dict[int, float]:
        return _column(self.rows, "validation_loss")

    @cached_property
    def scales(self) -> dict[int, float]:
        return _column(self.rows, "loss_scale")

    @cached_property
    def skipped(self) -> list[int]:
        return [step for step, row in self.rows.items() if row.get("skipped")]

    @cached_property
    def not_finite(self) -> list[int]:
        return [step for step, loss in self.losses.items() if not math.isfinite(loss)]

    @property
    def policy(self) -> Mapping[str, Any]:
        return _mapping(self.config.get("policy"))

    @property
    def planned(self) -> int | None:
        steps = _mapping(self.config.get("training")).get("steps", self.config.get("steps"))
        return steps if isinstance(steps, int) else None

    @property
    def last_step(self) -> int:
        return max(self.losses, default=0)

    @property
    def interrupted(self) -> bool:
        return self.planned is not None and self.last_step < self.planned

    @property
    def scaled_dynamically(self) -> bool:
        declared = "dynamic" in map(str, _mapping(self.policy.get("loss_scaling")).values())
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
    config = _read_object(folder / "config.json")
    sampled, sites, swallowed, what_if = _read_statistics(folder / "statistics")
    return Run(
        folder=folder,
        label=str(_mapping(config.get("policy")).get("name") or folder.name),
        config=config,
        environment=_read_object(folder / "environment.json"),
        data=_read_object(folder / "data.json"),
        rows=_read_rows(folder / "metrics.jsonl"),
        hashes=_read_rows(folder / "hashes.jsonl"),
        sampled=sampled,
        sites=sites,
        swallowed=swallowed,
        what_if=what_if,
        quantization=_read_object(folder / "quantization.json", strict_json.loads) or None,
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _column(rows: Mapping[int, Mapping[str, Any]], name: str) -> dict[int, float]:
    """The steps at which a number is recorded; JSON's null is no record."""
    found = {step: row.get(name) for step, row in rows.items()}
    return {step: float(value) for step, value in found.items() if isinstance(value, int | float)}


def _read_object(path: Path, loads: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        value = loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{path} is not JSON ({error}); restore it or record the run again") from error
    if not isinstance(value, dict):
        raise ReportError(f"{path} holds no JSON object; restore it or record the run again")
    return value


def _read_rows(path: Path) -> dict[int, dict[str, Any]]:
    """Rows of a log by step, in order; a later row of the same step adds to it or replaces it."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = text.split("\n")
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        row = _parse_row(line)
        if row is not None:
            rows.setdefault(row["step"], {}).update(row)
        elif line.strip() and number < len(lines):  # an unfinished last line is a run that was killed
            raise ReportError(
                f"line {number} of {path} is no JSON object with a step; delete the line or record the run again"
            )
    return dict(sorted(rows.items()))


def _parse_row(line: str) -> dict[str, Any] | None:
    try:
        row = strict_json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _read_statistics(
    folder: Path,
) -> tuple[tuple[int, ...], tuple[Site, ...], tuple[Swallowed, ...], WhatIf | None]:
    """All step files of a run: the steps; every site, the updates and the gradients summed over them."""
    steps: list[int] = []
    records: dict[str, dict[str, list[Mapping[str, Any]]]] = {"sites": {}, "swallowed": {}, "what_if": {}}
    for path in sorted(folder.glob("step_*.json")):
        file = _read_object(path)
        steps.append(int(file.get("step", path.stem.removeprefix("step_"))))
        for part, found in records.items():
            for name, record in _mapping(file.get(part)).items():
                found.setdefault(name, []).append(_mapping(record))
    sites = tuple(_sum_site(name, found) for name, found in records["sites"].items())
    return tuple(sorted(steps)), sites, read_swallowed(records["swallowed"]), read_what_if(records["what_if"])


def _sum_site(name: str, records: list[Mapping[str, Any]]) -> Site:
    layer, site, kind = parse_site(name)
    exponents: Counter[int] = Counter()
    for record in records:
        exponents.update({int(e): n for e, n in _mapping(record.get("exponents")).items()})
    counts = {counter: sum(int(record.get(counter, 0)) for record in records) for counter in _COUNTERS}
    counts["nonzero"] = counts["count"] - counts["zero"]
    return Site(
        layer=layer,
        site=site,
        kind=kind,
        format=str(records[-1].get("format", "")),
        counts=counts,
        exponents=exponents,
    )


def parse_site(name: str) -> tuple[int | None, str, str]:
    """layer.0.qkv.fprop -> (0, qkv, fprop); logits.fprop -> (None, logits, fprop)."""
    parts = name.split(".")
    layer = None
    if parts[0] == "layer" and len(parts) > 2 and parts[1].isdigit():
        layer, parts = int(parts[1]), parts[2:]
    kind = parts.pop() if parts[-1] in KINDS else ""
    return layer, ".".join(parts), kind
