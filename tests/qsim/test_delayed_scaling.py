"""Scales from histories: what they hold, what they scale, and that they are state like any other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from small_runs import assert_sentence, hash_rows, interrupted, small_config, small_run
from strategies import generator

import precision as pr
from qsim.checkpoints import load_checkpoint
from qsim.delayed_scaling import PART, Histories, first_histories
from qsim.hashing import tree_hash, unstack
from qsim.model import step_keys
from qsim.optimizer import step_scalars
from qsim.policy import PASSES, POLICIES, QUANTIZED_SITES, Arithmetic, DelayedScaling, from_json
from qsim.position import start
from qsim.replay import resume
from qsim.runs import RunFolder
from qsim.sites import Calculator
from qsim.step import Step

POLICY = POLICIES["fp8-delayed"]
SHORT = dataclasses.replace(POLICY, name="fp8-short", delayed_scaling=DelayedScaling(history=2, margin=1))


def bf16(seed: int, *shape: int) -> np.ndarray:
    return pr.round_to(generator(seed).normal(size=shape).astype(np.float32), "bf16")


# A product


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("direction", PASSES)
@pytest.mark.parametrize(("largest", "margin"), [(0.5, 0), (0.5, 2), (5.0, 0), (0.0, 3)])
def test_product_by_its_definition(backend: Executor, direction: Any, largest: float, margin: int) -> None:
    """s = 2^(floor(log2(max / largest)) - margin), or 1; values beyond the format's end become that end."""
    policy = dataclasses.replace(POLICY, delayed_scaling=DelayedScaling(history=3, margin=margin))
    a, b = bf16(1, 3, 4), bf16(2, 4, 2)
    a[0, 0] = 3e4  # far beyond what the history lets expect, so that it saturates
    kept = {f"mlp_up.{tensor}": np.array([0, largest, largest / 4], np.float32) for tensor in ("x", "w", "dy")}

    def run(a: Any, b: Any, kept: Any) -> Any:
        ar = Calculator(policy, backend.name)
        ar.histories = Histories(kept)
        return ar.at("mlp_up", direction).matmul(a, b), ar.histories.seen

    y, seen = backend.module.jit(run)(
        backend.array(a), backend.array(b), {k: backend.array(v) for k, v in kept.items()}
    )
    formats = policy.site("mlp_up", direction).operands(direction)
    sides = []
    for x, name in zip((a, b), formats, strict=True):
        fmt = pr.parse_format(name)
        s = 2.0 ** (np.floor(np.log2(fmt.maximum / largest)) - margin) if largest else 1.0
        sides.append(pr.round_to((x * s).astype(np.float32), fmt, overflow="saturate") / s)
    expected = np.zeros((3, 2), np.float32)
    for i, j, k in np.ndindex(3, 2, 4):
        expected[i, j] += np.float32(sides[0][i, k]) * np.float32(sides[1][k, j])
    assert_same_bits(np.asarray(y), expected)
    operands = {"fprop": "x w", "dgrad": "dy w", "wgrad": "x dy"}[direction].split()
    assert {name: float(np.asarray(p).view(np.float32).item()) for name, p in seen.items()} == {
        f"mlp_up.{tensor}": float(np.abs(x).max()) for tensor, x in zip(operands, (a, b), strict=True)
    }


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_is_not_finite_is_nan(bad: float) -> None:
    ar = Calculator(POLICY, "numpy")
    ar.histories = Histories({f"qkv.{tensor}": np.ones(2, np.float32) for tensor in ("w", "dy")})
    dy = np.array([[1, bad], [1, 1]], np.float32)
    y = ar.at("qkv", "dgrad").matmul(dy, np.ones((2, 3), np.float32))
    assert np.isnan(y[0]).all()
    assert (y[1] == 2).all()


def test_without_a_state_there_is_nothing_to_scale_by() -> None:
    x = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="history") as error:
        Calculator(POLICY, "numpy").at("qkv", "fprop").matmul(x, x)
    assert_sentence(error.value, "qkv.x", "fp8-delayed", "training state", "fp8")


# Options


def test_options_count_in_the_hash_and_come_back_from_json() -> None:
    assert from_json(SHORT.as_json()) == SHORT
    options = [DelayedScaling(), DelayedScaling(history=2), DelayedScaling(margin=1)]
    assert len({dataclasses.replace(POLICY, delayed_scaling=one).sha256 for one in options}) == 3
    other = dataclasses.replace(POLICIES["fp8"], delayed_scaling=options[1])
    assert other.sha256 == POLICIES["fp8"].sha256  # which has no histories


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: DelayedScaling(history=0), ("history of 0",)),
        (lambda: DelayedScaling(margin=-1), ("margin -1",)),
        (lambda: POLICY.override([("scores.fprop", {"scaling": "delayed"})]), ("scores.fprop", "qkv", "mlp_down")),
    ],
    ids=["history", "margin", "site"],
)
def test_what_cannot_be_is_refused(make: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"history|margin") as error:
        make()
    assert_sentence(error.value, *parts)


def test_tensors_are_those_that_some_product_reads() -> None:
    whole = {f"blocks.{site}.{tensor}" for site in QUANTIZED_SITES for tensor in ("x", "w", "dy")}
    assert first_histories(POLICY, 2).keys() == whole
    assert first_histories(POLICIES["fp8"], 2) == {}
    one = POLICIES["fp8"].override([("layer.1.qkv.dgrad", {"scaling": "delayed"})])
    assert {name: x.shape for name, x in first_histories(one, 3).items()} == dict.fromkeys(
        ("blocks.qkv.dy", "blocks.qkv.w"), (3, 1024)
    )


# Steps


def steps(policy: Arithmetic, executor: str = "numpy", number: int = 3, **changes: Any) -> list[dict[str, Any]]:
    """States before and after each step, with the gradients."""
    config = small_config(**changes)
    step, found = Step(config, policy, executor), []
    state: Any = start(config, policy).state
    for i in range(1, number + 1):
        tokens = generator(i).integers(0, config.model.vocabulary, (4, config.model.length + 1)).astype(np.int32)
        scalars = step_scalars(config.optimizer, i, number, i - 1, 1.0)
        before = state
        state, results = step(state, (tokens[:, :-1], tokens[:, 1:]), scalars, step_keys(config.model, policy, 0, i))
        found.append({"before": before, "after": state, "gradients": results["gradients"]})
    return found


def test_histories_hold_the_latest_steps() -> None:
    """Of weights: their largest magnitudes at the start of each step, in BF16; the oldest goes first."""
    found = steps(SHORT)
    for site in QUANTIZED_SITES:
        history = [
            np.abs(pr.round_to(row["before"]["parameters"][f"blocks.{site}.weight"], "bf16")).max(axis=(1, 2))
            for row in found
        ]
        for count, row in enumerate(found, start=1):
            latest = [np.zeros(2, np.float32), *history[:count]][-2:]
            assert_same_bits(row["after"][PART][f"blocks.{site}.w"], np.stack(latest, axis=1))
            assert (row["after"][PART][f"blocks.{site}.dy"][:, -1] > 0).all()


def test_parts_of_a_batch_and_recomputed_layers_change_nothing() -> None:
    whole = steps(SHORT)
    for changes in ({"data.accumulation": 2}, {"model.recompute": True}):
        for row, expected in zip(steps(SHORT, **changes), whole, strict=True):
            assert tree_hash(row["gradients"]) == tree_hash(expected["gradients"])
            assert tree_hash(row["after"][PART]) == tree_hash(expected["after"][PART])


def test_layers_with_rows_of_their_own() -> None:
    """One layer of two scales by its history: its rows fill, those of the other stay zero."""
    one = POLICIES["fp8"].override([("layer.1.*", "fp8-delayed")])
    for name, x in steps(one, number=1)[0]["after"][PART].items():
        assert (x[0] == 0).all(), name
        assert (x[1] != 0).sum() == 1, name


def test_a_skipped_step_leaves_them() -> None:
    config = small_config()
    state: Any = start(config, SHORT).state
    state["parameters"]["blocks.qkv.weight"][0, 0, 0] = np.inf
    tokens = np.zeros((4, config.model.length), np.int32)
    after, results = Step(config, SHORT, "numpy")(
        state, (tokens, tokens), step_scalars(config.optimizer, 1, 3, 0, 1.0), None
    )
    assert not results["finite"]
    assert all((x == 0).all() for x in after[PART].values())


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("delayed") / "run", "fp8-delayed")


def test_they_are_in_checkpoints_and_in_the_optimizer_s_hash(run: RunFolder) -> None:
    state = load_checkpoint(run.path, 6).state
    assert state[PART].keys() == first_histories(POLICY, run.config.model.layers).keys()
    kept = {f"{part}.{name}": w for part in ("first", "second", PART) for name, w in unstack(state[part]).items()}
    assert run.hashes()[6]["optimizer"] == tree_hash(kept)


def test_a_resumed_run_has_the_same_hashes(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "run", "fp8-delayed", progress=interrupted(3))
    again = resume(RunFolder.open(tmp_path / "run"))
    assert hash_rows(again) == hash_rows(run)
    assert again.finished
