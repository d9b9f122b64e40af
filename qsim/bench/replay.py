"""Shadow replays under so many policies against training steps under the same policies.

A shadow replay computes the recorded run's own step besides, for which the bar, 1.5 plain steps a policy, leaves half
a step a policy.  A plain step is hashed, as a run's are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qsim.bench.measurement import Comparison, Contender, measure
from qsim.config import override_all, preset
from qsim.hashing import step_hashes
from qsim.policy import Arithmetic, parse_policy
from qsim.position import Position, advance, inputs_of
from qsim.rerun import Rerun
from qsim.shadow import ShadowWalk
from qsim.step import Step
from qsim.training import train_new

BASE, POLICIES = "fp32", ("bf16", "fp16", "fp16-ln16", "int8-train")
BAR = 1.5
STEPS = 3  # of the recorded run, gone through again and again
BUDGET = 20.0
DATA = "the embedded text, statistics left out"

Row = dict[str, Any]


def rows(size: str, *, base: str, policies: Sequence[str], steps: int) -> list[Row]:
    """One row for each number of policies, 1 ... all of them: a step of the replay over that many plain steps."""
    with tempfile.TemporaryDirectory() as folder:
        changes: dict[str, Any] = {"steps": STEPS, "record.statistics_every": 0}
        config = override_all(preset(size), changes.items())
        run = train_new(Path(folder) / "base", config, base, "numba", None)
        again, chosen = Rerun(run), [parse_policy(name) for name in policies]
        plain = [_plain(again, policy) for policy in chosen]
        shadows = [
            _shadow(ShadowWalk.begun(run, again, chosen[:count], Path(folder) / f"shadow-{count}"))
            for count in range(1, len(chosen) + 1)
        ]
        contenders = [Contender(name="step", call=call, values=1) for call in (*plain, *shadows)]
        timings = measure(contenders, steps, budget=BUDGET)
    own = [timing.best for timing in timings[: len(chosen)]]
    return [_row(policies[: n + 1], timing.best, sum(own[: n + 1])) for n, timing in enumerate(timings[len(own) :])]


def _plain(again: Rerun, policy: Arithmetic) -> Callable[[], None]:
    """A training step under a policy, from the recorded run's first weights every time."""
    step, start = Step(again.config, policy, again.executor), again.at(0)
    tokens = again.inputs(start).batch

    def call() -> None:
        position = Position(start.step, start.updates, start.scale, start.state)
        results = advance(position, policy, step, inputs_of(again.config, policy, position, tokens))
        step_hashes(position.step, results, position.state)

    return call


def _shadow(walk: ShadowWalk) -> Callable[[], None]:
    """One step of the recorded run and of all its shadows."""
    position = walk.again.at(0)

    def call() -> None:
        nonlocal position
        if position.step == STEPS:
            position = walk.again.at(0)
        walk.advance(position)

    return call


def _row(policies: Sequence[str], seconds: float, plain: float) -> Row:
    comparison = Comparison(quantity="time", other="plain steps under the same policies", limit=BAR)
    ratio = seconds / plain
    return {
        "policies": list(policies),
        "seconds": seconds,
        "seconds_plain": plain,
        "ratio": ratio,
        "bar": BAR,
        "met": comparison.met(ratio),
    }
