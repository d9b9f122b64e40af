"""A state as a folder of orbax: every process writes its own shards while it computes on; read whole or by shards.

    NAME of the step's folder/orbax/     written under another name, which changes hands when all of it is there
        ocdbt.process_<I>/               what process I wrote
        manifest.ocdbt, d/, _METADATA    what the first one made of all of that

Parameters and moments lie as they are held, blocks stacked, under the names of the parts of a state.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from qsim.atomic import write_atomically
from qsim.hashing import file_sha256

FOLDER = "orbax"
State = dict[str, dict[str, Any]]
_HASHES = "sha256.process_{}.json"


class Writer:
    """Saves one state after another in the background; all processes call its methods together."""

    def __init__(self, process: int) -> None:
        self._handler = _Hashing(process)
        self._complete: Callable[[Path], None] = lambda _: None
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(**{FOLDER: self._handler}),
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=self._completed,
                create_directories_asynchronously=False,  # where none can be made, threads would wait for it
            ),
        )

    def save(self, folder: Path, state: State, complete: Callable[[Path], None]) -> None:
        """Begin to write ``folder``, once the one before is there; when this returns the state may change.

        complete: called in the first process alone, with the folder as it is called until then, before it is renamed.
        """
        self.wait()
        self._complete = complete
        self._checkpointer.save(folder.absolute(), args=ocp.args.Composite(**{FOLDER: _Save(_own(state))}))

    def _completed(self) -> None:
        self._complete(self._handler.written.parent)

    def wait(self) -> None:
        """Until what was begun is there, or raises what prevented it."""
        self._checkpointer.wait_until_finished()


def write(folder: Path, state: State) -> None:
    """``folder`` / orbax of a state that this process alone holds."""
    with ocp.Checkpointer(_Hashing(0)) as checkpointer:
        checkpointer.save(folder.absolute() / FOLDER, args=_Save(_own(state)))


def read(folder: Path, sharding: Callable[[str, str], Any]) -> State:
    """The state in ``folder`` / orbax: NumPy arrays, and JAX arrays wherever sharding(part, name) is not None.

    Of those a process reads what its devices hold.
    """
    path = epath.Path(folder.absolute() / FOLDER)
    handler = ocp.PyTreeCheckpointHandler()
    trees = handler.metadata(path).tree
    kinds = {part: {name: _kind(sharding(part, name)) for name in tree} for part, tree in trees.items()}
    with ocp.Checkpointer(handler) as checkpointer:
        return checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=kinds))


def _kind(sharding: Any) -> ocp.RestoreArgs:
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding)


def _own(state: State) -> State:
    """With copies of NumPy arrays, which the next step may overwrite."""
    return {
        part: {name: x.copy() if isinstance(x, np.ndarray) else x for name, x in tree.items()}
        for part, tree in state.items()
    }


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of ``folder`` / orbax by its path from ``folder``; called by the first process.

    What a process has left of its own files is taken, and the rest computed.
    """
    found: dict[str, str] = {}
    for path in (folder / FOLDER).glob(_HASHES.format("*")):
        found |= {f"{FOLDER}/{name}": value for name, value in json.loads(path.read_text()).items()}
        path.unlink()
    files = sorted(path for path in (folder / FOLDER).rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: found.get(name) or file_sha256(path) for name, path in names.items()}


class _Hashing(ocp.PyTreeCheckpointHandler):
    """Which hashes the files of its own process once they are written, before it says so to the others."""

    def __init__(self, process: int) -> None:
        super().__init__()
        self._process = process
        self.written = Path()  # under its temporary name

    async def async_save(self, directory: Any, *args: Any, **kwargs: Any) -> list[Any]:
        self.written = Path(directory)
        return [_Then(await super().async_save(directory, *args, **kwargs) or [], self._hash)]

    def _hash(self) -> None:
        own = (path for path in (self.written / f"ocdbt.process_{self._process}").rglob("*") if path.is_file())
        found = {path.relative_to(self.written).as_posix(): file_sha256(path) for path in own}
        write_atomically(self.written / _HASHES.format(self._process), json.dumps(found).encode())


@ocp.args.register_with_handler(_Hashing, for_save=True, for_restore=True)
@dataclass
class _Save(ocp.args.PyTreeSave):
    """What ``_Hashing`` saves."""


class _Then:
    """As a future of orbax: others, and what is done after them."""

    def __init__(self, futures: list[Any], last: Callable[[], None]) -> None:
        self._futures, self._last = futures, last

    def result(self, timeout: int | None = None) -> None:
        for future in self._futures:
            future.result(timeout)
        self._last()
