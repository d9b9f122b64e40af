"""Contenders timed in turns, so that what slows the machine for a while slows all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SAMPLE_SECONDS = 0.004  # a sample repeats a shorter call until it lasts so long: the clock's own cost vanishes in it


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A contender against another one of the same format: its speed, time or memory as a multiple of the other's.

    Fields
        limit: the bar: the least speed, or the most time or memory; None where only the ratio is of interest.
    """

    quantity: Literal["speed", "time", "memory"]
    other: str
    limit: float | None = None

    def ratio(self, own_time: float, other_time: float) -> float:
        return other_time / own_time if self.quantity == "speed" else own_time / other_time

    def met(self, ratio: float) -> bool | None:
        if self.limit is None:
            return None
        return ratio >= self.limit if self.quantity == "speed" else ratio <= self.limit


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Something to time.

    Fields
        call: does the work once and returns when it is done, with the result.
        format: of the values that come out; None for a copy.
        values: handled by one call.
        comparison: with what it is compared besides the copy.
        claims_nearest: whether the result is said to be the values rounded to nearest even.
    """

    name: str
    call: Callable[[], Any]
    values: int
    format: str | None = None
    comparison: Comparison | None = None
    claims_nearest: bool = False


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, sample by sample."""

    samples: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


def measure(
    contenders: Sequence[Contender],
    repeats: int,
    *,
    pause: float = 0.0,
    settling: float = 0.0,
    budget: float = math.inf,
) -> list[Timing]:
    """Every contender in turn, the whole round ``repeats`` times; what a first call compiles is not counted.

    pause: seconds before each turn.
    settling: seconds of calls at the beginning of each turn that are not counted: threads that slept wake up one by
        one, on one core at first, and for milliseconds.
    budget: seconds of calls after which a contender leaves out the rounds that are left.
    """
    plans = [_plan(contender.call, repeats, budget) for contender in contenders]
    samples: list[list[float]] = [[] for _ in contenders]
    for turn in range(repeats):
        for contender, (count, rounds), taken in zip(contenders, plans, samples, strict=True):
            if turn < rounds:
                time.sleep(pause)
                _settle(contender.call, settling)
                taken.append(_settled_seconds(contender.call, count))
    return [Timing(tuple(taken)) for taken in samples]


def _plan(call: Callable[[], Any], repeats: int, budget: float) -> tuple[int, int]:
    """Calls a sample, and rounds, one at least."""
    call()
    lasted = seconds(call)
    return max(1, math.ceil(SAMPLE_SECONDS / lasted)), max(1, int(min(repeats, budget / lasted)))


def _settle(call: Callable[[], Any], lasting: float) -> None:
    end = time.perf_counter() + lasting
    while time.perf_counter() < end:
        call()


def _settled_seconds(call: Callable[[], Any], count: int) -> float:
    """Of short calls, after as many that are not counted: by then the last contender's data have left the caches, and
    its threads, which wait for more work for milliseconds, the cores.
    """
    if count > 1:
        seconds(call, count)
    return seconds(call, count)


def seconds(call: Callable[[], Any], count: int = 1) -> float:
    """Of one call, from so many in a row."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count
