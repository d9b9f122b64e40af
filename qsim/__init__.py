"""GPT runs under a chosen arithmetic: train, record, replay under another number format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qsim.emulation import emulate
    from qsim.recorded_run import RecordedRun, load_run

__all__ = ["RecordedRun", "emulate", "load_run"]
_PLACES = {
    "RecordedRun": "qsim.recorded_run",
    "emulate": "qsim.emulation",
    "load_run": "qsim.recorded_run",
}


def __getattr__(name: str) -> Any:
    """Public names, imported on first use."""
    if name not in _PLACES:
        raise AttributeError(f"module 'qsim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
