"""The statistics files of a run, one after the other: sums over all of them, and a few counters step by step.

A file holds the significands of every site by binade, three quarters of its bytes, of which a report shows nothing:
they are cut out of the text before it is parsed, so that a thousand files take seconds, and no file is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from qsim.report.json_files import as_mapping, read_object
from qsim.report.updates import Swallowed, SwallowedSums, WhatIf, WhatIfSums

__all__ = ["KINDS", "Counted", "Propagated", "Sampled", "Site", "parse_site", "read_sampled"]

KINDS = {
    "weights": "weights",
    "fprop": "activations",
    "dgrad": "activation gradients",
    "wgrad": "weight gradients",
}
_COUNTERS = ("count", "zero", "became_subnormal", "underflowed", "overflowed", "nan", "infinite")
_SIGNIFICANDS = b'"significands":'


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


class Counted(NamedTuple):
    """What became of the values of a site in one step, all layers together."""

    nonzero: int
    underflowed: int
    overflowed: int

    @property
    def lost(self) -> int:
        return self.underflowed + self.overflowed


class Propagated(NamedTuple):
    """Of a site in a shadow replay's step: what its own rounding did, and how far what it gives out is off."""

    rounding: float | None
    error: float | None


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """All statistics files of a run."""

    steps: tuple[int, ...] = ()
    sites: tuple[Site, ...] = ()
    swallowed: tuple[Swallowed, ...] = ()  # by parameter
    what_if: WhatIf | None = None
    rounded: Mapping[tuple[str, str], Mapping[int, Counted]] = field(default_factory=dict)  # (site, kind), step
    updated: Mapping[str, Mapping[int, tuple[int, int]]] = field(default_factory=dict)  # updates, swallowed
    propagated: Mapping[int, Mapping[str, Propagated]] = field(default_factory=dict)  # step, key of the site


def read_sampled(folder: Path) -> Sampled:
    """Read every ``step_*.json`` of a folder; ReportError for one that is damaged."""
    steps: list[int] = []
    sites, updates, what_if = _SiteSums(), SwallowedSums(), WhatIfSums()
    propagated: dict[int, dict[str, Propagated]] = {}
    for path in sorted(folder.glob("step_*.json")):
        file = read_object(path, _loads)
        step = int(file.get("step", path.stem.removeprefix("step_")))
        steps.append(step)
        sites.add(step, as_mapping(file.get("sites")))
        updates.add(step, as_mapping(file.get("swallowed")))
        what_if.add(as_mapping(file.get("what_if")))
        if found := as_mapping(file.get("propagation")):
            propagated[step] = {key: Propagated(one.get("rounding"), one.get("error")) for key, one in found.items()}
    return Sampled(
        steps=tuple(sorted(steps)),
        sites=sites.total(),
        swallowed=updates.total(),
        what_if=what_if.total(),
        rounded=sites.by_step,
        updated=updates.by_step,
        propagated=dict(sorted(propagated.items())),
    )


def _loads(text: bytes) -> Any:
    return json.loads(without_significands(text))


def without_significands(text: bytes) -> bytes:
    """The file with ``"significands": {}`` for all that was in those braces, which hold lists of numbers alone.

    Inside a JSON string the quotes of the name would be escaped, so that only the name itself is ever found.
    """
    kept, start = [], 0
    while (name := text.find(_SIGNIFICANDS, start)) >= 0:
        opening, closing = text.find(b"{", name), text.find(b"}", name)
        if opening < 0 or closing < 0:
            break  # cut short, as the parser will say
        kept.append(text[start : opening + 1])
        start = closing
    return b"".join([*kept, text[start:]])


class _SiteSums:
    """Every site summed over steps, and by step what its layers lost together."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}
        self._exponents: dict[str, dict[str, int]] = {}
        self._formats: dict[str, str] = {}
        self.by_step: dict[tuple[str, str], dict[int, Counted]] = {}

    def add(self, step: int, sites: Mapping[str, Any]) -> None:
        for name, value in sites.items():
            record = as_mapping(value)
            counts = {counter: int(record.get(counter, 0)) for counter in _COUNTERS}
            counts["nonzero"] = counts["count"] - counts["zero"]
            before = self._counts.get(name)
            self._counts[name] = {key: n + before[key] for key, n in counts.items()} if before else counts
            exponents = self._exponents.setdefault(name, {})
            for exponent, n in as_mapping(record.get("exponents")).items():
                exponents[exponent] = exponents.get(exponent, 0) + n
            self._formats[name] = str(record.get("format", ""))
            self._add_step(step, name, counts)

    def _add_step(self, step: int, name: str, counts: Mapping[str, int]) -> None:
        _, site, kind = parse_site(name)
        steps = self.by_step.setdefault((site, kind), {})
        before = steps.get(step, Counted(0, 0, 0))
        steps[step] = Counted(*(n + counts[key] for key, n in before._asdict().items()))

    def total(self) -> tuple[Site, ...]:
        return tuple(self._site(name) for name in self._counts)

    def _site(self, name: str) -> Site:
        layer, site, kind = parse_site(name)
        return Site(
            layer=layer,
            site=site,
            kind=kind,
            format=self._formats[name],
            counts=self._counts[name],
            exponents={int(exponent): n for exponent, n in self._exponents[name].items()},
        )


def parse_site(name: str) -> tuple[int | None, str, str]:
    """layer.0.qkv.fprop -> (0, qkv, fprop); logits.fprop -> (None, logits, fprop)."""
    parts = name.split(".")
    layer = None
    if parts[0] == "layer" and len(parts) > 2 and parts[1].isdigit():
        layer, parts = int(parts[1]), parts[2:]
    kind = parts.pop() if parts[-1] in KINDS else ""
    return layer, ".".join(parts), kind
