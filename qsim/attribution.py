"""Attribution: what each site of a policy costs by itself, and what all but it cost.

Every unit of the policies' difference is swapped alone, and then all but it, at the same weights and batches; what
moves is loss, gradient and update, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from qsim.config import ConfigError
from qsim.differences import relative_distance
from qsim.optimizer import ScaleState
from qsim.outcome import Outcome
from qsim.policy import Arithmetic
from qsim.position import Position, advance, batch_of, inputs_of
from qsim.progress import Progress, silent
from qsim.recorders import Recorder
from qsim.rerun import Rerun
from qsim.step import Step
from qsim.training import as_statistics
from qsim.units import By, Unit, hybrid, parts, units

Way = Literal["alone", "all but"]
BATCHES, RESAMPLES, CONFIDENCE = 8, 10_000, 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Mean over batches, and the percentile bootstrap interval of it, of ``CONFIDENCE``; None without a value."""

    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What swapping a unit costs, over the batches.

    way: ``alone``, the base policy with this unit swapped, or ``all but``, the other policy with this unit not.
    loss: of the variant less that of the base.  gradient, update: sqrt(sum (x - x_base)^2 / sum x_base^2) over all
    gradients, unscaled, and over the changes of all parameters.  underflowed, overflowed: values of all sites, over
    all batches.  not_finite: batches whose gradients were not all finite, left out of the means of gradient and
    update.
    """

    unit: str
    way: Way
    loss: Interval
    gradient: Interval
    update: Interval
    underflowed: int
    overflowed: int
    not_finite: int

    @property
    def size(self) -> float:
        """By which costs are ranked: the gradient's error, infinite where no batch had a finite one."""
        return float("inf") if self.gradient.mean is None else self.gradient.mean

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What ``attribute`` found: everything swapped at once, and the units, the costliest first.

    scale: the loss scale of all variants.  step, batches: where.
    """

    base: str
    other: str
    step: int
    batches: int
    scale: float
    whole: Cost
    alone: tuple[Cost, ...]
    all_but: tuple[Cost, ...]
    parts: tuple[Cost, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def attribute(
    again: Rerun,
    other: Arithmetic,
    *,
    step: int = 0,
    batches: int | None = None,
    by: By = "site",
    stages: int = 5,
    progress: Callable[..., Progress] = silent,
) -> Attribution:
    """Costs of the difference between a recorded run's policy and another, at the weights after a step.

    batches: so many of the steps after it, each taken from the same weights; 8, or all there are, unless given.
    by: see ``qsim.units.units``.
    stages: of so many of the costliest units, what each of their parts costs alone (``qsim.units.PARTS``).
    Errors: ConfigError where the policies do not differ, for no batches or more than there are steps left.
    """
    trial = Trial(again, other, step, max(1, min(BATCHES, again.config.steps - step)) if batches is None else batches)
    found = units(again.policy, other, again.config.model.layers, by)
    if not found:
        raise ConfigError(f"policy {other.name} does nothing else than {again.policy.name}; name another --to")
    with progress("attribute", 0, 2 * len(found) + 1) as bar:
        whole = trial.cost("everything", "alone", found)
        bar.update(1, whole.loss.mean or 0)
        alone, all_but = [], []
        for i, unit in enumerate(found, start=1):
            alone.append(trial.cost(unit.name, "alone", [unit]))
            all_but.append(trial.cost(unit.name, "all but", [one for one in found if one is not unit]))
            bar.update(2 * i + 1, alone[-1].loss.mean or 0)
    alone.sort(key=lambda cost: -cost.size)
    by_name = {unit.name: unit for unit in found}
    costliest = [by_name[cost.unit] for cost in alone[:stages] if cost.size > 0]
    pieces = [piece for unit in costliest for piece in parts(unit, again.policy, other)]
    return Attribution(
        base=again.policy.name,
        other=other.name,
        step=step,
        batches=trial.batches,
        scale=trial.scale.scale,
        whole=whole,
        alone=tuple(alone),
        all_but=tuple(sorted(all_but, key=lambda cost: cost.size)),
        parts=tuple(trial.cost(piece.name, "alone", [piece]) for piece in pieces),
    )


class _Counted(NamedTuple):
    outcome: Outcome
    underflowed: int
    overflowed: int


class Trial:
    """Steps from the same weights, each with its own batch, under hybrids of two policies."""

    def __init__(self, again: Rerun, other: Arithmetic, step: int, batches: int) -> None:
        left = again.config.steps - step
        if left < 1 or step < 0:
            raise ConfigError(f"--from is {step}; the run has {again.config.steps} steps, so 0 to {step + left - 1}")
        if not 1 <= batches <= left:
            raise ConfigError(f"--batches is {batches}; the run has {left} steps after step {step}, so 1 to {left}")
        self.again, self.other, self.batches = again, other, batches
        self.position = again.at(step)
        self.scale = ScaleState.start(other.loss_scaling)
        self._find_scale(units(again.policy, other, again.config.model.layers))
        self.base = self._outcomes(hybrid(again.policy, other, [], again.config.model.layers, again.policy.name))

    def _find_scale(self, everything: Sequence[Unit]) -> None:
        """From the policy's first loss scale down by its backoff until the gradients of all batches are finite."""
        scaling = self.other.loss_scaling
        whole = hybrid(self.again.policy, self.other, everything, self.again.config.model.layers, self.other.name)
        while scaling.mode == "dynamic" and self.scale.scale > scaling.minimum:
            if all(one.outcome.finite for one in self._outcomes(whole)):
                return
            self.scale = ScaleState(scale=max(self.scale.scale * scaling.backoff, scaling.minimum))

    def _outcomes(self, policy: Arithmetic) -> list[_Counted]:
        step = Step(self.again.config, policy, self.again.executor, Recorder)
        return [self._outcome(step, policy, i) for i in range(self.batches)]

    def _outcome(self, step: Step, policy: Arithmetic, number: int) -> _Counted:
        config, at = self.again.config, self.position
        position = Position(at.step, at.updates, self.scale, at.state)
        given = inputs_of(config, policy, position, batch_of(config, self.again.corpus, at.step + 1 + number))
        results = advance(position, policy, step, given)
        sites = as_statistics(results["records"], step.formats).values()
        return _Counted(
            Outcome(at.state, position.state, results),
            sum(one.underflowed for one in sites),
            sum(one.overflowed for one in sites),
        )

    def cost(self, name: str, way: Way, swapped: Sequence[Unit]) -> Cost:
        """Of the base policy with these units swapped."""
        layers = self.again.config.model.layers
        found = self._outcomes(hybrid(self.again.policy, self.other, swapped, layers, name))
        both = [(one.outcome, base.outcome) for one, base in zip(found, self.base, strict=True)]
        pairs = [(one, base) for one, base in both if one.finite and base.finite]
        losses = [one.loss - base.loss for one, base in both]
        return Cost(
            unit=name,
            way=way,
            loss=interval([loss for loss in losses if np.isfinite(loss)]),
            gradient=interval([relative_distance(base.gradients, one.gradients) for one, base in pairs]),
            update=interval([relative_distance(base.change, one.change) for one, base in pairs]),
            underflowed=sum(one.underflowed for one in found),
            overflowed=sum(one.overflowed for one in found),
            not_finite=sum(not one.finite for one, _ in both),
        )


def interval(values: Sequence[float | None]) -> Interval:
    """Of the mean of what is known: percentile bootstrap over the values, resampled by a fixed seed."""
    from scipy.stats import bootstrap

    known = np.array([value for value in values if value is not None], np.float64)
    if known.size < 2:  # nothing, or one value, which no resampling changes
        only = float(known[0]) if known.size else None
        return Interval(mean=only, low=only, high=only)
    how = {"n_resamples": RESAMPLES, "confidence_level": CONFIDENCE, "method": "percentile"}
    found = bootstrap((known,), np.mean, rng=np.random.default_rng(0), **how).confidence_interval
    return Interval(mean=float(known.mean()), low=float(found.low), high=float(found.high))
