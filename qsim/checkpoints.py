"""Checkpoints: one safetensors file and one JSON file in a folder that is whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from qsim.atomic import write_atomically
from qsim.hashing import stack, unstack
from qsim.optimizer import ScaleState

PARTS = ("parameters", "first", "second")
_TENSORS, _RECORD = "state.safetensors", "state.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State after ``step`` steps: float32 master parameters and moments, loss scale, number of updates made."""

    step: int
    updates: int
    scale: ScaleState
    state: dict[str, dict[str, np.ndarray]]
    policy_sha256: str
    data_sha256: str


def checkpoint_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step}"


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write under a temporary name, flush to disk, rename: a kill leaves the last whole checkpoint.

    CheckpointError where that step has one already: no rename replaces a folder in one go.
    """
    final = checkpoint_path(run, checkpoint.step)
    if final.exists():
        raise CheckpointError(f"checkpoint {str(final)!r} exists already; remove that folder first")
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {
        f"{part}/{name}": np.ascontiguousarray(array)
        for part in PARTS
        for name, array in unstack(checkpoint.state[part]).items()
    }
    save_file(tensors, temporary / _TENSORS)
    with (temporary / _TENSORS).open("rb+") as file:
        os.fsync(file.fileno())
    write_atomically(temporary / _RECORD, json.dumps(_record(checkpoint), indent=1).encode())
    os.replace(temporary, final)


def _record(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "step": checkpoint.step,
        "updates": checkpoint.updates,
        "loss_scale": checkpoint.scale.scale,
        "good_steps": checkpoint.scale.good_steps,
        "policy_sha256": checkpoint.policy_sha256,
        "data_sha256": checkpoint.data_sha256,
    }


def load_checkpoint(run: Path, step: int) -> Checkpoint:
    """The checkpoint of that step.  CheckpointError where it is missing or damaged."""
    folder = checkpoint_path(run, step)
    if not folder.is_dir():
        raise CheckpointError(f"run {str(run)!r} has no checkpoint of step {step}; it has {saved_steps(run)}")
    try:
        record = json.loads((folder / _RECORD).read_text())
        tensors = load_file(folder / _TENSORS)
        state = {part: stack(_part(tensors, part)) for part in PARTS}
        _check_shapes(state)
        return Checkpoint(
            step=record["step"],
            updates=record["updates"],
            scale=ScaleState(scale=record["loss_scale"], good_steps=record["good_steps"]),
            state=state,
            policy_sha256=record["policy_sha256"],
            data_sha256=record["data_sha256"],
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {str(folder)!r} is damaged ({error}); remove that folder to go on from the one before"
        ) from None


def _check_shapes(state: dict[str, dict[str, np.ndarray]]) -> None:
    """Moments and parameters have the same tensors."""
    shapes = [{name: w.shape for name, w in state[part].items()} for part in PARTS]
    if not shapes[0] or any(other != shapes[0] for other in shapes):
        raise ValueError("a tensor is missing")


def _part(tensors: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def saved_steps(run: Path) -> list[int]:
    """Steps of the whole checkpoints of a run, ascending."""
    found = [path.name.removeprefix("step_") for path in (run / "checkpoints").glob("step_*") if path.is_dir()]
    return sorted(int(number) for number in found if number.isdecimal())
