"""One of several processes that train together: how it finds the others, and how it ends when one of them is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from precision.backends import get_backend
from qsim.config import ConfigError
from qsim.mesh import Mesh

_on_abort: Any = None  # the handler in force, which C calls and Python must keep


def join_processes(
    coordinator: str | None, processes: int | None, process: int | None, mesh: Mesh | None
) -> tuple[Mesh, bool]:
    """Make this process one of several that train together; all None: as the cluster says.

    -> (the mesh, by default every device of all of them along ``data``; whether this process is the first).
    Errors: ConfigError where the processes do not find each other, or the mesh leaves a device out.
    """
    devices = get_backend("jax").devices
    try:
        devices.join_processes(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the processes did not find each other ({_in_one_line(error)}); give each --coordinator, --processes "
            "and --process"
        ) from None
    every = Mesh(data=devices.device_count())
    if mesh is not None and mesh.count != every.count:
        raise ConfigError(f"mesh {mesh} is not of all {every.count} devices of the processes; name one that is")
    return mesh or every, devices.process_index() == 0


@contextmanager
def ending_with_the_others(remedy: str, *, show: bool = False) -> Iterator[None]:
    """Inside, the end of another process is that of this one: a sentence on standard error, exit code 1.

    A connection that breaks is an error in the next collective operation.  Where the first process is gone, or one
    answers no more, JAX's coordination aborts the process past Python: hence a handler in C's sense.  Either way
    nothing is undone on the way out, for JAX would wait there for the processes that are missing.
    show: where the error came from, too.
    """
    lost = "another process of this run ended or answers no more"
    _handle_abort(f"{lost}; {remedy}")
    try:
        yield
    except RuntimeError as error:
        if show:
            traceback.print_exc()
        _end(f"{lost} ({_in_one_line(error)}); {remedy}")


def _handle_abort(sentence: str) -> None:
    global _on_abort
    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: _end(sentence))
    library = ctypes.CDLL(None)
    library.signal.restype = ctypes.c_void_p  # which ctypes would cut to an int
    library.signal(signal.SIGABRT, _on_abort)


def _end(sentence: str) -> NoReturn:
    sys.stdout.flush()
    os.write(2, f"qsim train: {sentence}\n".encode())
    os._exit(1)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
