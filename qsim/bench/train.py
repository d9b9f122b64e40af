"""One training step of each policy against the same step in plain float32 JAX: time, memory, statistics, compiling.

Bars stand at the default size: 4 layers of width 128, 2,048 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from qsim import config as configuration
from qsim.bench.gemm import PAUSE
from qsim.bench.measurement import Comparison, Contender, Timing, measure, seconds
from qsim.bench.plain_step import PlainStep, forget_compiled
from qsim.config import RunConfig
from qsim.memory import counted
from qsim.policy import Arithmetic, parse_policy
from qsim.position import AnyStep, State, advance, inputs_of, start
from qsim.recorders import StackedRecorder
from qsim.step import Step
from qsim.training import step_statistics

COUNTED = "bytes counted by hand"
PLAIN, UNROLLED = "plain float32", "plain float32, unrolled"
ON_JAX, UNCOUNTED = "same policy on JAX", "step that does not count"
DEFAULT = configuration.override(configuration.preset("small"), "model.vocabulary", 256)
EXACT_BAR, NATIVE_BAR, NUMBA_BAR, COMPILE_BAR = 3.0, 1.5, 1.0, 3.0
MEMORY_BAR = 1.5
STATISTICS_BAR, STATISTICS_EVERY = 0.10, 10
DEPTHS = (2, 8)  # at which compiling is timed
BUDGET = 20.0  # seconds of a contender's calls
DATA = "random tokens, the same at every step, seed 0; parameters go on from step to step"

Row = dict[str, Any]
Key = tuple[str, str, bool]  # policy, executor, whether the step counts
_PLAIN: Key = (PLAIN, "jax", False)
_UNROLLED: Key = (UNROLLED, "jax", False)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A policy on an executor.

    Fields
        bar: the most time, as a multiple of the plain step's; None where there is none.
        statistics: whether the step that counts is measured too.
        memory_bar: the most memory, as a multiple of what is counted by hand, at any size; None where there is none.
    """

    policy: str
    executor: str = "jax"
    bar: float | None = None
    statistics: bool = False
    memory_bar: float | None = None

    @property
    def arithmetic(self) -> Arithmetic:
        return parse_policy(self.policy)


ENTRIES = (
    Entry(policy="fp32"),
    Entry(policy="bf16", bar=EXACT_BAR, statistics=True, memory_bar=MEMORY_BAR),
    Entry(policy="fp16", bar=EXACT_BAR, statistics=True, memory_bar=MEMORY_BAR),
    Entry(policy="fp8"),
    Entry(policy="int8-train"),
    Entry(policy="native-bf16", bar=NATIVE_BAR),
    Entry(policy="native-fp16", bar=NATIVE_BAR),
    Entry(policy="bf16", executor="numba", statistics=True),
    Entry(policy="fp16", executor="numba", statistics=True),
)


def entries(policies: Sequence[str], executors: Sequence[str]) -> list[Entry]:
    """Those of ``ENTRIES`` of these policies on these executors, all by default; any other pair that is named is new.

    Errors: ValueError for an unknown policy, and where nothing is left to measure.
    """
    for policy in policies:
        parse_policy(policy)
    known = {(entry.policy, entry.executor): entry for entry in ENTRIES}
    pairs = [
        (policy, executor)
        for policy, executor in known
        if (not policies or policy in policies) and (not executors or executor in executors)
    ]
    pairs += [(policy, executor) for policy in policies for executor in executors or ("jax",)]
    if not pairs:
        raise ValueError(f"--executor {' '.join(executors)} has no policies of its own here; name some by --policy")
    return [known.get(pair) or Entry(policy=pair[0], executor=pair[1]) for pair in dict.fromkeys(pairs)]


def configured(preset: str | None, layers: int | None) -> RunConfig:
    """The size by name, ``DEFAULT`` without one, of so many layers.  ConfigError for an unknown name."""
    config = DEFAULT if preset is None else configuration.preset(preset)
    return config if layers is None else configuration.override(config, "model.layers", layers)


# Steps


class Training:
    """A call that makes the next step and returns when it is done."""

    def __init__(self, config: RunConfig, policy: Arithmetic, step: AnyStep) -> None:
        self.config, self.policy, self.step = config, policy, step
        shape = (2, config.data.batch_size, config.model.length)
        self.tokens = tuple(np.random.default_rng(0).integers(0, config.model.vocabulary, shape, np.int32))
        self.position = start(config, policy)
        self.losses: list[float] = []

    def __call__(self) -> None:
        inputs = inputs_of(self.config, self.policy, self.position, self.tokens)
        results = advance(self.position, self.policy, self.step, inputs)
        self.losses.append(float(results["loss"]))


def _plain(config: RunConfig, *, unrolled: bool = False) -> Training:
    return Training(config, parse_policy("fp32"), PlainStep(config, unrolled=unrolled))


def _emulated(config: RunConfig, entry: Entry) -> Training:
    return Training(config, entry.arithmetic, Step(config, entry.arithmetic, entry.executor, donates=True))


def _counting(config: RunConfig, entry: Entry) -> Training:
    """With all that a run does at a step of which it keeps statistics, but for writing them."""
    step = Step(config, entry.arithmetic, entry.executor, StackedRecorder, donates=True, counts_tensors=True)
    return Training(config, entry.arithmetic, partial(_counted, step))


def _counted(step: Step, state: State, tokens: Any, scalars: Any, keys: Any) -> tuple[State, dict[str, Any]]:
    new, results = step(state, tokens, scalars, keys)
    step_statistics(step, results)
    return new, results


def step_rows(config: RunConfig, *, chosen: Sequence[Entry], steps: int) -> list[Row]:
    """One row for the plain step, one for it unrolled, one an entry, all measured in turns."""
    trainings = _trainings(config, chosen)
    held = [_held(trainings[entry.policy, entry.executor, False]) for entry in chosen]
    timings = measure([_contender(one) for one in trainings.values()], steps, pause=PAUSE, budget=BUDGET)
    times = dict(zip(trainings, timings, strict=True))
    stands = config.model == DEFAULT.model and config.data == DEFAULT.data
    unrolled = _judged(PLAIN, None, times[_UNROLLED].best / times[_PLAIN].best)
    return [
        _timed(PLAIN, "jax", times[_PLAIN]),
        _timed(UNROLLED, "jax", times[_UNROLLED]) | {"plain": unrolled},
        *(
            _compared(entry, trainings, times, stands) | {"memory": _memory(config, entry, size)}
            for entry, size in zip(chosen, held, strict=True)
        ),
    ]


def _held(training: Training) -> int | None:
    """Bytes of the step, compiled ahead; None where nothing is compiled."""
    if not isinstance(training.step, Step):
        return None
    given = inputs_of(training.config, training.policy, training.position, training.tokens)
    return training.step.compile_ahead(training.position.state, given.batch, given.scalars, given.keys)


def _memory(config: RunConfig, entry: Entry, held: int | None) -> Row | None:
    """What the compiled step holds against what it has to, where it is compiled."""
    if held is None:
        return None
    sizes = counted(config, entry.arithmetic)
    ratio = held / sum(sizes.values())
    return _judged(COUNTED, entry.memory_bar, ratio, "memory") | {"bytes": held, "counted": sizes}


def _trainings(config: RunConfig, chosen: Sequence[Entry]) -> dict[Key, Training]:
    found = {_PLAIN: _plain(config), _UNROLLED: _plain(config, unrolled=True)}
    found |= {(entry.policy, entry.executor, False): _emulated(config, entry) for entry in chosen}
    return found | {
        (entry.policy, entry.executor, True): _counting(config, entry) for entry in chosen if entry.statistics
    }


def _compared(entry: Entry, trainings: Mapping[Key, Training], times: Mapping[Key, Timing], stands: bool) -> Row:
    """stands: whether the bars do."""
    key, on_jax = (entry.policy, entry.executor, False), (entry.policy, "jax", False)
    own = times[key].best
    row = _timed(entry.policy, entry.executor, times[key])
    row["plain"] = _judged(PLAIN, entry.bar if stands else None, own / times[_PLAIN].best)
    if on_jax in times and on_jax != key:
        bar = NUMBA_BAR if stands and entry.executor == "numba" else None
        row["jax"] = _judged(ON_JAX, bar, own / times[on_jax].best)
        row["losses_equal"] = _equal_losses(trainings[key], trainings[on_jax])
    if entry.statistics:
        extra = times[entry.policy, entry.executor, True].best - own
        row["statistics"] = _judged(UNCOUNTED, STATISTICS_BAR if stands else None, extra / own / STATISTICS_EVERY)
    return row


def _contender(training: Training) -> Contender:
    return Contender(name=training.policy.name, call=training, values=training.tokens[0].size)


def _timed(policy: str, executor: str, timing: Timing) -> Row:
    """A row whose comparisons are still to come."""
    return {
        "policy": policy,
        "executor": executor,
        "rounds": len(timing.samples),
        "seconds_best": timing.best,
        "seconds_median": timing.median,
        **dict.fromkeys(("plain", "jax", "losses_equal", "statistics", "memory")),
    }


def _judged(other: str, bar: float | None, ratio: float, quantity: Literal["time", "memory"] = "time") -> Row:
    comparison = Comparison(quantity=quantity, other=other, limit=bar)
    return {
        "compared_with": other,
        "quantity": comparison.quantity,
        "ratio": ratio,
        "bar": bar,
        "met": comparison.met(ratio),
    }


def _equal_losses(one: Training, other: Training) -> bool:
    """Bits of the losses of the steps that both made, each step after the updates of those before it."""
    count = min(len(one.losses), len(other.losses))
    a, b = (np.array(training.losses[:count], np.float32) for training in (one, other))
    return bool(np.array_equal(a.view(np.uint32), b.view(np.uint32)))


# Compiling


def compile_rows(config: RunConfig, *, chosen: Sequence[Entry], depth: int) -> list[Row]:
    """Seconds of the first step less those of the second, at so many layers: tracing, lowering, compiling, once."""
    at = configuration.override(config, "model.layers", depth)
    makers: list[tuple[str, Callable[[], Training]]] = [(PLAIN, partial(_plain, at))]
    makers += [(UNROLLED, partial(_plain, at, unrolled=True))]
    makers += [(entry.policy, partial(_emulated, at, entry)) for entry in chosen if entry.executor == "jax"]
    times = {name: _compile_seconds(make) for name, make in makers}
    stands = replace(config.model, layers=DEFAULT.model.layers) == DEFAULT.model and depth in DEPTHS
    return [
        {
            "policy": name,
            "layers": depth,
            "seconds": lasted,
            "plain": _of_compiling(name, lasted / times[PLAIN], stands),
        }
        for name, lasted in times.items()
    ]


def _of_compiling(name: str, ratio: float, stands: bool) -> Row | None:
    if name == PLAIN:
        return None
    return _judged(PLAIN, COMPILE_BAR if stands and name != UNROLLED else None, ratio)


def _compile_seconds(make: Callable[[], Training]) -> float:
    forget_compiled()
    training = make()
    first = seconds(training)
    return max(0.0, first - seconds(training))
