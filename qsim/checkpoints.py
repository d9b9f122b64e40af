"""Checkpoints: one safetensors file and one JSON file in a folder that is whole or absent.

The JSON holds the SHA-256 of the tensors' file and, under "sha256", of its own other fields; both are compared when a
checkpoint is loaded.  Checkpoints written before these were recorded are loaded without.  In place of the one file
there may be a folder of shards, each of its files named in the JSON (``qsim.sharded_checkpoints``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from qsim.atomic import naming, sync_file, sync_folder, write_atomically
from qsim.hashing import file_sha256, stack, unstack
from qsim.optimizer import ScaleState
from qsim.shards_on_disk import MissingOrbax, read_shards

if TYPE_CHECKING:
    from qsim.devices import Devices

PARTS = ("parameters", "first", "second")
_TENSORS, RECORD = "state.safetensors", "state.json"
_FACTS = ("step", "updates", "loss_scale", "good_steps", "policy_sha256", "data_sha256")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, in one sentence."""


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was passed over, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State after ``step`` steps: parameters, moments, what else the policy keeps; loss scale, updates made."""

    step: int
    updates: int
    scale: ScaleState
    state: dict[str, dict[str, Any]]
    policy_sha256: str
    data_sha256: str


def checkpoint_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step}"


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write under a temporary name, flush to disk, rename: a kill leaves the last whole checkpoint.

    CheckpointError where that step has one already: no rename replaces a folder in one go.
    """
    final = checkpoint_path(run, checkpoint.step)
    refuse_saved(final)
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming(final):
            temporary.mkdir(parents=True)
            write_tensors(temporary, checkpoint)
            os.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(final.parent)


def refuse_saved(folder: Path) -> None:
    """CheckpointError where a checkpoint is there."""
    if folder.exists():
        raise CheckpointError(f"checkpoint {str(folder)!r} exists already; remove that folder first")


def write_tensors(folder: Path, checkpoint: Checkpoint) -> None:
    """The one file of tensors, then the JSON."""
    tensors = {
        f"{part}/{name}": np.ascontiguousarray(array)
        for part, tree in checkpoint.state.items()
        for name, array in unstack(tree).items()
    }
    try:
        save_file(tensors, folder / _TENSORS)
    except SafetensorError as error:  # of the system's errors it keeps the number in its text alone
        number = re.search(r"os error (\d+)", str(error))
        raise (OSError(int(number[1]), "") if number else OSError(str(error))) from None
    sync_file(folder / _TENSORS)
    write_record(folder, checkpoint, {_TENSORS: file_sha256(folder / _TENSORS)})


def write_record(folder: Path, checkpoint: Checkpoint, files: dict[str, str]) -> None:
    """The JSON, without which the folder is no checkpoint; files: SHA-256 by path in the folder."""
    record = _record(checkpoint) | {"files": files}
    record["sha256"] = _record_sha256(record)
    write_atomically(folder / RECORD, json.dumps(record, indent=1).encode())


def _record_sha256(record: dict[str, Any]) -> str:
    """Of all fields but itself, as JSON with sorted keys."""
    fields = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _record(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "step": checkpoint.step,
        "updates": checkpoint.updates,
        "loss_scale": checkpoint.scale.scale,
        "good_steps": checkpoint.scale.good_steps,
        "policy_sha256": checkpoint.policy_sha256,
        "data_sha256": checkpoint.data_sha256,
    }


def load_last_checkpoint(run: Path, devices: Devices | None = None) -> Checkpoint | None:
    """The newest checkpoint that is whole, None where there is none; ``devices`` as ``load_checkpoint`` takes them.

    A damaged one on the way is renamed to ``step_<N>.damaged``, so that its step can be saved again, and a
    CheckpointWarning says so.
    """
    for step in reversed(saved_steps(run)):
        try:
            return load_checkpoint(run, step, devices)
        except CheckpointError as error:
            if devices is None or devices.writes:
                _put_aside(checkpoint_path(run, step), str(error).partition(";")[0])
            if devices is not None:
                devices.largest_of_processes(0)  # until it is
    return None


def _put_aside(folder: Path, reason: str) -> None:
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    warnings.warn(f"{reason}; it is now {aside.name!r} and the one before it is used", CheckpointWarning, 3)


def load_checkpoint(run: Path, step: int, devices: Devices | None = None) -> Checkpoint:
    """The checkpoint of that step.

    devices: of several processes all ask; each checks its share of the files, and reads of shards what its devices
    hold.  Otherwise arrays are NumPy's.
    Errors: CheckpointError where it is missing, or damaged, in all processes then; MissingOrbax for shards.
    """
    folder = checkpoint_path(run, step)
    if not folder.is_dir():
        raise CheckpointError(f"run {str(run)!r} has no checkpoint of step {step}; it has {saved_steps(run)}")
    share = slice(0, None) if devices is None else slice(devices.process, None, devices.processes)
    try:
        with _agreed(devices):
            record = json.loads((folder / RECORD).read_text())
            _check_hashes(folder, step, record, share)
        state = read_shards(folder, devices) if _TENSORS not in files_of(record) else _read_tensors(folder)
        _check_shapes(state)
        return Checkpoint(
            step=record["step"],
            updates=record["updates"],
            scale=ScaleState(scale=record["loss_scale"], good_steps=record["good_steps"]),
            state=state,
            policy_sha256=record["policy_sha256"],
            data_sha256=record["data_sha256"],
        )
    except MissingOrbax:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {str(folder)!r} is damaged ({error}); remove that folder to go on from the one before"
        ) from None


@contextmanager
def _agreed(devices: Devices | None) -> Iterator[None]:
    """What goes wrong inside in one process is an error in all of them."""
    found: Exception | None = None
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError) as error:
        found = error
    wrong = devices is not None and devices.largest_of_processes(int(found is not None)) > 0
    if found or wrong:
        raise found or ValueError("another process found it altered")


def files_of(record: dict[str, Any]) -> list[str]:
    """Paths, in its folder, of the files of a checkpoint of that JSON; of shards there are many."""
    return sorted(record.get("files", [_TENSORS]))


def _read_tensors(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    tensors = load_file(folder / _TENSORS)
    further = {name.partition("/")[0] for name in tensors} - set(PARTS)
    return {part: stack(_part(tensors, part)) for part in (*PARTS, *sorted(further))}


def _check_hashes(folder: Path, step: int, record: dict[str, Any], share: slice) -> None:
    """The record is that of this step and unchanged, and so is a share of the files it names."""
    if record["step"] != step:
        raise ValueError(f"it is of step {record['step']}")
    if set(record) == set(_FACTS):  # written before hashes were
        return
    if _record_sha256(record) != record["sha256"]:
        raise ValueError(f"{RECORD} was altered")
    for name in files_of(record)[share]:
        if file_sha256(folder / name) != record["files"][name]:
            raise ValueError(f"{name} was altered")


def _check_shapes(state: dict[str, dict[str, Any]]) -> None:
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
