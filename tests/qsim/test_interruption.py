"""Signals: the first is noted, the second does what it did before, and nothing of it outlasts the block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from terminal_signals import SIGNALS

from qsim.interruption import Interrupted, graceful, raising_on_termination

pytestmark = pytest.mark.usefixtures("as_a_terminal_has_it")


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with graceful() as stop:
        assert stop.signal is None
        send(number)
        assert stop.signal == number
    assert [signal.getsignal(n) for n in SIGNALS] == before


@pytest.mark.parametrize("first", SIGNALS)
def test_second_interrupt_is_immediate(first: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), graceful():  # noqa: PT012
        send(first)
        send(signal.SIGINT)


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_second_termination_ends_the_process(first: str) -> None:
    program = (
        "import os, signal; from qsim.interruption import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with raising_on_termination(), graceful():\n"
        f"    os.kill(os.getpid(), signal.{first})\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, b"")


def test_termination_raises_with_its_exit_code() -> None:
    with pytest.raises(Interrupted) as stopped, raising_on_termination():
        send(signal.SIGTERM)
    assert stopped.value.exit_code == 143
    assert Interrupted(signal.SIGINT).exit_code == 130
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", SIGNALS)
def test_ignored_signals_stay_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with raising_on_termination(), graceful() as stop:
        send(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    assert stop.signal is None


def test_other_threads_run_without() -> None:
    noted: list[object] = []

    def work() -> None:
        with raising_on_termination(), graceful() as stop:
            noted.append(stop.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert noted == [None]
