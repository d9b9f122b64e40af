"""What XLA compiles for: the default device's platform, or that of a machine which is not here."""

from __future__ import annotations

import jax

_absent: list[str] = []


def platform() -> str:
    """``cpu``, ``gpu``, ``tpu``, ..."""
    return _absent[0] if _absent else jax.default_backend()


def compile_for(name: str) -> None:
    """From now on whatever this process traces is for that platform; for a process that computes nothing itself.

    Functions that were traced before keep what they were traced for: to be called before any is.
    """
    _absent[:] = [name]
