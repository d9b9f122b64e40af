"""A recorded run computed again: from its checkpoints to any of its steps, every tensor of a step if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from qsim.capture import Tensor, TensorRecorder, results_of, tensors_of
from qsim.checkpoints import load_checkpoint, saved_steps
from qsim.data import Corpus, load_data
from qsim.faults import Fault, check_faults
from qsim.policy import Arithmetic
from qsim.position import Inputs, Position, advance, batch_of, inputs_of
from qsim.recorders import Recorder
from qsim.runs import RunError, RunFolder
from qsim.step import Step


class Rerun:
    """The steps of a recorded run, computed again.

    executor: that of the run unless given; where its policy promises bits, Numba in place of JAX, which has to
    compile first and gives the same.  data: where its tokens now lie; corpus: the tokens themselves, read already.
    """

    def __init__(
        self, run: RunFolder, *, executor: str | None = None, data: Path | None = None, corpus: Corpus | None = None
    ) -> None:
        self.run, self.config, self.policy = run, run.config, run.policy
        recorded = "numba" if run.executor == "jax" and self.policy.promises_bits else run.executor
        self.executor = executor or recorded
        self.corpus = load_data(run.path, data) if corpus is None else corpus
        self.faults = run.faults
        check_faults(self.faults, self.config, self.policy, 1)

    @cached_property
    def _plain(self) -> Step:
        return Step(self.config, self.policy, self.executor)

    def step(self, number: int) -> Step:
        """What computes a step, with the faults that were planted in it."""
        planted = [fault for fault in self.faults if fault.step == number]
        return Step(self.config, self.policy, self.executor, faults=planted) if planted else self._plain

    def inputs(self, position: Position, policy: Arithmetic | None = None) -> Inputs:
        """Of the step after a position, under the run's policy or another."""
        tokens = batch_of(self.config, self.corpus, position.step + 1)
        return inputs_of(self.config, policy or self.policy, position, tokens)

    def saved(self, step: int) -> Position:
        """The last checkpoint at or before a step.  RunError where there is none."""
        found = saved_steps(self.run.path)
        steps = [saved for saved in found if saved <= step]
        if not steps:
            raise RunError(f"run {str(self.run.path)!r} has no checkpoint of step {step} or before; it has {found}")
        return Position.of(load_checkpoint(self.run.path, steps[-1]))

    def at(self, step: int) -> Position:
        """After so many steps, computed from the last checkpoint before."""
        position = self.saved(step)
        while position.step < step:
            self.advance(position)
        return position

    def advance(self, position: Position) -> dict[str, Any]:
        """One step on; its results."""
        return advance(position, self.policy, self.step(position.step + 1), self.inputs(position))

    def captured(self, position: Position) -> list[Tensor]:
        """One step on; every tensor of it, in the order of computing, results last."""
        tensors, results = capture_step(self, self.policy, position, self.faults)
        return tensors + results_of(results, position.state)


def capture_step(
    again: Rerun, policy: Arithmetic, position: Position, faults: Sequence[Fault]
) -> tuple[list[Tensor], dict[str, Any]]:
    """One step on under a policy, from a position of a recorded run: every tensor that it rounds, and its results."""
    made: list[TensorRecorder] = []

    def recorder() -> Recorder:
        made.append(TensorRecorder())
        return made[-1]

    planted = [fault for fault in faults if fault.step == position.step + 1]
    step = Step(again.config, policy, again.executor, recorder, faults=planted)
    results = advance(position, policy, step, again.inputs(position, policy))
    return tensors_of(made[-1], results["records"], step.formats), results
