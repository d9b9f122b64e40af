"""Processes of their own for a test: how many devices they have, and where they meet."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).resolve()
_PATH = os.pathsep.join(map(str, (_HERE.parents[2], _HERE.parents[1], _HERE.parent)))


COMMAND = "from qsim.cli import main; main()"
# Python starts with SIGINT ignored where its parent is a job in the background
HEEDING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def slowed(seconds: float) -> str:
    """What makes every step of a run so much longer."""
    return f"""
import time
from qsim.training import _Loop
advance = _Loop.advance
_Loop.advance = lambda loop, position: (time.sleep({seconds}), advance(loop, position))[1]
"""


def environment(devices: int) -> dict[str, str]:
    """A process of its own has so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": _PATH}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_two(*words: object, before: str = "") -> list[subprocess.Popen[str]]:
    """``qsim train`` in two processes of two devices, their weights split both ways.

    before: what each of them does first.
    """
    where = ("--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2, "--mesh", "data=2,model=2")
    command = [sys.executable, "-c", before + COMMAND, "train"]
    command += map(str, (*words, *where))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return [
        subprocess.Popen([*command, "--process", str(i)], env=environment(2), text=True, **pipes) for i in range(2)
    ]


def set_executor(folder: Path, executor: str) -> None:
    """Let a run that was begun be resumed by another executor."""
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"executor": executor}))
