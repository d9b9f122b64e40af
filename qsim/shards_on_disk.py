"""Checkpoints in shards, which orbax writes and reads: imported when the first of them is."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qsim.devices import Devices


class MissingOrbax(ValueError):
    """Shards are to be written or read, and orbax is not installed; one sentence."""


def require_orbax(what: str) -> None:
    """MissingOrbax, naming what needs it, where it is not installed; imports nothing."""
    if find_spec("orbax") is None or find_spec("orbax.checkpoint") is None:
        raise MissingOrbax(f"{what} orbax, which is not installed; install qsim-precision[orbax]")


def orbax_files() -> Any:
    """``qsim.orbax_files``."""
    return import_module("qsim.orbax_files")


def read_shards(folder: Path, devices: Devices | None) -> dict[str, dict[str, Any]]:
    """The state of a checkpoint in shards: of each process what its devices hold, or NumPy arrays on one device."""
    require_orbax(f"checkpoint {str(folder)!r} is in shards, and reading them needs")
    return orbax_files().read(folder, lambda part, name: None if devices is None else devices.sharding(part, name))
