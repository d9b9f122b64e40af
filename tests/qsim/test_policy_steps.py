"""Whole steps under every policy: equal hashes on the executors.  Small shapes; what costs time is compiling."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest

from qsim.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from qsim.data import build_corpus
from qsim.delayed_scaling import first_histories
from qsim.hashing import scalar_hash, tree_hash, unstack
from qsim.model import initial_parameters, step_keys
from qsim.optimizer import ScaleState, step_scalars
from qsim.policy import POLICIES, Arithmetic, parse_policy
from qsim.position import start
from qsim.step import Step
from qsim.training import held_out_loss

STEPS = 3
CONFIG = RunConfig(
    steps=STEPS,
    model=ModelConfig(layers=2, hidden=8, heads=2, length=8, vocabulary=32, dropout=0.1),
    optimizer=OptimizerConfig(warmup_steps=1, clip=0.5, learning_rate=0.05),
    data=DataConfig(batch_size=4, reduction_chunks=2),
)
NEW = (
    "fp16-ln16",
    "fp16-pure",
    "fp16-flush",
    "fp16-nomaster",
    "bf16-nomaster",
    "bf16-sr",
    "fp8",
    "fp8-1x3",
    "fp8-delayed",
    "tf32",
    "bf16-h100",
)
STACKS = ("torch-amp-fp16", "torch-amp-bf16", "jmp-half")
LAYER = POLICIES["bf16"].override(
    [("layer.1.mlp_up.*", "fp32"), ("layer.0.softmax.*", {"output": "fp16"})], name="layer"
)
# a bit of everything: a master of its own format, rows of single layers, draws, scales, casts, narrow sums and stages
MIXED = POLICIES["bf16-sr"].override(
    [
        ("layernorm_*", {"inner": "fp16", "sums": "fp16"}),
        ("softmax.*", {"output": "fp32"}),
        ("residual.*", {"rounding": "stochastic"}),
        ("loss.dgrad", {"rounding": "stochastic"}),
        ("gelu.fprop", {"subnormals": "flush"}),
        ("mlp_up.*", "fp8"),
        ("qkv.*", "bf16-h100"),
        ("mlp_down.*", "fp8-delayed"),
        ("attention_out.*", "fp8-1x128"),
        ("attention_out.*", {"block": 3}),
        ("layer.1.attention_out.*", "tf32"),
        ("gradient_reduction", {"format": "fp16"}),
        ("moments", {"format": "bf16"}),
    ],
    name="mixed",
)
BLOCKS = POLICIES["fp8-1x128"].override([("*", {"block": 3})], name="fp8-1x3")  # which divides no axis here
OWN = {policy.name: policy for policy in (LAYER, MIXED)}
DRAWN = MIXED.override([("mlp_*.*", "bf16"), ("*.wgrad", {"rounding": "stochastic"})], name="drawn")


def policy_of(name: str) -> Arithmetic:
    return BLOCKS if name == BLOCKS.name else OWN.get(name) or parse_policy(name)


def inputs(number: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(number).integers(0, CONFIG.model.vocabulary, (4, CONFIG.model.length + 1))
    return tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)


@cache
def trajectory(name: str, executor: str) -> tuple[dict[str, Any], ...]:
    """Hashes of every step, and the last state."""
    policy = policy_of(name)
    step, scale, updates, rows = Step(CONFIG, policy, executor), ScaleState.start(policy.loss_scaling), 0, []
    state: Any = start(CONFIG, policy).state
    for number in range(1, STEPS + 1):
        scalars = step_scalars(CONFIG.optimizer, number, STEPS, updates, scale.scale)
        state, results = step(state, inputs(number), scalars, step_keys(CONFIG.model, policy, 0, number))
        finite = bool(results["finite"])
        hashes = {part: tree_hash(state[part]) for part in state}
        rows.append(hashes | {"loss": scalar_hash(results["loss"]), "gradients": tree_hash(results["gradients"])})
        scale, updates = scale.after(policy.loss_scaling, finite), updates + finite
    return (*rows, {part: {k: np.asarray(v) for k, v in tree.items()} for part, tree in state.items()})


def hashes(name: str, executor: str) -> tuple[dict[str, Any], ...]:
    return trajectory(name, executor)[:-1]


@pytest.mark.thinned(0.15)
@pytest.mark.parametrize(
    "name", [*NEW, *STACKS, *OWN, pytest.param("bf16-amx", marks=pytest.mark.exhaustive), "fp16-exact"]
)
def test_numba_gives_the_bits_of_numpy(name: str) -> None:
    assert hashes(name, "numba") == hashes(name, "numpy")


@pytest.mark.exhaustive
def test_jax_gives_the_bits_of_numba_where_everything_is_used() -> None:
    assert hashes("mixed", "jax") == hashes("mixed", "numba")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [*NEW, *STACKS, "layer", "bf16-amx"])
def test_jax_gives_the_bits_of_numba(name: str) -> None:
    assert hashes(name, "jax") == hashes(name, "numba")


def test_each_policy_has_its_own_trajectory() -> None:
    same = {"torch-amp-bf16", "bf16-h100", "fp16-flush"}  # those may agree with another on so few small steps
    names = [name for name in (*NEW, *STACKS, *OWN, "fp32", "bf16", "fp16") if name not in same]
    assert len({str(hashes(name, "numba")) for name in names}) == len(names)


@pytest.mark.parametrize(("name", "fmt"), [("fp16-nomaster", np.float16), ("bf16-nomaster", None), ("bf16-sr", None)])
def test_without_a_master_parameters_stay_in_16_bits(name: str, fmt: Any) -> None:
    import ml_dtypes

    state = trajectory(name, "numba")[-1]
    for w in state["parameters"].values():
        np.testing.assert_array_equal(w.astype(fmt or ml_dtypes.bfloat16).astype(np.float32), w)
    assert any((m.astype(np.float16).astype(np.float32) != m).any() for m in state["first"].values())


def test_stages_round_what_is_kept() -> None:
    import ml_dtypes

    state = trajectory("mixed", "numba")[-1]
    for part in ("parameters", "first", "second"):
        for w in state[part].values():
            np.testing.assert_array_equal(w.astype(ml_dtypes.bfloat16).astype(np.float32), w)


def test_held_out_loss_draws_alike_for_every_batch_and_executor() -> None:
    """Outputs that round stochastically take the keys of step 0, each batch anew."""
    model = dataclasses.replace(CONFIG.model, vocabulary=256)
    config = dataclasses.replace(CONFIG, model=model, data=dataclasses.replace(CONFIG.data, validation_batches=3))
    corpus = build_corpus(None, tokenizer="bytes", vocabulary_size=256)
    parameters = initial_parameters(model, 0)
    histories = first_histories(MIXED, model.layers)
    losses = [
        held_out_loss(config, MIXED, name, parameters, corpus, histories=histories)
        for name in ("numpy", "numba", "numba")
    ]
    assert len(set(losses)) == 1


@pytest.mark.parametrize("executor", ["numpy", "numba"])
def test_a_batch_in_parts_draws_as_the_whole(executor: str) -> None:
    """Without tensor-wide scales, which a part has of its own, but with those of blocks; layers recomputed or not."""
    found = set()
    for accumulation, recompute in ((1, False), (2, False), (2, True)):
        config = dataclasses.replace(
            CONFIG,
            model=dataclasses.replace(CONFIG.model, recompute=recompute),
            data=dataclasses.replace(CONFIG.data, accumulation=accumulation),
        )
        parameters = initial_parameters(config.model, 0)
        zeros = {name: np.zeros_like(w) for name, w in parameters.items()}
        state: Any = {"parameters": parameters, "first": zeros, "second": zeros}
        scalars = step_scalars(config.optimizer, 1, STEPS, 0, 1.0)
        keys = step_keys(config.model, DRAWN, 0, 1)
        state, results = Step(config, DRAWN, executor)(state, inputs(1), scalars, keys)
        found.add((tree_hash(results["gradients"]), tree_hash(state["parameters"]), scalar_hash(results["loss"])))
    assert len(found) == 1


def test_layers_of_equal_rows_in_pieces_have_the_bits_of_one_scan() -> None:
    """A row of one layer that no pass computes with cuts the scan in two and changes no bit."""
    policy = POLICIES["bf16"]
    row = dataclasses.replace(policy.site("gelu", "wgrad"), output="fp32")
    cut = dataclasses.replace(policy, layers=((1, "gelu", "wgrad", row),), name="cut")
    OWN["cut"] = cut
    assert cut.segments(2) == [(0, 1), (1, 2)]
    assert hashes("cut", "numba") == hashes("bf16", "numba")


def test_a_layer_s_rule_changes_the_forward_pass_from_that_layer_on() -> None:
    late = POLICIES["bf16"].override([("layer.1.mlp_down.wgrad", "fp32")], name="late")
    OWN["late"] = late
    first = {name: Step(CONFIG, policy_of(name), "numba") for name in ("late", "bf16")}
    parameters = initial_parameters(CONFIG.model, 0)
    zeros = {name: np.zeros_like(w) for name, w in parameters.items()}
    state: Any = {"parameters": parameters, "first": zeros, "second": zeros}
    scalars = step_scalars(CONFIG.optimizer, 1, STEPS, 0, 1.0)
    results = {}
    for name, step in first.items():
        keys = step_keys(CONFIG.model, policy_of(name), 0, 1)
        results[name] = unstack(step(state, inputs(1), scalars, keys)[1]["gradients"])
    changed = [n for n in results["bf16"] if (results["bf16"][n] != results["late"][n]).any()]
    assert set(changed) == {"layer.1.mlp_down.weight", "layer.1.mlp_down.bias"}
