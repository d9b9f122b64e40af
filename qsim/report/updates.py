"""What was lost between gradients and parameters: swallowed updates, gradients in other formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qsim.report.json_files import as_mapping

__all__ = ["Swallowed", "SwallowedSums", "WhatIf", "WhatIfSums", "by_parameter", "parameter_of"]

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


class SwallowedSums:
    """Parameters summed over steps, and by step and parameter, layers together, updates and those swallowed."""

    def __init__(self) -> None:
        self._records: dict[str, Swallowed] = {}
        self.by_step: dict[str, dict[int, tuple[int, int]]] = {}

    def add(self, step: int, tensors: Mapping[str, Any]) -> None:
        for name, value in tensors.items():
            record = as_mapping(value)
            own = Swallowed(
                name=name,
                format=str(record.get("format", "")),
                counts={counter: int(record.get(counter, 0)) for counter in _COUNTERS},
                elsewhere={fmt: int(n) for fmt, n in as_mapping(record.get("swallowed_in")).items()},
            )
            before = self._records.get(name)
            self._records[name] = own if before is None else _sum(name, [before, own])
            steps = self.by_step.setdefault(parameter_of(name), {})
            updates, lost = steps.get(step, (0, 0))
            steps[step] = (updates + own.counts["updates"], lost + own.counts["swallowed"])

    def total(self) -> tuple[Swallowed, ...]:
        return tuple(self._records.values())


def _sum(name: str, parts: Sequence[Swallowed]) -> Swallowed:
    elsewhere: Counter[str] = Counter()
    for part in parts:
        elsewhere.update(part.elsewhere)
    return Swallowed(
        name=name,
        format=parts[-1].format,
        counts={counter: sum(part.counts[counter] for part in parts) for counter in _COUNTERS},
        elsewhere=dict(elsewhere),
    )


def parameter_of(tensor: str) -> str:
    """layer.0.qkv.weight -> qkv.weight, the name that all layers share."""
    parts = tensor.split(".")
    return ".".join(parts[2:] if parts[0] == "layer" else parts)


def by_parameter(tensors: Iterable[Swallowed]) -> list[Swallowed]:
    """The layers of a parameter together, those first that lose the largest share of their updates."""
    groups: dict[str, list[Swallowed]] = {}
    for one in tensors:
        groups.setdefault(parameter_of(one.name), []).append(one)
    found = [_sum(name, parts) for name, parts in groups.items()]
    return sorted(found, key=lambda one: -one.counts["swallowed"] / max(1, one.counts["updates"]))


class WhatIfSums:
    """Gradients of all parameters and steps together."""

    def __init__(self) -> None:
        self._finite = 0
        self._lost: dict[str, dict[str, dict[str, int]]] = {"underflowed": {}, "overflowed": {}}

    def add(self, tensors: Mapping[str, Any]) -> None:
        for record in tensors.values():
            self._finite += int(record.get("finite", 0))
            for fmt, counted in (record.get("formats") or {}).items():
                for event, totals in self._lost.items():
                    total = totals.setdefault(fmt, {})
                    for exponent, lost in (counted.get(event) or {}).items():
                        total[exponent] = total.get(exponent, 0) + lost

    def total(self) -> WhatIf | None:
        """None where there is no gradient but zeros."""
        if not self._finite:
            return None
        lost = {
            event: {fmt: {int(k): n for k, n in counted.items()} for fmt, counted in totals.items()}
            for event, totals in self._lost.items()
        }
        return WhatIf(finite=self._finite, **lost)
