"""Processes of their own for a test: how many devices they have, and where they meet."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve()
_PATH = os.pathsep.join(map(str, (_HERE.parents[2], _HERE.parents[1], _HERE.parent)))


COMMAND = "from qsim.cli import console; console()"
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


_PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def start_one(*words: object, before: str = "", devices: int = 1) -> subprocess.Popen[str]:
    """``qsim train`` in a process of so many devices."""
    command = [sys.executable, "-c", before + COMMAND, "train", *map(str, words)]
    return subprocess.Popen(command, env=environment(devices), **_PIPES)


def start_eight(*words: object, before: str = "") -> subprocess.Popen[str]:
    """``qsim train`` in one process of eight devices, their weights split both ways."""
    return start_one(*words, "--mesh", "data=4,model=2", before=before, devices=8)


def start_two(*words: object, before: str = "", cluster: bool = False) -> list[subprocess.Popen[str]]:
    """``qsim train`` in two processes of two devices, their weights split both ways.

    before: what each of them does first.  cluster: they learn from Slurm's variables where they meet, not from words.
    """
    command = [sys.executable, "-c", before + COMMAND, "train"]
    command += map(str, (*words, "--mesh", "data=2,model=2"))
    if cluster:
        tasks = [slurm(i, 2) for i in range(2)]
        return [subprocess.Popen([*command, "--distributed"], env=environment(2) | task, **_PIPES) for task in tasks]
    command += ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2", "--process"]
    return [subprocess.Popen([*command, str(i)], env=environment(2), **_PIPES) for i in range(2)]


def slurm(task: int, tasks: int) -> dict[str, str]:
    """What Slurm tells a task of a job on this machine; of its number JAX makes the port, one of the last 4096."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": str(tasks)}
    return job | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)}


def set_executor(folder: Path, executor: str) -> None:
    """Let a run that was begun be resumed by another executor."""
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"executor": executor}))
