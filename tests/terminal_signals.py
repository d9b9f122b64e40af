"""Signals as a process in a terminal has them."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def as_a_terminal_has_it() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, which it does not where the tests run in the background."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
