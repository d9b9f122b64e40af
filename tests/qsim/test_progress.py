"""Progress: a bar on a terminal, about ten lines elsewhere, nothing where silence is asked for."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest

from qsim import progress
from qsim.progress import shown, silent


class Terminal(io.StringIO):
    """Standard error as a terminal has it."""

    def isatty(self) -> bool:
        return True


def go(begin: Any, begun: int, steps: int) -> None:
    with begin("fp16", begun, steps) as bar:
        for step in range(begun + 1, steps + 1):
            bar.update(step, 1 / step)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a second passes between any two questions for the time."""
    now = iter(range(1 << 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now) / 4)


@pytest.mark.usefixtures("clock")
def test_lines_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    go(shown, 0, 4)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "fp16: step 1/4  loss 1.0000  4.0 steps/s  1 s left",
        "fp16: step 2/4  loss 0.5000  4.0 steps/s  0 s left",
        "fp16: step 3/4  loss 0.3333  4.0 steps/s  0 s left",
        "fp16: step 4/4  loss 0.2500  4.0 steps/s  0 s left",
    ]


@pytest.mark.usefixtures("clock")
def test_speed_is_that_since_the_resumption(capsys: pytest.CaptureFixture[str]) -> None:
    go(shown, 90, 100)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "fp16: step 100/100  loss 0.0100  40.0 steps/s  0 s left"


@pytest.mark.parametrize(("steps", "lines"), [(1, 1), (9, 9), (10, 10), (19, 19), (20, 10), (200, 10), (205, 11)])
def test_about_ten_lines_and_always_the_last(capsys: pytest.CaptureFixture[str], steps: int, lines: int) -> None:
    go(shown, 0, steps)
    found = capsys.readouterr().err.splitlines()
    assert len(found) == lines
    assert f"step {steps}/{steps} " in found[-1]


def test_nothing_left_to_do_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    go(shown, 4, 4)
    assert capsys.readouterr() == ("", "")


def test_loss_that_is_not_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with shown("fp16", 0, 1) as bar:
        bar.update(1, float("nan"))
    assert "loss nan" in capsys.readouterr().err


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    go(shown, 0, 4)
    written = terminal.getvalue()
    assert "\x1b[" in written
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).strip().splitlines()[-1]
    assert "fp16" in last
    assert "4/4" in last
    assert "loss 0.2500" in last
    assert re.search(r"[\d.]+ steps/s", last)
    assert capsys.readouterr().out == ""


def test_bar_ends_when_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor comes back, and what follows begins on a line of its own."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    def interrupt() -> None:
        with shown("fp16", 0, 4) as bar:
            bar.update(1, 1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    hidden, back = "\x1b[?25l", "\x1b[?25h"
    assert terminal.getvalue().count(hidden) == terminal.getvalue().count(back) == 1
    assert terminal.getvalue().replace(back, "").endswith("\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_silence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    go(silent, 0, 20)
    assert stream.getvalue() == ""
    assert capsys.readouterr().out == ""
