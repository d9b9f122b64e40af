"""Bytes counted by hand against the arrays of a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_runs import small_config

from qsim.memory import activations, counted, in_words
from qsim.model import forward, step_keys
from qsim.policy import POLICIES
from qsim.position import start
from qsim.sites import Calculator
from qsim.step import Step


def size(tree: Any) -> int:
    return sum(map(size, tree.values())) if isinstance(tree, dict) else tree.nbytes


@pytest.mark.parametrize("changes", [{}, {"model.dropout": 0.1}, {"model.positions": "alibi", "model.tied": True}])
def test_activations_are_what_the_forward_pass_leaves(changes: dict[str, Any]) -> None:
    config, policy = small_config(**changes), POLICIES["bf16"]
    ar = Calculator(policy, "numpy")
    parameters = ar.working_copy(start(config, policy).state["parameters"])
    tokens = np.zeros((config.data.batch_size, config.model.length), np.int32)
    keys = ar.draw_from(step_keys(config.model, policy, 0, 1))
    logits, caches = forward(ar, config.model, parameters, tokens, keys)
    for site, expected in activations(config.model, len(tokens)).items():
        assert size(caches["blocks"][site]) == config.model.layers * expected, site
    assert caches["blocks"].keys() == activations(config.model, len(tokens)).keys()
    sizes = counted(config, policy)
    assert sizes["activations"] == size(caches["blocks"])
    assert sizes["head"] == size(caches) - size(caches["blocks"]) + 2 * logits.nbytes


@pytest.mark.parametrize("policy", ["fp32", "bf16", "bf16-nomaster", "fp8-delayed"])
def test_the_rest_is_the_state_and_its_gradients(policy: str) -> None:
    config, arithmetic = small_config(), POLICIES[policy]
    state = start(config, arithmetic).state
    sizes = counted(config, arithmetic)
    whole = size(state["parameters"])
    assert sizes["parameters"] == sizes["gradients"] == whole
    assert sizes["moments"] == size(state["first"]) + size(state["second"])
    assert sizes["working_copy"] == (0 if policy in ("fp32", "bf16-nomaster") else whole)
    assert sizes["histories"] == size(state.get("absmax", {}))


def test_recomputed_layers_and_parts_of_a_batch() -> None:
    """All inputs and one layer; a part has half the rows, and its gradients wait for those of the other."""
    policy = POLICIES["bf16"]
    plain = counted(small_config(), policy)
    config = small_config(**{"model.recompute": True})
    rows = 4 * config.model.length * config.model.hidden
    assert counted(config, policy)["activations"] == 2 * 4 * rows + plain["activations"] // 2
    parts = counted(small_config(**{"data.accumulation": 2}), policy)
    assert (2 * parts["activations"], 2 * parts["head"]) == (plain["activations"], plain["head"])
    assert parts["gradients"] == 3 * plain["gradients"]


def test_in_words() -> None:
    assert in_words({"parameters": 3 << 19, "histories": 0, "working_copy": 1 << 20}) == (
        "parameters 1.5 MiB, working copy 1.0 MiB"
    )


def test_only_compiled_steps_tell_what_they_hold() -> None:
    config, policy = small_config(), POLICIES["bf16"]
    assert Step(config, policy, "numpy").compile_ahead({}, (), {}, None) is None
