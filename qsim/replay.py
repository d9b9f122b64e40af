"""Replay: the same run, the same start, the same batches and dropout, another arithmetic."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qsim.checkpoints import load_checkpoint
from qsim.config import RunConfig
from qsim.data import load_data, reference_data
from qsim.devices import find_devices
from qsim.faults import Fault, check_faults
from qsim.hashing import tree_hash
from qsim.mesh import Mesh
from qsim.policy import Arithmetic
from qsim.progress import Progress, silent
from qsim.runs import RunError, RunFolder
from qsim.training import train


def replay(
    parent: RunFolder,
    policy: Arithmetic,
    out: Path,
    *,
    executor: str | None = None,
    steps: int | None = None,
    data: Path | None = None,
    progress: Callable[..., Progress] = silent,
    mesh: Mesh | None = None,
    faults: Sequence[Fault] = (),
) -> RunFolder:
    """Run a recorded run again under another policy, freely: from its first weights, each step from the last.

    executor: that of the parent unless given.  steps: only the first so many.  data: where its tokens now lie.
    mesh: as in ``train``, of this process alone.  faults: planted in the replay.
    Writes a run folder that names its parent, and refuses tokens whose hash differs from the recorded one.
    """
    corpus = load_data(parent.path, data)
    start = load_checkpoint(parent.path, 0).state["parameters"]
    config = parent.config
    if steps is not None:
        config = _first_steps(config, steps)
    executor = executor or parent.executor
    find_devices(config, policy, executor, mesh)  # refused before anything is written
    check_faults(faults, config, policy, 1 if mesh is None else mesh.count)
    run = RunFolder.create(out, config, policy, executor, _identity(parent, out, start), mesh, faults)
    reference_data(run.path, corpus, parent.path)
    return train(run, corpus, parameters=start, progress=progress, mesh=mesh)


def _first_steps(config: RunConfig, steps: int) -> RunConfig:
    """The configuration cut to its first steps, the learning rate of each as it was."""
    if steps > config.steps:
        raise RunError(f"the run has {config.steps} steps, so {steps} cannot be replayed; leave out --steps")
    last = config.optimizer.decay_steps or config.steps
    optimizer = dataclasses.replace(config.optimizer, decay_steps=last)
    return dataclasses.replace(config, steps=steps, optimizer=optimizer)


def _identity(parent: RunFolder, out: Path, start: dict[str, Any]) -> dict[str, Any]:
    """How a replay names the run it repeats: relative path, hash of its first weights, policy."""
    where = os.path.relpath(parent.path.resolve(), out.resolve())
    return {"path": Path(where).as_posix(), "hash": tree_hash(start), "policy": parent.policy.name}


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
