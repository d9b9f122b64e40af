"""Progress of long work: a bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol, Self


class Progress(Protocol):
    """A context manager told of every finished step."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...

    def update(self, step: int, loss: float) -> None: ...


class _Silent:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def update(self, step: int, loss: float) -> None:
        pass


class _Lines:
    """About ten lines a run."""

    def __init__(self, name: str, begun: int, steps: int) -> None:
        self.name, self.begun, self.steps = name, begun, steps
        self.every = max(1, steps // 10)
        self.started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def update(self, step: int, loss: float) -> None:
        if step % self.every and step != self.steps:
            return
        rate = (step - self.begun) / max(time.monotonic() - self.started, 1e-9)
        left = (self.steps - step) / rate
        line = f"{self.name}: step {step}/{self.steps}  loss {loss:.4f}  {rate:.1f} steps/s  {left:.0f} s left"
        print(line, file=sys.stderr, flush=True)


class _Bar:
    """A bar of rich, with steps/s and the time left."""

    def __init__(self, name: str, begun: int, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.begun, self.started = begun, time.monotonic()
        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.1f} steps/s"),
            TimeRemainingColumn(),
        )
        self.bar = RichProgress(*columns, console=Console(stderr=True))
        self.task = self.bar.add_task(name, total=steps, completed=begun, loss=float("nan"), rate=0.0)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def update(self, step: int, loss: float) -> None:
        rate = (step - self.begun) / max(time.monotonic() - self.started, 1e-9)
        self.bar.update(self.task, completed=step, loss=loss, rate=rate)


def silent(name: str, begun: int, steps: int) -> Progress:
    """Nothing is shown."""
    del name, begun, steps
    return _Silent()


def shown(name: str, begun: int, steps: int) -> Progress:
    """A bar where standard error is a terminal, else lines."""
    return (_Bar if sys.stderr.isatty() else _Lines)(name, begun, steps)
