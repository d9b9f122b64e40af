"""Processes of their own for a test: how many devices they have, and where they meet."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_HERE = Path(__file__).resolve()
_PATH = os.pathsep.join(map(str, (_HERE.parents[2], _HERE.parents[1], _HERE.parent)))


def environment(devices: int) -> dict[str, str]:
    """A process of its own has so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": _PATH}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
