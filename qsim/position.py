"""Where a run stands between two steps, and the step that carries it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsim.checkpoints import Checkpoint
from qsim.config import RunConfig
from qsim.corpus import Corpus
from qsim.data import batch
from qsim.delayed_scaling import PART, first_histories
from qsim.model import initial_parameters, step_keys
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

    batch: tuple[np.ndarray, np.ndarray]
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


def start(config: RunConfig, policy: Arithmetic, weights: FirstWeights | None = None) -> Position:
    """Step 0: parameters drawn from the seed unless given, moments at zero, the policy's first loss scale."""
    first = initial_parameters(config.model, config.seed) if weights is None else dict(weights.parameters)
    zeros = {name: np.zeros_like(w) for name, w in first.items()}
    state = {"parameters": first, "first": zeros, "second": dict(zeros)}
    return Position(0, 0, ScaleState.start(policy.loss_scaling), fitting(policy, state))


def fitting(policy: Arithmetic, state: State) -> State:
    """A state as a policy's steps take it: with histories, at first empty, where operands are scaled by them."""
    parts = {part: tree for part, tree in state.items() if part != PART}
    if policy.delays:
        layers = len(state["parameters"]["blocks.qkv.weight"])
        parts[PART] = state.get(PART) or first_histories(policy, layers)
    return parts


def batch_of(config: RunConfig, corpus: Corpus, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and targets of a step, the same under every policy."""
    return batch(
        corpus,
        seed=config.seed,
        step=step,
        batch_size=config.data.batch_size,
        length=config.model.length,
        order=config.data.order,
    )


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
