"""Where a run stands between two steps, and the step that carries it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from qsim.checkpoints import Checkpoint
from qsim.config import RunConfig
from qsim.corpus import Corpus
from qsim.data import Batch, batch
from qsim.delayed_scaling import PART, first_histories
from qsim.devices import Devices, whole
from qsim.model import Part, initial_part, parameter_shapes, step_keys
from qsim.optimizer import ScaleState, step_scalars
from qsim.policy import Arithmetic

State = dict[str, dict[str, Any]]
AnyStep = Callable[..., tuple[State, dict[str, Any]]]  # of (state, batch, scalars, keys), as ``qsim.step.Step``


@dataclass
class Position:
    """After ``step`` steps: so many updates were made, the loss scale and the state are these."""

    step: int
    updates: int
    scale: ScaleState
    state: State

    @classmethod
    def of(cls, saved: Checkpoint) -> Position:
        return cls(saved.step, saved.updates, saved.scale, dict(saved.state))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What one step is given beside the state: tokens and targets (B, T), the host's numbers, keys of its draws."""

    batch: tuple[Any, Any]
    scalars: dict[str, Any]
    keys: dict[str, np.ndarray] | None


@dataclass(frozen=True, kw_only=True)
class FirstWeights:
    """Parameters to begin with, float32 by name, in place of those drawn from the seed.

    source: the model that they are of; sha256: ``qsim.hashing.tree_hash`` of them.
    """

    parameters: dict[str, np.ndarray]
    source: str
    sha256: str


def start(
    config: RunConfig, policy: Arithmetic, weights: FirstWeights | None = None, devices: Devices | None = None
) -> Position:
    """Step 0: parameters drawn from the seed unless given, moments at zero, the policy's first loss scale.

    devices: of a mesh each has its own parts made, and nothing is made whole; given weights are whole already.
    """
    make = whole if devices is None else devices.make
    shapes = sorted(parameter_shapes(config.model).items())
    if weights is None:
        drawn = partial(initial_part, config.model, config.seed)
        first = {name: make(name, shape, partial(drawn, name)) for name, shape in shapes}
    else:
        first = dict(weights.parameters)
    state: State = {"parameters": first}
    state |= {part: {name: make(name, shape, _zeros) for name, shape in shapes} for part in ("first", "second")}
    return Position(0, 0, ScaleState.start(policy.loss_scaling), fitting(policy, state))


def _zeros(part: Part) -> np.ndarray:
    return np.zeros(tuple(stop - start for start, stop in part), np.float32)


def fitting(policy: Arithmetic, state: State) -> State:
    """A state as a policy's steps take it: with histories, at first empty, where operands are scaled by them."""
    parts = {part: tree for part, tree in state.items() if part != PART}
    if policy.delays:
        layers = len(state["parameters"]["blocks.qkv.weight"])
        parts[PART] = state.get(PART) or first_histories(policy, layers)
    return parts


def batch_of(config: RunConfig, corpus: Corpus, step: int, rows: np.ndarray | None = None) -> Batch:
    """Tokens and targets of a step, the same under every policy: all, or the rows of those numbers alone."""
    rows = np.arange(config.data.batch_size) if rows is None else rows
    runs = [
        batch(
            corpus,
            seed=config.seed,
            step=step,
            batch_size=len(run),
            length=config.model.length,
            first_row=int(run[0]),
            order=config.data.order,
            step_rows=config.data.batch_size,
        )
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    ]
    return runs[0] if len(runs) == 1 else (np.concatenate([x for x, _ in runs]), np.concatenate([y for _, y in runs]))


def inputs_of(config: RunConfig, policy: Arithmetic, position: Position, tokens: Any) -> Inputs:
    """Of the step after a position."""
    number = position.step + 1
    scalars = step_scalars(config.optimizer, number, config.steps, position.updates, position.scale.scale)
    return Inputs(batch=tokens, scalars=scalars, keys=step_keys(config.model, policy, config.seed, number))


def advance(position: Position, policy: Arithmetic, step: AnyStep, inputs: Inputs) -> dict[str, Any]:
    """Carry the position over one step under a policy; gives that step's results (``qsim.step``)."""
    position.state, results = step(fitting(policy, position.state), inputs.batch, inputs.scalars, inputs.keys)
    finite = bool(results["finite"])
    position.scale = position.scale.after(policy.loss_scaling, finite)
    position.updates += finite
    position.step += 1
    return results
