"""How a run saves its checkpoints: whole, by one process, or in shards, by all of them while they compute on."""

from __future__ import annotations

import errno
import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from qsim.atomic import remove_leftovers
from qsim.checkpoints import (
    RECORD,
    Checkpoint,
    CheckpointError,
    checkpoint_path,
    files_of,
    load_checkpoint,
    refuse_saved,
    save_checkpoint,
    write_record,
    write_tensors,
)
from qsim.config import CheckpointForm
from qsim.devices import Devices
from qsim.shards_on_disk import orbax_files, require_orbax


class WholeCheckpoints:
    """One file of safetensors, written by the process that keeps the run folder, which holds all of it meanwhile."""

    def __init__(self, run: Path, devices: Devices) -> None:
        self._run, self._devices = run, devices

    def save(self, checkpoint: Checkpoint) -> None:
        """All processes call it; when it returns the checkpoint is there."""
        state = {part: self._devices.on_host(tree) for part, tree in sorted(checkpoint.state.items())}
        if self._devices.writes:
            save_checkpoint(self._run, replace(checkpoint, state=state))

    def wait(self) -> None:
        """Nothing is left to wait for."""


class ShardedCheckpoints:
    """A folder of orbax, to which every process writes its own shards in the background."""

    def __init__(self, run: Path, devices: Devices) -> None:
        require_orbax("checkpoints in shards need")
        self._run, self._devices = run, devices
        self._writer = orbax_files().Writer(devices.process)
        self._folder = run

    def save(self, checkpoint: Checkpoint) -> None:
        """All processes call it; when it returns the state may change, and the checkpoint of before is there."""
        self.wait()
        self._folder = checkpoint_path(self._run, checkpoint.step)
        refuse_saved(self._folder)
        complete = partial(_write_record_of_shards, checkpoint=replace(checkpoint, state={}))
        with self._telling():
            self._writer.save(self._folder, checkpoint.state, complete)

    def wait(self) -> None:
        """Until the last checkpoint is there.

        Errors: OSError, naming its folder, for what the system refused; CheckpointError for what else prevented it;
        RuntimeError where another process is gone.
        """
        with self._telling():
            self._writer.wait()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What orbax tells at length, or in groups, in a sentence that names the folder."""
        try:
            yield
        except (OSError, ValueError, ExceptionGroup) as error:
            if isinstance(error, TimeoutError) and self._devices.processes > 1:
                raise RuntimeError(str(error)) from error
            full = "No space left" in "".join(traceback.format_exception(error))
            number = errno.ENOSPC if full else getattr(error, "errno", None)
            if number:
                raise OSError(number, os.strerror(number), str(self._folder)) from error
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"checkpoint {str(self._folder)!r} could not be written ({reason})") from error


def checkpoints_of(form: CheckpointForm, run: Path, devices: Devices) -> WholeCheckpoints | ShardedCheckpoints:
    """What saves the checkpoints of a run.  MissingOrbax where that is not installed and needed."""
    return (ShardedCheckpoints if form == "orbax" else WholeCheckpoints)(run, devices)


def check_form(form: CheckpointForm) -> None:
    """MissingOrbax where checkpoints of that form cannot be written."""
    if form == "orbax":
        require_orbax("checkpoints in shards need")


def _write_record_of_shards(folder: Path, *, checkpoint: Checkpoint) -> None:
    write_record(folder, checkpoint, orbax_files().hashes(folder))


def convert(run: Path, step: int, form: CheckpointForm) -> bool:
    """Write a checkpoint in the other form, bit for bit, in its place; whether it was not in that form already.

    One JSON file says which files count, and changes in one go: a kill leaves the checkpoint as it was, or converted.
    This process holds all of it meanwhile.  Errors: CheckpointError for one that is damaged, MissingOrbax.
    """
    check_form(form)
    checkpoint, folder = load_checkpoint(run, step), checkpoint_path(run, step)
    if form_of(folder) == form:
        return False
    _keep_only(folder)  # what a killed conversion left
    if form == "orbax":
        orbax_files().write(folder, checkpoint.state)
        _write_record_of_shards(folder, checkpoint=checkpoint)
    else:
        write_tensors(folder, checkpoint)
    _keep_only(folder)
    return True


def form_of(folder: Path) -> CheckpointForm:
    """Of a checkpoint."""
    return "orbax" if any("/" in name for name in _files_of(folder)) else "safetensors"


def _files_of(folder: Path) -> list[str]:
    return files_of(json.loads((folder / RECORD).read_text()))


def _keep_only(folder: Path) -> None:
    """Remove from a checkpoint what its JSON does not name."""
    remove_leftovers(folder)
    kept = {RECORD, *_files_of(folder)}
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before the folder
        if path.is_file() and path.relative_to(folder).as_posix() not in kept:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
