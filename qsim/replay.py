"""Replay: the same run, the same start, the same batches and dropout, another arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from qsim.checkpointing import check_form
from qsim.config import ConfigError, RunConfig
from qsim.data import Corpus, load_data, reference_data
from qsim.devices import find_devices
from qsim.fault_elements import check_elements
from qsim.faults import Fault, check_faults
from qsim.mesh import Mesh
from qsim.optimizer import ScaleState
from qsim.policy import Arithmetic
from qsim.progress import Progress, silent
from qsim.rerun import Rerun
from qsim.runs import RunError, RunFolder, identity, require_new
from qsim.training import train


def replay(
    parent: RunFolder,
    policy: Arithmetic,
    out: Path,
    *,
    executor: str | None = None,
    first: int | None = None,
    steps: int | None = None,
    data: Path | None = None,
    corpus: Corpus | None = None,
    progress: Callable[..., Progress] = silent,
    mesh: Mesh | None = None,
    faults: Sequence[Fault] = (),
) -> RunFolder:
    """Run a recorded run again under another policy, freely: from its first weights, each step from the last.

    executor: that of the parent unless given.  first: from the state the parent had after so many steps, moments and
    all, where it began unless given; the loss scale is the parent's where both scale alike.  steps: only so
    many from there.  data: where its tokens now lie; corpus: the tokens themselves, where they are read already.
    mesh: as in ``train``, of this process alone.  faults: planted in the replay.
    Writes a run folder that names its parent, and refuses tokens whose hash differs from the recorded one.
    """
    corpus = load_data(parent.path, data) if corpus is None else corpus
    first = parent.first if first is None else first
    config = parent.config
    if first or steps is not None:
        config = _cut(config, last_step(parent, first, steps))
    executor = executor or parent.executor
    find_devices(config, policy, executor, mesh)  # refused before anything is written
    check_faults(faults, config, policy, 1 if mesh is None else mesh.count)
    check_elements(faults, config, policy)
    check_form(config.record.checkpoints)
    require_new(out)
    position = Rerun(parent, corpus=corpus).at(first)
    if first == 0 or parent.policy.loss_scaling != policy.loss_scaling:
        position.scale = ScaleState.start(policy.loss_scaling)
    named = identity(parent, out, position.state["parameters"]) | ({"from": first} if first else {})
    run = RunFolder.create(out, config, policy, executor, named, mesh, faults)
    reference_data(run.path, corpus, parent.path)
    return train(run, corpus, begin=position, progress=progress, mesh=mesh)


def last_step(parent: RunFolder, first: int, steps: int | None) -> int:
    """The last of so many steps after ``first``.  RunError where the run does not have them."""
    total = parent.config.steps
    if not 0 <= first < total:
        raise RunError(f"--from is {first}; the run has steps 1 to {total}, so give 0 to {total - 1}")
    last = total if steps is None else first + steps
    if last > total:
        after = f" after step {first}" if first else ""
        raise RunError(f"the run has {total - first} steps{after}, so {steps} cannot be replayed; leave out --steps")
    if last <= first:
        raise ConfigError(f"steps is {steps}; it must be at least 1")
    return last


def _cut(config: RunConfig, last: int) -> RunConfig:
    """The configuration cut to its first steps, the learning rate of each as it was."""
    decay = config.optimizer.decay_steps or config.steps
    return dataclasses.replace(config, steps=last, optimizer=dataclasses.replace(config.optimizer, decay_steps=decay))


def resume(
    run: RunFolder,
    *,
    data: Path | None = None,
    progress: Callable[..., Progress] = silent,
    mesh: Mesh | None = None,
) -> RunFolder:
    """Carry an interrupted run or replay to its end, on any mesh; a finished one is left as it is."""
    if run.finished:
        return run
    return train(run, load_data(run.path, data), resume=True, progress=progress, mesh=mesh)
