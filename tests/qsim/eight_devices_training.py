"""Run by ``test_sharding``: training steps on meshes of eight CPU devices, against the reference's hashes.

Arguments: the number of layers and of steps; then any number of cases, a policy and a mesh, and what is different in
the configuration, ``fp16:data=4,model=2:model.tied=true``.  ``fp16+drawn``: every output rounded stochastically.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import yaml

from qsim.config import ModelConfig, OptimizerConfig, RunConfig, override_all
from qsim.devices import find_devices
from qsim.hashing import scalar_hash, tree_hash
from qsim.mesh import parse_mesh
from qsim.model import step_keys
from qsim.optimizer import ScaleState, step_scalars
from qsim.policy import POLICIES, Arithmetic
from qsim.position import start
from qsim.recorders import Recorder, StackedRecorder
from qsim.step import Step
from qsim.training import step_statistics

LAYERS, STEPS = map(int, sys.argv[1:3])
COLLECTIVE = re.compile(r"= (.*) (all-reduce|reduce-scatter|all-gather)(?:-start)?\(")
FLOATS = re.compile(r"\b(?:f|bf)\d\w*\[")
CONFIG = RunConfig(
    steps=STEPS,
    model=ModelConfig(layers=LAYERS, hidden=16, heads=2, length=12, vocabulary=52, dropout=0.1),
    optimizer=OptimizerConfig(warmup_steps=1, learning_rate=1e-2, clip=0.5),
)


def configured(changes: str) -> RunConfig:
    """The configuration with changes, ``key=value`` joined by ``;``, values as YAML."""
    pairs = [change.partition("=") for change in changes.split(";") if change]
    return override_all(CONFIG, [(key, yaml.safe_load(value)) for key, _, value in pairs])


def policy_of(name: str) -> Arithmetic:
    known, _, drawn = name.partition("+")
    return POLICIES[known].with_(name=name, rounding="stochastic") if drawn else POLICIES[known]


def batches(config: RunConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        words = rng.integers(0, CONFIG.model.vocabulary, (config.data.batch_size, config.model.length + 1), np.int32)
        yield words[:, :-1], words[:, 1:]


def steps(step: Step) -> list[dict[str, Any]]:
    """Hashes of every step, and what was counted in it."""
    state, rows, policy = start(step.config, step.policy).state, [], step.policy
    scale = ScaleState.start(policy.loss_scaling)
    for number, pair in enumerate(batches(step.config), start=1):
        scalars = step_scalars(CONFIG.optimizer, number, STEPS, number - 1, scale.scale)
        state, results = step(state, pair, scalars, step_keys(CONFIG.model, policy, 0, number))
        row = {"loss": scalar_hash(results["loss"]), "gradients": tree_hash(results["gradients"])}
        row |= {part: tree_hash(tree) for part, tree in state.items()} | {"finite": bool(results["finite"])}
        rows.append(row | dict(zip(("counted", "tensors"), step_statistics(step, results), strict=True)))
    return rows


@cache
def reference(policy: str, changes: str) -> list[dict[str, Any]]:
    return steps(Step(configured(changes), policy_of(policy), "numpy", Recorder, counts_tensors=True))


def collectives(text: str) -> set[tuple[str, bool]]:
    """What moves between devices in HLO: the operation, and whether there are floats in it."""
    return {(found[2], bool(FLOATS.search(found[1]))) for found in COLLECTIVE.finditer(text)}


def compile_ahead(step: Step) -> str:
    """The step compiled for its devices, and kept; the optimised HLO."""
    state, batch = start(step.config, step.policy).state, next(batches(step.config))
    scalars = step_scalars(CONFIG.optimizer, 1, STEPS, 0, 1.0)
    step.compile_ahead(state, batch, scalars, step_keys(CONFIG.model, step.policy, 0, 1))
    return step._speculative.as_text()


def check(policy: str, mesh: str, changes: str = "") -> None:
    config = configured(changes)
    devices = find_devices(config, policy_of(policy), "jax", parse_mesh(mesh))
    step = Step(config, policy_of(policy), "jax", StackedRecorder, devices, counts_tensors=True)
    assert collectives(compile_ahead(step)) == {("all-gather", True), ("all-reduce", False)}
    found = steps(step)
    for number, (row, expected) in enumerate(zip(found, reference(policy, changes), strict=True), start=1):
        for part, value in expected.items():
            assert row[part] == value, f"{policy} on {mesh} parts from the reference at step {number}: {part}"
    assert len({row["gradients"] for row in found}) == STEPS


def check_the_reading() -> None:
    """Sums of floats are seen where there are any."""
    text = "%x = s32[4]{0} all-reduce(f32[] %y)\n  %z = f32[4]{0} all-gather(%y)\n  ROOT %u = f32[4]{0} add(%x, %z)"
    assert collectives(text) == {("all-reduce", False), ("all-gather", True)}
    for kind, operation in (("f32[4]{0}", "all-reduce"), ("(s32[], bf16[4]{0})", "reduce-scatter-start")):
        assert collectives(f"%x = {kind} {operation}(%y), channel_id=1") == {(operation.removesuffix("-start"), True)}


if __name__ == "__main__":
    check_the_reading()
    for case in sys.argv[3:]:
        check(*case.split(":"))
        print(case, flush=True)
