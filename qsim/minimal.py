"""The smallest set of sites that must stay in the recorded arithmetic for a run to stay within a tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from qsim.attribution import Trial
from qsim.config import ConfigError
from qsim.optimizer import ScaleState
from qsim.policy import Arithmetic
from qsim.position import Position, advance
from qsim.progress import Progress, silent
from qsim.rerun import Rerun
from qsim.step import Step
from qsim.units import By, Unit, hybrid, units


@dataclass(frozen=True, kw_only=True)
class Minimal:
    """A set of units whose staying keeps a run within the tolerance.

    kept: their names; None where not even all of them do, which the loss scaling alone can bring about.
    deviation: the largest |loss - recorded loss| over the steps with them, infinite where a loss is not finite;
    without: with none of them kept.  smallest: whether every smaller set was tried and failed.
    tried: how many runs of ``steps`` steps were made.  search: how, in words.
    """

    base: str
    other: str
    first: int
    steps: int
    tolerance: float
    kept: tuple[str, ...] | None
    deviation: float
    without: float
    smallest: bool
    tried: int
    search: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def minimal(
    again: Rerun,
    other: Arithmetic,
    *,
    tolerance: float,
    first: int = 0,
    steps: int = 10,
    by: By = "site",
    runs: int = 200,
    progress: Callable[..., Progress] = silent,
) -> Minimal:
    """The search: greedy from none, then without each that is not needed, then all smaller sets as far as runs allow.

    A set is good where max |loss - recorded loss| over ``steps`` steps from the state after step ``first`` is at most
    the tolerance, with the set's units as the recorded policy has them and all others swapped.
    Errors: ConfigError for a tolerance that is not positive, steps the run does not have, policies that are the same.
    """
    left = again.config.steps - first
    if left < 1 or first < 0:
        raise ConfigError(f"--from is {first}; the run has {again.config.steps} steps, so 0 to {first + left - 1}")
    if not 0 < tolerance < math.inf:
        raise ConfigError(f"--tolerance is {tolerance}; give a positive difference of losses")
    if not 1 <= steps <= left:
        raise ConfigError(f"--steps is {steps}; the run has {left} steps after step {first}, so 1 to {left}")
    found = units(again.policy, other, again.config.model.layers, by)
    if not found:
        raise ConfigError(f"policy {other.name} does nothing else than {again.policy.name}; name another --to")
    with progress("minimal", 0, runs) as bar:
        search = _Search(again, other, found, tolerance, (first, steps), bar)
        return search.result(_costliest_first(again, other, found, first), runs)


def _costliest_first(again: Rerun, other: Arithmetic, found: Sequence[Unit], first: int) -> list[Unit]:
    """By what each costs alone, on two batches where there are two."""
    trial = Trial(again, other, first, min(2, again.config.steps - first))
    size = {unit.name: trial.cost(unit.name, "alone", [unit]).size for unit in found}
    return sorted(found, key=lambda unit: -size[unit.name])


class _Search:
    """Short runs under hybrids, none of them made twice."""

    def __init__(
        self,
        again: Rerun,
        other: Arithmetic,
        found: Sequence[Unit],
        tolerance: float,
        where: tuple[int, int],
        bar: Progress,
    ) -> None:
        self.again, self.other, self.found, self.tolerance, self.bar = again, other, found, tolerance, bar
        self.first, self.steps = where
        self.start = again.at(self.first)
        position = Position(self.start.step, self.start.updates, self.start.scale, self.start.state)
        self.losses = [float(again.advance(position)["loss"]) for _ in range(self.steps)]
        self.deviations: dict[frozenset[str], float] = {}

    def result(self, ordered: Sequence[Unit], runs: int) -> Minimal:
        kept = self._greedy(ordered)
        if kept is not None:
            kept = self._without_the_unneeded(kept)
        smallest = False
        if kept is not None:
            kept, smallest = self._smallest(kept, runs)
        return Minimal(
            base=self.again.policy.name,
            other=self.other.name,
            first=self.first,
            steps=self.steps,
            tolerance=self.tolerance,
            kept=None if kept is None else tuple(unit.name for unit in self.found if unit.name in kept),
            deviation=self.deviation(frozenset(unit.name for unit in self.found) if kept is None else kept),
            without=self.deviation(frozenset()),
            smallest=smallest,
            tried=len(self.deviations),
            search=_words(kept, smallest, len(self.found)),
        )

    def good(self, kept: frozenset[str]) -> bool:
        return self.deviation(kept) <= self.tolerance

    def deviation(self, kept: frozenset[str]) -> float:
        """max |loss - recorded loss| with these units kept."""
        if kept not in self.deviations:
            self.deviations[kept] = self._run(kept)
            self.bar.update(len(self.deviations), self.deviations[kept])
        return self.deviations[kept]

    def _run(self, kept: frozenset[str]) -> float:
        swapped = [unit for unit in self.found if unit.name not in kept]
        policy = hybrid(self.again.policy, self.other, swapped, self.again.config.model.layers, "hybrid")
        step = Step(self.again.config, policy, self.again.executor)
        scale = ScaleState.start(policy.loss_scaling)
        position = Position(self.start.step, self.start.updates, scale, self.start.state)
        largest = 0.0
        for loss in self.losses:
            found = float(advance(position, policy, step, self.again.inputs(position, policy))["loss"])
            largest = max(largest, abs(found - loss) if math.isfinite(found) else math.inf)
            if largest > self.tolerance and math.isinf(largest):
                break
        return largest

    def _greedy(self, ordered: Sequence[Unit]) -> frozenset[str] | None:
        """Units kept one after the other, the costliest first, until the run is within the tolerance."""
        kept: frozenset[str] = frozenset()
        for unit in [None, *ordered]:
            kept = kept if unit is None else kept | {unit.name}
            if self.good(kept):
                return kept
        return None

    def _without_the_unneeded(self, kept: frozenset[str]) -> frozenset[str]:
        """Without every unit, the last added first, that need not stay."""
        for name in [unit.name for unit in reversed(self.found) if unit.name in kept]:
            if self.good(kept - {name}):
                kept = kept - {name}
        return kept

    def _smallest(self, kept: frozenset[str], runs: int) -> tuple[frozenset[str], bool]:
        """The first of all smaller sets, the smallest first, that does, else this one; whether all could be tried."""
        names = [unit.name for unit in self.found]
        for size in range(len(kept)):
            for chosen in map(frozenset, combinations(names, size)):
                if chosen not in self.deviations and len(self.deviations) >= runs:
                    return kept, False
                if self.good(chosen):
                    return chosen, True
        return kept, True


def _words(kept: frozenset[str] | None, smallest: bool, count: int) -> str:
    if kept is None:
        return f"all {count} units kept, and the loss still leaves the tolerance: the loss scaling is what differs"
    rest = "all smaller sets were tried" if smallest else "not all smaller sets were tried, a smaller one may exist"
    return f"greedy over {count} units by what each costs alone, then without each that is not needed; {rest}"
