"""The first place where two recorded runs part, and how the difference grows from there.

The step is found from the recorded hashes; both runs are then computed again from their checkpoints before it, every
tensor of that step is kept, and the two are compared in the order of computing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qsim.capture import Tensor
from qsim.differences import TensorDifference, in_order, relative_distance
from qsim.hashing import step_hashes, unstack
from qsim.outcome import as_vector
from qsim.position import Position
from qsim.report.recorded import HASHED
from qsim.rerun import Rerun
from qsim.runs import RunError, RunFolder

GROWTH = 10  # steps over which a difference is followed


@dataclass(frozen=True, kw_only=True)
class StepDifference:
    """Two runs after a step: losses, the relative distance of their parameters, elements that differ."""

    step: int
    loss_a: float
    loss_b: float
    relative: float | None
    different: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What ``diff`` found.

    compared, last: how many steps had hashes to compare, and the last of them.  step: the first that differs, 0
    (or where a replay began) for the start, None where all are equal.  tensors: of that step, those that differ, in
    the order of computing.
    growth: from that step on.  unreproduced: runs whose recorded hashes of that step are not what their arithmetic
    gives here.  apart: what was asked of the two runs that is not the same.  every_tensor: whether all were compared.
    by_hashes: whether a recorded hash differs.
    """

    a: str
    b: str
    compared: int
    last: int
    step: int | None
    tensors: tuple[TensorDifference, ...]
    growth: tuple[StepDifference, ...]
    unreproduced: tuple[str, ...]
    apart: tuple[str, ...]
    every_tensor: bool
    by_hashes: bool

    @property
    def equal(self) -> bool:
        return self.step is None

    @property
    def first(self) -> TensorDifference | None:
        return self.tensors[0] if self.tensors else None

    def as_json(self) -> dict[str, Any]:
        values = asdict(self) | {"equal": self.equal, "parts": list(HASHED)}
        return values | {"tensors": [one.as_json() for one in self.tensors]}


def diff(
    a: RunFolder,
    b: RunFolder,
    *,
    executor: str | None = None,
    data: Path | None = None,
    growth: int = GROWTH,
    every_tensor: bool = False,
) -> Difference:
    """Where run b first differs from run a.

    executor: on which both are computed again (``qsim.rerun``).  data: where the tokens of both now lie.
    growth: over how many steps the difference is followed.  every_tensor: where all hashes are equal, compare what
    they do not cover, too: a value that nothing reads differs there alone.
    Errors: RunError for runs of other shapes, without hashes of a common step, or without a checkpoint before the
    difference.
    """
    _check_models(a, b)
    again = [Rerun(run, executor=executor, data=data) for run in (a, b)]
    shared = _shared_hashes(a, b)
    found = _Finding(again, shared, every_tensor)
    step, tensors = found.first()
    return Difference(
        a=str(a.path),
        b=str(b.path),
        compared=len(shared),
        last=max(shared),
        step=step,
        tensors=tuple(tensors),
        growth=tuple(found.growth(growth)) if step is not None else (),
        unreproduced=tuple(found.unreproduced),
        apart=tuple(_apart(a, b)),
        every_tensor=every_tensor,
        by_hashes=not all(shared.values()),
    )


def _check_models(a: RunFolder, b: RunFolder) -> None:
    if a.config.model != b.config.model:
        names = [key for key, value in asdict(a.config.model).items() if value != getattr(b.config.model, key)]
        raise RunError(
            f"runs of different models cannot be compared ({', '.join(names)} differ); name two of one model"
        )


def _shared_hashes(a: RunFolder, b: RunFolder) -> dict[int, bool]:
    """By step of which both recorded hashes: whether they are equal."""
    one, other = a.hashes(), b.hashes()
    shared = {step: all(one[step][part] == other[step][part] for part in HASHED) for step in one if step in other}
    if not shared:
        what = f"runs {str(a.path)!r} and {str(b.path)!r} recorded hashes of no common step"
        raise RunError(f"{what}; train with --record.hash_every 1, and policies that promise bits")
    return shared


def _apart(a: RunFolder, b: RunFolder) -> list[str]:
    """What the runs were asked differently, as words."""
    found = [] if a.policy.sha256 == b.policy.sha256 else [f"policy {a.policy.name} and {b.policy.name}"]
    one, other = (_flat(asdict(run.config)) for run in (a, b))
    left_out = ("record.", "optimizer.decay_steps", "steps", "preset")
    found += [
        f"{key} {one[key]} and {other[key]}" for key in one if one[key] != other[key] and not key.startswith(left_out)
    ]
    if a.faults != b.faults:
        found.append(
            f"faults {', '.join(map(str, a.faults)) or 'none'} and {', '.join(map(str, b.faults)) or 'none'}"
        )
    return found


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


class _Finding:
    """Both runs, computed again as far as the search needs."""

    def __init__(self, again: Sequence[Rerun], shared: dict[int, bool], every_tensor: bool) -> None:
        self.again, self.shared, self.every_tensor = again, shared, every_tensor
        self.positions: list[Position] = []
        self.unreproduced: list[str] = []

    def first(self) -> tuple[int | None, list[TensorDifference]]:
        """The first step that differs, with its tensors."""
        begun = max(rerun.run.first for rerun in self.again)
        self.positions = [rerun.at(begun) for rerun in self.again]
        start = self._of_the_start()
        if start:
            return begun, start
        unequal = [step for step, same in self.shared.items() if not same]
        if not unequal and not self.every_tensor:
            return None, []
        last = min(unequal, default=max(self.shared))
        equal = max((step for step in self.shared if step < last), default=begun) if unequal else begun
        self.positions = [rerun.at(equal) for rerun in self.again]
        for step in range(equal + 1, last + 1):
            tensors = self._captured(step)
            if tensors:
                return step, tensors
        return (last if unequal else None), []  # where they differ, ``unreproduced`` says whose are wrong

    def _of_the_start(self) -> list[TensorDifference]:
        """Of the parameters before the first step that both have."""
        states = [unstack(position.state["parameters"]) for position in self.positions]
        return list(in_order(*(_named("parameters", state) for state in states)))

    def _captured(self, step: int) -> list[TensorDifference]:
        """What differs in a step, which both positions come after; where that is nothing they stay equal."""
        tensors = []
        for rerun, position in zip(self.again, self.positions, strict=True):
            given = rerun.inputs(position)
            before = replace(position)
            found = rerun.captured(position)
            tensors.append(_with_inputs(found, given.batch, given.scalars))
            self._check(rerun, step, before, position, found)
        return list(in_order(*tensors))

    def _check(self, rerun: Rerun, step: int, before: Position, after: Position, found: list[Tensor]) -> None:
        """Whether the recorded hashes of the step are those of its arithmetic."""
        recorded = rerun.run.hashes().get(step)
        results = {tensor.key: tensor.after for tensor in found if tensor.format is None}
        gradients = {k.removeprefix("gradients."): v for k, v in results.items() if k.startswith("gradients.")}
        row = step_hashes(step, {"loss": results["loss"], "gradients": gradients}, after.state)
        if recorded is not None and any(row[part] != recorded[part] for part in HASHED):
            self.unreproduced.append(str(rerun.run.path))

    def growth(self, steps: int) -> list[StepDifference]:
        """From the step both positions are after, over so many more, as far as both runs go."""
        rows = []
        first = self.positions[0].step
        last = min(first + steps, *(rerun.config.steps for rerun in self.again))
        losses = [_recorded_loss(rerun.run, first) for rerun in self.again]
        while True:
            rows.append(self._row(losses))
            if self.positions[0].step >= last:
                return rows
            results = [rerun.advance(at) for rerun, at in zip(self.again, self.positions, strict=True)]
            losses = [float(one["loss"]) for one in results]

    def _row(self, losses: Sequence[float]) -> StepDifference:
        a, b = (as_vector(position.state["parameters"]) for position in self.positions)
        different = int(np.count_nonzero(a.view(np.uint32) != b.view(np.uint32)))
        return StepDifference(
            step=self.positions[0].step,
            loss_a=losses[0],
            loss_b=losses[1],
            relative=relative_distance(a, b),
            different=different,
            size=a.size,
        )


def _recorded_loss(run: RunFolder, step: int) -> float:
    return next((float(row["loss"]) for row in run.rows("metrics.jsonl") if row["step"] == step), float("nan"))


def _named(part: str, flat: dict[str, np.ndarray]) -> list[Tensor]:
    return [
        Tensor(key=f"{part}.{name}", part=0, parts=1, before=None, after=value, format=None)
        for name, value in sorted(flat.items())
    ]


def _with_inputs(tensors: list[Tensor], batch: Sequence[np.ndarray], scalars: dict[str, Any]) -> list[Tensor]:
    """The tokens before all else, the host's numbers where they come in: the loss scale before the backward pass."""
    tokens = _named("batch", {"tokens": batch[0].astype(np.float32), "targets": batch[1].astype(np.float32)})
    numbers = {
        tensor.key: tensor for tensor in _named("scalars", {k: np.asarray(v, np.float32) for k, v in scalars.items()})
    }
    scale = next((i for i, one in enumerate(tensors) if one.key == "loss.dgrad"), len(tensors))
    loss = next(i for i, one in enumerate(tensors) if one.key == "loss" and one.format is None)
    loss_scale = [numbers.pop("scalars.loss_scale")]
    update = next(i for i, one in enumerate(tensors) if one.key.startswith("first."))
    numbers.pop("scalars.unscale")  # which follows from the loss scale
    return [
        *tokens,
        *tensors[:scale],
        *loss_scale,
        *tensors[scale : max(scale, loss)],
        *tensors[max(scale, loss) : update],
        *numbers.values(),
        *tensors[update:],
    ]
