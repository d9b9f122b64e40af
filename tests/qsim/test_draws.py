"""Keys of the roundings that draw: their definition, and that no two are equal."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from small_runs import assert_sentence

import precision as pr
from precision.random_bits import as_key, fold_in, fold_name
from qsim.config import ModelConfig
from qsim.draws import output_keys, write_back_keys
from qsim.model import parameter_shapes, step_keys
from qsim.policy import PASSES, POLICIES, SITES
from qsim.sites import Calculator

MODEL = ModelConfig(layers=3, hidden=4, heads=2, length=4, vocabulary=8)
DRAWN = POLICIES["bf16"].with_(name="drawn", rounding="stochastic")


def test_definition() -> None:
    keys = output_keys(DRAWN, 3, 5, 8)
    expected = [fold_in(fold_in(fold_name(as_key(5), "output.qkv.dgrad"), 8), layer) for layer in range(3)]
    assert keys["qkv.dgrad.output"].tolist() == [list(key) for key in expected]
    once = fold_in(fold_name(as_key(5), "output.loss.dgrad"), 8)
    assert keys["loss.dgrad.output"].tolist() == list(once)
    assert len(keys) == len(SITES) * len(PASSES)
    written = write_back_keys(POLICIES["bf16-sr"], ["blocks.qkv.weight"], 5, 8)
    own = fold_in(fold_in(fold_name(as_key(5), "write_back.blocks.qkv.weight"), 8), 0)
    assert written["write_back.blocks.qkv.weight"].tolist() == list(own)


def test_no_two_are_equal() -> None:
    policy = dataclasses.replace(DRAWN, stages=POLICIES["bf16-sr"].stages)
    drawn = [step_keys(MODEL, policy, seed, step) or {} for seed, step in ((5, 8), (5, 9), (6, 8))]
    words = [tuple(row) for keys in drawn for key in keys.values() for row in key.reshape(-1, 2).tolist()]
    assert len(words) == 3 * (11 * 3 * MODEL.layers + 4 * 3 + len(parameter_shapes(MODEL)))
    assert len(set(words)) == len(words)


def test_policies_that_draw_nothing_have_none() -> None:
    assert step_keys(MODEL, POLICIES["fp16"], 5, 8) is None


def test_outputs_draw_from_children_in_order(backend: Executor) -> None:
    """The n-th rounding of a site takes the n-th child of its key, element i its word i."""
    x = np.linspace(1, 2, 12, dtype=np.float32).reshape(3, 4)
    key = output_keys(DRAWN, 3, 5, 8)["loss.dgrad.output"]

    def run(x, key):
        ar = Calculator(DRAWN, backend.name)
        assert ar.draw_from({"loss.dgrad.output": key}) is None
        site = ar.at("loss", "dgrad")
        return site.output(x), site.output(x)

    for n, result in enumerate(backend.module.jit(run)(backend.array(x), backend.array(key))):
        child = fold_in((int(key[0]), int(key[1])), n)
        assert_same_bits(result, pr.round_to(x, "bf16", rounding="stochastic", key=child))


def test_without_key_nothing_is_drawn() -> None:
    with pytest.raises(ValueError, match="no key") as error:
        Calculator(DRAWN, "numpy").at("loss", "dgrad").output(np.ones(3, np.float32))
    assert_sentence(error.value, "loss.dgrad.output", "drawn")


def test_write_back_draws_by_the_index_in_the_whole_parameter(backend: Executor) -> None:
    policy = POLICIES["bf16-sr"]
    w = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    keys = write_back_keys(policy, ["blocks.qkv.weight"], 5, 8)

    def run(w, keys):
        ar = Calculator(policy, backend.name)
        ar.draw_from(keys)
        return ar.updated({"blocks.qkv.weight": w})["blocks.qkv.weight"]

    given = {name: backend.array(key) for name, key in keys.items()}
    result = backend.module.jit(run)(backend.array(w), given)
    own = tuple(map(int, keys["write_back.blocks.qkv.weight"]))
    assert_same_bits(result, pr.round_to(w, "bf16", rounding="stochastic", key=own))
