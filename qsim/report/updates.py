"""What was lost between gradients and parameters: swallowed updates, gradients in other formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Swallowed", "WhatIf", "by_parameter", "read_swallowed", "read_what_if"]

_COUNTERS = ("count", "updates", "swallowed", "swallowed_directions", "decays", "swallowed_decays")


@dataclass(frozen=True, kw_only=True)
class Swallowed:
    """Of a parameter, or of one in all layers: the counters of ``qsim.swallowed``, summed over the sampled steps."""

    name: str
    format: str
    counts: Mapping[str, int]
    elsewhere: Mapping[str, int]  # by format, updates that it would have swallowed


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """Gradients of the sampled steps: by format and exponent of the loss scale, how many would be lost."""

    finite: int
    underflowed: Mapping[str, Mapping[int, int]]
    overflowed: Mapping[str, Mapping[int, int]]


def read_swallowed(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Swallowed, ...]:
    """By parameter, from what every sampled step says of it."""
    return tuple(_summed(name, found) for name, found in records.items())


def _summed(name: str, records: Sequence[Mapping[str, Any]]) -> Swallowed:
    elsewhere: Counter[str] = Counter()
    for record in records:
        elsewhere.update({fmt: int(n) for fmt, n in (record.get("swallowed_in") or {}).items()})
    return Swallowed(
        name=name,
        format=str(records[-1].get("format", "")),
        counts={counter: sum(int(record.get(counter, 0)) for record in records) for counter in _COUNTERS},
        elsewhere=dict(elsewhere),
    )


def by_parameter(parameters: Sequence[Swallowed]) -> list[Swallowed]:
    """The layers of a parameter together, those first that lose the largest share of their updates."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in parameters:
        parts = one.name.split(".")
        name = ".".join(parts[2:] if parts[0] == "layer" else parts)
        groups.setdefault(name, []).append({"format": one.format, "swallowed_in": one.elsewhere, **one.counts})
    found = read_swallowed(groups)
    return sorted(found, key=lambda one: -one.counts["swallowed"] / max(1, one.counts["updates"]))


def read_what_if(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> WhatIf | None:
    """All parameters and sampled steps together; None where there is no gradient but zeros."""
    every = [record for found in records.values() for record in found]
    finite = sum(int(record.get("finite", 0)) for record in every)
    lost: dict[str, dict[str, Counter[int]]] = {"underflowed": {}, "overflowed": {}}
    for record in every:
        for fmt, counted in (record.get("formats") or {}).items():
            for event, totals in lost.items():
                by_scale = {int(k): int(n) for k, n in (counted.get(event) or {}).items()}
                totals.setdefault(fmt, Counter()).update(by_scale)
    return WhatIf(finite=finite, **lost) if finite else None
