"""Replay: equal hashes under equal arithmetic, and exact counts of what another one loses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from small_runs import (
    STEPS,
    assert_same_trees,
    assert_sentence,
    contents,
    figures,
    hash_rows,
    interrupted,
    small_run,
)

from qsim.checkpoints import load_checkpoint
from qsim.config import ConfigError
from qsim.data import DataError, batch, load_data
from qsim.hashing import scalar_hash, tree_hash
from qsim.model import dropout_keys, initial_parameters
from qsim.optimizer import step_scalars
from qsim.policy import POLICIES
from qsim.recorders import CapturingRecorder, Recorder
from qsim.replay import replay, resume
from qsim.runs import RunError, RunFolder
from qsim.step import Step
from qsim.training import as_statistics

DROPOUT = {"model.dropout": 0.25}
STORAGE = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32}
SMALLEST_NORMAL = {"fp16": 2.0**-14, "bf16": 2.0**-126, "fp32": 2.0**-126}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("replay") / "base", **DROPOUT)


@pytest.fixture(scope="module")
def lossy(base: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return replay(base, POLICIES["fp16-noscale"], tmp_path_factory.mktemp("lossy") / "fp16-noscale")


def read_statistics(run: RunFolder, step: int) -> dict[str, dict[str, Any]]:
    return json.loads((run.path / "statistics" / f"step_{step:06d}.json").read_text())["sites"]


# The same arithmetic


def test_the_same_policy_gives_the_same_hashes(base: RunFolder, tmp_path: Path) -> None:
    again = replay(base, POLICIES["fp32"], tmp_path / "fp32")
    assert hash_rows(again) == hash_rows(base)
    assert figures(again) == figures(base)
    assert read_statistics(again, STEPS) == read_statistics(base, STEPS)


@pytest.mark.parametrize("policy", ["fp32", "fp16"])
def test_another_executor_gives_the_same_hashes(base: RunFolder, tmp_path: Path, policy: str) -> None:
    numba = replay(base, POLICIES[policy], tmp_path / "numba", steps=2)
    numpy = replay(base, POLICIES[policy], tmp_path / "numpy", executor="numpy", steps=2)
    assert (numba.executor, numpy.executor) == ("numba", "numpy")
    assert hash_rows(numpy) == hash_rows(numba)
    assert len(hash_rows(numpy)) == 2
    assert figures(numpy) == figures(numba)
    assert read_statistics(numpy, 1) == read_statistics(numba, 1)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_first_steps_are_those_of_the_whole_run(base: RunFolder, tmp_path: Path, steps: int) -> None:
    """Past warm-up too: the learning rate decays towards the end of the whole run."""
    short = replay(base, POLICIES["fp32"], tmp_path / "short", steps=steps)
    assert base.config.optimizer.warmup_steps < 3
    assert hash_rows(short) == hash_rows(base)[:steps]
    assert figures(short)[:steps] == figures(base)[:steps]
    assert short.config.steps == steps
    assert short.config.optimizer.decay_steps == STEPS


def test_first_steps_of_a_replay_of_first_steps(base: RunFolder, tmp_path: Path) -> None:
    short = replay(base, POLICIES["fp32"], tmp_path / "short", steps=5)
    shorter = replay(short, POLICIES["fp32"], tmp_path / "shorter", steps=4)
    assert hash_rows(shorter) == hash_rows(base)[:4]


def test_more_steps_than_the_run_has_are_refused(base: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        replay(base, POLICIES["fp32"], tmp_path / "all", steps=1000)
    assert_sentence(error.value, "1000", "leave out --steps")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(base: RunFolder, tmp_path: Path, steps: int) -> None:
    with pytest.raises(ConfigError) as error:
        replay(base, POLICIES["fp32"], tmp_path / "none", steps=steps)
    assert_sentence(error.value, f"steps is {steps}", "at least 1")
    assert contents(tmp_path) == {}


# Another arithmetic


def test_another_policy_starts_from_the_same_weights_and_parts_at_once(lossy: RunFolder, base: RunFolder) -> None:
    start, first = load_checkpoint(lossy.path, 0).state, load_checkpoint(base.path, 0).state
    for part in ("parameters", "first", "second"):
        assert_same_trees(start[part], first[part])
    for a, b in zip(hash_rows(lossy), hash_rows(base), strict=True):
        assert all(a[name] != b[name] for name in ("loss", "gradients", "parameters", "optimizer"))
    losses = [[row["loss"] for row in run.rows("metrics.jsonl") if "loss" in row] for run in (lossy, base)]
    np.testing.assert_allclose(*losses, rtol=0.01)


def test_replay_names_its_parent(lossy: RunFolder, base: RunFolder) -> None:
    record = json.loads((lossy.path / "config.json").read_text())
    start = tree_hash(initial_parameters(base.config.model, 0))
    assert record["parent"]["policy"] == "fp32"
    assert record["parent"]["hash"] == start
    assert (lossy.path / record["parent"]["path"]).resolve() == base.path.resolve()
    assert record["policy"] == POLICIES["fp16-noscale"].as_json()
    assert (lossy.config, lossy.executor) == (base.config, base.executor)


def test_replay_refers_to_the_tokens_of_its_parent(lossy: RunFolder, base: RunFolder) -> None:
    assert not (lossy.path / "tokens.bin").exists()
    assert load_data(lossy.path).sha256 == load_data(base.path).sha256


def test_replay_of_a_replay(lossy: RunFolder, tmp_path: Path) -> None:
    again = replay(lossy, POLICIES["fp16-noscale"], tmp_path / "again")
    assert hash_rows(again) == hash_rows(lossy)
    parent = json.loads((again.path / "config.json").read_text())["parent"]
    assert parent["policy"] == "fp16-noscale"


# What is counted


def recount(x: np.ndarray, storage: str) -> dict[str, Any]:
    """The counters by their definitions, with NumPy's own conversion (ml_dtypes' for bf16) as the rounding."""
    with np.errstate(all="ignore"):
        rounded = x.astype(STORAGE[storage]).astype(np.float32)
    finite, nonzero = np.isfinite(x), x != 0
    magnitude = np.abs(rounded)
    _, exponents = np.frexp(x[finite & nonzero])
    values, counts = np.unique(exponents - 1, return_counts=True)
    return {
        "format": storage,
        "count": x.size,
        "zero": int(np.sum(~nonzero)),
        "nan": int(np.sum(np.isnan(x))),
        "infinite": int(np.sum(np.isinf(x))),
        "subnormal": int(np.sum(nonzero & (np.abs(x) < np.float32(2.0**-126)))),
        "became_subnormal": int(np.sum((magnitude > 0) & (magnitude < SMALLEST_NORMAL[storage]))),
        "underflowed": int(np.sum(nonzero & (rounded == 0))),
        "overflowed": int(np.sum(finite & np.isinf(rounded))),
        "saturated": 0,
        "inexact": int(np.sum((rounded != x) & ~np.isnan(x))),
        "exponents": {str(e): int(n) for e, n in zip(values, counts, strict=True)},
    }


def without_table(record: dict[str, Any]) -> dict[str, Any]:
    """A record without its significands, whose rows have to add up to the exponents."""
    rest = dict(record)
    assert {e: sum(columns) for e, columns in rest.pop("significands").items()} == record["exponents"]
    return rest


def recorded_step(run: RunFolder, scale: float, recorder: type[Recorder]) -> tuple[Step, dict[str, Any]]:
    """Step 1 of a run made again from its first checkpoint, observed by another recorder."""
    config, state = run.config, load_checkpoint(run.path, 0).state
    rows = batch(load_data(run.path), seed=0, step=1, batch_size=4, length=16)
    scalars = step_scalars(config.optimizer, 1, STEPS, 0, scale)
    step = Step(config, run.policy, "numba", recorder)
    _, results = step(state, rows, scalars, dropout_keys(config.model, 0, 1))
    return step, results


def test_gradients_underflow_without_a_loss_scale(lossy: RunFolder) -> None:
    sites = read_statistics(lossy, 1)
    kinds = {kind: [s for name, s in sites.items() if name.endswith(kind)] for kind in ("fprop", "dgrad", "wgrad")}
    lost = {kind: sum(site["underflowed"] for site in found) for kind, found in kinds.items()}
    assert lost["dgrad"] > 0
    assert lost["wgrad"] > 0
    assert lost["dgrad"] + lost["wgrad"] > 10 * lost["fprop"]


def test_counts_equal_an_independent_recount(lossy: RunFolder) -> None:
    """Every counter and every exponent of every site, of tensors that were rounded in a second, identical step."""
    step, results = recorded_step(lossy, 1.0, CapturingRecorder)
    assert scalar_hash(results["loss"]) == hash_rows(lossy)[0]["loss"]
    assert tree_hash(results["gradients"]) == hash_rows(lossy)[0]["gradients"]
    written, kept = read_statistics(lossy, 1), results["records"]
    assert kept.keys() == written.keys()
    for key, (x, rounded) in kept.items():
        storage = step.formats[key].name
        assert without_table(written[key]) == recount(x, storage), key
        by_numpy = x.astype(STORAGE[storage]).astype(np.float32)
        different = np.flatnonzero(rounded.view(np.uint32) != by_numpy.view(np.uint32))
        # GELU is rounded once, from its exact value: where that, rounded to float32, seems a tie, NumPy errs
        assert not len(different) or key.endswith("gelu.fprop"), key
        errors = [np.abs(x[different].astype(np.float64) - found[different]) for found in (rounded, by_numpy)]
        assert np.array_equal(*errors), key


@pytest.mark.parametrize(
    ("policy", "scale"), [("fp16", 2.0**25), ("fp16", 2.0**16), ("bf16", 1.0), ("fp32", 2.0**-115)]
)
def test_counts_at_other_scales(base: RunFolder, tmp_path: Path, policy: str, scale: float) -> None:
    """Overflow and infinities under a scale of 2^25, float32's own subnormals under one of 2^-115."""
    run = RunFolder.create(tmp_path / "run", base.config, POLICIES[policy], "numba")
    shutil.copytree(base.path / "checkpoints", run.path / "checkpoints")
    for name in ("data.json", "tokens.bin"):
        shutil.copy(base.path / name, run.path)
    step, results = recorded_step(run, scale, CapturingRecorder)
    counting, counted = recorded_step(run, scale, Recorder)
    statistics = as_statistics(counted["records"], counting.formats)
    assert statistics.keys() == results["records"].keys()
    totals = dict.fromkeys(("overflowed", "nan", "infinite", "became_subnormal", "underflowed", "inexact"), 0)
    for key, (x, _) in results["records"].items():
        expected = recount(x, step.formats[key].name)
        assert without_table(statistics[key].as_json()) == expected, key
        for name in totals:
            totals[name] += expected[name]
    assert (totals["overflowed"] > 0, totals["infinite"] > 0, totals["nan"] > 0) == (scale == 2.0**25,) * 3
    assert (totals["inexact"] > 0) == (policy != "fp32")
    assert (totals["became_subnormal"] > 0) == (policy != "bf16")


# Data


def copied(base: RunFolder, folder: Path) -> RunFolder:
    shutil.copytree(base.path, folder)
    return RunFolder.open(folder)


def alter(tokens: Path) -> None:
    data = bytearray(tokens.read_bytes())
    data[100] ^= 1
    tokens.write_bytes(data)


def test_altered_tokens_are_refused_and_nothing_is_written(base: RunFolder, tmp_path: Path) -> None:
    own = copied(base, tmp_path / "own")
    alter(own.path / "tokens.bin")
    before = contents(tmp_path)
    with pytest.raises(DataError) as error:
        replay(own, POLICIES["bf16"], tmp_path / "bf16")
    assert_sentence(error.value, "tokens.bin", "altered", "SHA-256", "--data")
    assert contents(tmp_path) == before


def test_tokens_altered_after_an_interruption_are_refused(base: RunFolder, tmp_path: Path) -> None:
    own = copied(base, tmp_path / "own")
    with pytest.raises(KeyboardInterrupt):
        replay(own, POLICIES["bf16"], tmp_path / "bf16", progress=interrupted(3))
    alter(own.path / "tokens.bin")
    before = contents(tmp_path)
    with pytest.raises(DataError) as error:
        resume(RunFolder.open(tmp_path / "bf16"))
    assert_sentence(error.value, "tokens.bin", "altered")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("as_folder", [True, False])
def test_moved_tokens_are_found_with_data(base: RunFolder, tmp_path: Path, as_folder: bool) -> None:
    own = copied(base, tmp_path / "own")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (own.path / "tokens.bin").rename(elsewhere / "tokens.bin")
    with pytest.raises(DataError) as error:
        replay(own, POLICIES["fp32"], tmp_path / "fp32")
    assert_sentence(error.value, "tokens.bin", "missing", "--data")
    assert not (tmp_path / "fp32").exists()
    moved = elsewhere if as_folder else elsewhere / "tokens.bin"
    again = replay(own, POLICIES["fp32"], tmp_path / "fp32", data=moved)
    assert hash_rows(again) == hash_rows(base)


def test_other_tokens_are_refused_with_data(base: RunFolder, tmp_path: Path) -> None:
    shutil.copy(base.path / "tokens.bin", tmp_path / "tokens.bin")
    alter(tmp_path / "tokens.bin")
    with pytest.raises(DataError) as error:
        replay(base, POLICIES["fp32"], tmp_path / "fp32", data=tmp_path / "tokens.bin")
    assert_sentence(error.value, "altered")
    assert not (tmp_path / "fp32").exists()


def test_folder_in_use_is_refused(base: RunFolder, lossy: RunFolder) -> None:
    before = contents(lossy.path)
    with pytest.raises(RunError) as error:
        replay(base, POLICIES["bf16"], lossy.path)
    assert_sentence(error.value, repr(str(lossy.path)), "choose another --out")
    assert contents(lossy.path) == before


def test_replay_without_the_first_checkpoint_is_refused(base: RunFolder, tmp_path: Path) -> None:
    own = copied(base, tmp_path / "own")
    shutil.rmtree(own.path / "checkpoints" / "step_0")
    with pytest.raises(ValueError, match="step 0") as error:
        replay(own, POLICIES["fp32"], tmp_path / "fp32")
    assert_sentence(error.value, "no checkpoint of step 0", "[2, 4, 6]")
    assert not (tmp_path / "fp32").exists()


def test_interrupted_replay_resumes_to_the_same_hashes(base: RunFolder, lossy: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        replay(base, POLICIES["fp16-noscale"], tmp_path / "run", progress=interrupted(3))
    again = resume(RunFolder.open(tmp_path / "run"))
    assert hash_rows(again) == hash_rows(lossy)
    assert figures(again) == figures(lossy)


def test_parent_is_left_as_it_is(base: RunFolder, tmp_path: Path) -> None:
    before = contents(base.path)
    replay(base, POLICIES["bf16"], tmp_path / "bf16", steps=1)
    assert contents(base.path) == before
