"""Ctrl-C and SIGTERM: asked once, a run finishes its step and saves it; asked again, it stops where it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal ended the work; ``exit_code`` is what a shell makes of it, 130 for SIGINT and 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Stop:
    """Whether a signal has asked for the end, and which."""

    signal: int | None = None


@contextmanager
def graceful() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM is noted and nothing else; the next one does what it did before.

    That is KeyboardInterrupt for Ctrl-C; SIGTERM then ends the process at once, in the middle of compiled code too.
    A signal that the process ignores, as one in the background of a shell ignores Ctrl-C, stays ignored.  Outside the
    main thread, which alone may handle signals, nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, _: Any) -> None:
        stop.signal = number
        for other in _SIGNALS:
            if signal.getsignal(other) is note:
                signal.signal(other, before[other] if other == signal.SIGINT else signal.SIG_DFL)

    left_alone = (None, signal.SIG_IGN)
    with _handling({number: note for number in _SIGNALS if before[number] not in left_alone}):
        yield stop


@contextmanager
def raising_on_termination() -> Iterator[None]:
    """Inside, SIGTERM raises Interrupted, as Ctrl-C raises KeyboardInterrupt, so that temporary files go."""

    def end(number: int, _: Any) -> None:
        raise Interrupted(number)

    main = threading.current_thread() is threading.main_thread()
    with _handling({signal.SIGTERM: end} if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else {}):
        yield


@contextmanager
def _handling(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
