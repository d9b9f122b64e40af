"""Shadow replay: every step of a recorded run taken again from its own weights, under other arithmetic.

Nothing accumulates: step n of every shadow starts from the state that the recorded run had before step n.  The
recorded run is computed again from its nearest checkpoint, each of its steps checked against its hashes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import precision as pr
from precision.binades import Binades
from precision.formats import FP32
from precision.statistics import Statistics
from qsim.capture import Tensor
from qsim.differences import relative_distance
from qsim.hashing import step_hashes
from qsim.interruption import Interrupted, graceful
from qsim.optimizer import ScaleState
from qsim.outcome import Outcome
from qsim.policy import Arithmetic
from qsim.position import Position, advance
from qsim.progress import Progress, silent
from qsim.replay import last_step
from qsim.report.recorded import HASHED
from qsim.rerun import Rerun, capture_step
from qsim.run_data import reference_data
from qsim.runs import RunError, RunFolder, identity, require_new
from qsim.step import Step

MODE = "shadow"


def shadow(
    parent: RunFolder,
    policies: Sequence[Arithmetic],
    out: Path,
    *,
    executor: str | None = None,
    first: int = 0,
    steps: int | None = None,
    data: Path | None = None,
    resume: bool = False,
    progress: Callable[..., Progress] = silent,
) -> list[RunFolder]:
    """Steps first + 1 ... of a recorded run under each policy, from the weights the run had; one folder a policy.

    Each row of a shadow's metrics.jsonl holds beside its own loss ``loss_base``, ``gradient_error`` and
    ``update_error``: sqrt(sum (x - x_base)^2 / sum x_base^2) over all gradients, unscaled, and over all changes of
    parameters.  hashes.jsonl is of the shadow's step.  A statistics file (every ``record.statistics_every`` steps)
    holds the counts by site and ``propagation``, see ``propagation``.
    executor, data: as in ``Rerun``.  steps: how many, to the run's last one by default.  resume: go on behind the
    last row that all of them have.
    Errors: RunError where the recorded run is not what its arithmetic gives here, for steps it does not have, for
    folders that exist; Interrupted, all rows written, where a signal asked for the end.
    """
    again = Rerun(parent, executor=executor, data=data)
    last = last_step(parent, first, steps)
    walk = _Walk(again, [_begun(parent, again, policy, out, first, resume) for policy in policies])
    position = again.at(walk.last_row(first))
    walk.cut(position.step)
    with graceful() as stop, progress(MODE, position.step, last) as bar:
        while position.step < last:
            loss = walk.advance(position)
            bar.update(position.step, loss)
            if stop.signal is not None:
                raise Interrupted(stop.signal)
    return [one.run for one in walk.shadows]


def _begun(parent: RunFolder, again: Rerun, policy: Arithmetic, out: Path, first: int, resume: bool) -> _Shadow:
    """A shadow's folder: new, or there already where it is resumed."""
    path = out / policy.name
    if resume and (path / "config.json").is_file():
        run = RunFolder.open(path)
        if run.record().get("mode") != MODE or run.policy.sha256 != policy.sha256:
            raise RunError(f"{str(path)!r} is no shadow replay under {policy.name}; choose another --out")
        return _Shadow(again, run)
    require_new(path)
    named = identity(parent, path, again.saved(0).state["parameters"])
    run = RunFolder.create(path, again.config, policy, again.executor, named | {"from": first}, mode=MODE)
    reference_data(run.path, again.corpus, parent.path)
    return _Shadow(again, run)


class _Shadow:
    """One policy beside the recorded run."""

    def __init__(self, again: Rerun, run: RunFolder) -> None:
        self.run, self.policy = run, run.policy
        self.plain = Step(again.config, self.policy, again.executor)
        self.scale = ScaleState.start(self.policy.loss_scaling)

    def cut(self, step: int) -> None:
        """Rows after a step go; the loss scale is what the rest left it at."""
        self.run.cut_after(step)
        self.scale = ScaleState.start(self.policy.loss_scaling)
        for row in self.run.rows("metrics.jsonl"):
            self.scale = self.scale.after(self.policy.loss_scaling, not row["skipped"])

    def position(self, of_base: Position) -> Position:
        return Position(of_base.step, of_base.updates, self.scale, of_base.state)


class _Walk:
    """The recorded run, step by step, and its shadows."""

    def __init__(self, again: Rerun, shadows: Sequence[_Shadow]) -> None:
        self.again, self.shadows = again, shadows
        self.recorded = again.run.hashes()

    def last_row(self, first: int) -> int:
        """The last step that all shadows have a row of."""
        ends = [max((row["step"] for row in one.run.rows("metrics.jsonl")), default=first) for one in self.shadows]
        return min(ends)

    def cut(self, step: int) -> None:
        for one in self.shadows:
            one.cut(step)

    def advance(self, position: Position) -> float:
        """One step of the recorded run and of all its shadows; the loss of the last."""
        before, number = Position(position.step, position.updates, position.scale, position.state), position.step + 1
        every = self.again.config.record.statistics_every
        captures = every > 0 and (number % every == 0 or number == 1)
        tensors: list[Tensor] = []
        if captures:
            tensors, results = capture_step(self.again, self.again.policy, position, self.again.faults)
        else:
            results = self.again.advance(position)
        self._check(number, results, position)
        base = Outcome(before.state, position.state, results)
        return [self._advance(one, before, base, tensors) for one in self.shadows][-1]

    def _check(self, number: int, results: dict[str, Any], position: Position) -> None:
        if number not in self.recorded:
            return
        row = step_hashes(number, results, position.state)
        if any(row[part] != self.recorded[number][part] for part in HASHED):
            where = f"step {number} of run {str(self.again.run.path)!r} is not what its arithmetic gives here"
            raise RunError(f"{where}; see qsim verify")

    def _advance(self, one: _Shadow, before: Position, base: Outcome, tensors: list[Tensor]) -> float:
        began = time.perf_counter()
        position, scale = one.position(before), one.scale.scale
        own: list[Tensor] = []
        if tensors:
            own, results = capture_step(self.again, one.policy, position, ())
        else:
            results = advance(position, one.policy, one.plain, self.again.inputs(position, one.policy))
        one.scale = position.scale
        found = Outcome(before.state, position.state, results)
        if tensors:
            apart = propagation(own, tensors, scale / before.scale.scale)
            one.run.write_statistics(position.step, statistics_of(own), propagation=apart)
        one.run.append("hashes.jsonl", step_hashes(position.step, results, position.state))
        one.run.append("metrics.jsonl", _row(position.step, found, base, scale, time.perf_counter() - began))
        return float(results["loss"])


def _row(step: int, found: Outcome, base: Outcome, scale: float, seconds: float) -> dict[str, Any]:
    return {
        "step": step,
        "loss": found.loss,
        "loss_base": base.loss,
        "gradient_norm": found.norm,
        "gradient_error": relative_distance(base.gradients, found.gradients),
        "update_error": relative_distance(base.change, found.change),
        "loss_scale": scale,
        "skipped": not found.finite,
        "seconds": round(seconds, 6),
    }


# By site


def statistics_of(tensors: Sequence[Tensor]) -> dict[str, Statistics]:
    """What the roundings of a captured step did, by site and pass."""
    sums: dict[str, Statistics] = {}
    for tensor in tensors:
        if tensor.format is not None and tensor.before is not None:
            one = pr.statistics(tensor.before, tensor.format)
            sums[tensor.key] = sums[tensor.key] + one if tensor.key in sums else one
    return sums


def propagation(own: Sequence[Tensor], base: Sequence[Tensor], scale: float) -> dict[str, dict[str, Any]]:
    """By site and pass, of a shadow's tensors beside those of the recorded run's same step.

    rounding: what the site's own roundings did, sqrt(sum (after - before)^2 / sum before^2).
    error: how far what it gives out is from the recorded run's, the same way: its own rounding and all that came in.
    what_if: {underflowed, overflowed} had the recorded run's values been rounded here, to nearest even in the
    shadow's format.  added: the same counts of the shadow's own values, less those: what came of other values.
    scale: the shadow's loss scale over the recorded run's, a power of two, by which its gradients are taken here.
    """
    recorded = {(tensor.key, tensor.part): tensor for tensor in base}
    found: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys(tensor.key for tensor in own if tensor.format is not None):
        pairs = [(one, recorded[one.key, one.part]) for one in own if one.key == key]
        found[key] = _of_site(pairs, scale if key.endswith((".dgrad", ".wgrad")) else 1.0)
    return found


def _of_site(pairs: Sequence[tuple[Tensor, Tensor]], scale: float) -> dict[str, Any]:
    fmt = pairs[0][0].format or FP32
    own, after = _flat([one.before for one, _ in pairs]), _flat([one.after for one, _ in pairs])
    binades, exponent = Binades.of(_flat([other.before for _, other in pairs])), round(math.log2(scale))
    what_if = {
        "underflowed": int(binades.underflowed(fmt, exponent)),
        "overflowed": int(binades.overflowed(fmt, exponent)),
    }
    counted = pr.statistics(own, fmt)
    given = _flat([other.after for _, other in pairs]).astype(np.float64) * scale
    return {
        "rounding": relative_distance(own, after),
        "error": relative_distance(given, after),
        "what_if": what_if,
        "added": {name: getattr(counted, name) - number for name, number in what_if.items()},
    }


def _flat(arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float32).reshape(-1) for x in arrays if x is not None])
