"""The loop: what a run folder holds, and that interruption leaves no trace in it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shutil
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

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
    small_config,
    small_run,
    write_text,
)

from qsim import training
from qsim.checkpoints import checkpoint_path, load_checkpoint, save_checkpoint, saved_steps
from qsim.data import DataError, batch, build_corpus, load_data, save_data
from qsim.hashing import scalar_hash, tree_hash, unstack
from qsim.model import initial_parameters
from qsim.optimizer import step_scalars
from qsim.policy import PASSES, POLICIES, SITES, Arithmetic
from qsim.replay import resume
from qsim.runs import RunError, RunFolder
from qsim.schedules import learning_rate
from qsim.step import Step
from qsim.training import train, train_new

DROPOUT = {"model.dropout": 0.25}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("training") / "run")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], RunFolder]:
    """Uninterrupted runs, each made once."""

    @cache
    def make(policy: str, dropout: bool) -> RunFolder:
        return small_run(tmp_path_factory.mktemp("straight") / "run", policy, **(DROPOUT if dropout else {}))

    return make


def scaled_from(initial: float, interval: int = 50) -> Arithmetic:
    """fp16 whose loss scale begins elsewhere."""
    policy = POLICIES["fp16"]
    scaling = dataclasses.replace(policy.loss_scaling, initial=initial, interval=interval)
    return dataclasses.replace(policy, loss_scaling=scaling)


def run_under(folder: Path, policy: Arithmetic, **changes: Any) -> RunFolder:
    config = small_config(**changes)
    corpus = build_corpus([write_text(folder)])
    created = RunFolder.create(folder / "run", config, policy, "numba")
    save_data(created.path, corpus)
    return train(created, corpus)


# What is written


def test_all_files_are_there(run: RunFolder) -> None:
    files = {name for name, data in contents(run.path).items() if data is not None}
    steps = (0, 2, 4, 6)
    assert files == {
        "config.json",
        "environment.json",
        "data.json",
        "tokens.bin",
        "metrics.jsonl",
        "hashes.jsonl",
        *(f"statistics/step_{step:06d}.json" for step in (1, 3, 6)),
        *(f"checkpoints/step_{step}/state.{kind}" for step in steps for kind in ("json", "safetensors")),
    }


def test_config_is_what_was_asked(run: RunFolder) -> None:
    record = json.loads((run.path / "config.json").read_text())
    assert run.config == small_config()
    assert run.policy == POLICIES["fp32"]
    assert run.executor == record["executor"] == "numba"
    assert record["parent"] is None
    assert record["policy_sha256"] == POLICIES["fp32"].sha256
    assert (record["preset"], record["seed"]) == ("tiny", 0)
    assert record["model"] == record["config"]["model"]
    assert record["training"]["steps"] == STEPS


def test_environment_is_told(run: RunFolder) -> None:
    record = json.loads((run.path / "environment.json").read_text())
    assert record["python"] == platform.python_version()
    assert record["versions"]["numpy"] == np.__version__
    assert record["cores"] == os.cpu_count()


def test_metrics_rows(run: RunFolder) -> None:
    rows = list(run.rows("metrics.jsonl"))
    *steps, last = rows
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    config = run.config
    for row in steps:
        keys = ["step", "loss", "learning_rate", "gradient_norm", "loss_scale", "skipped", "seconds"]
        assert list(row) == keys
        assert row["learning_rate"] == learning_rate(config.optimizer, row["step"], STEPS)
        assert row["loss"] == float(np.float32(row["loss"]))
        assert row["gradient_norm"] > 0
        assert (row["loss_scale"], row["skipped"]) == (1.0, False)
    assert steps[0]["loss"] == pytest.approx(math.log(256), abs=0.05)  # nothing is known at the start
    assert list(last) == ["step", "validation_loss"]
    assert last["step"] == STEPS
    assert math.log(2) < last["validation_loss"] < math.log(256)
    assert run.finished


def test_hash_rows_are_the_hashes_of_the_state(run: RunFolder) -> None:
    rows = hash_rows(run)
    assert [list(row) for row in rows] == [["step", "loss", "gradients", "parameters", "optimizer"]] * STEPS
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    hashes = [value for row in rows for name, value in row.items() if name != "step"]
    assert len(set(hashes)) == 4 * STEPS
    assert all(len(value) == 64 and int(value, 16) >= 0 for value in hashes)
    losses = {row["step"]: row["loss"] for row in run.rows("metrics.jsonl") if "loss" in row}
    for row in rows:
        assert row["loss"] == scalar_hash(np.float32(losses[row["step"]]))
    for step in (2, 4, 6):
        state = load_checkpoint(run.path, step).state
        moments = {f"{part}.{name}": w for part in ("first", "second") for name, w in unstack(state[part]).items()}
        assert rows[step - 1]["parameters"] == tree_hash(state["parameters"])
        assert rows[step - 1]["optimizer"] == tree_hash(moments)


def test_checkpoints_hold_the_state(run: RunFolder) -> None:
    assert saved_steps(run.path) == [0, 2, 4, 6]
    first = load_checkpoint(run.path, 0)
    assert_same_trees(first.state["parameters"], initial_parameters(run.config.model, 0))
    assert all(not m.any() for part in ("first", "second") for m in first.state[part].values())
    for step in (0, 2, 4, 6):
        saved = load_checkpoint(run.path, step)
        assert (saved.step, saved.updates, saved.scale.scale) == (step, step, 1.0)
        assert saved.policy_sha256 == POLICIES["fp32"].sha256
        assert saved.data_sha256 == load_data(run.path).sha256


def test_steps_can_be_taken_one_by_one(run: RunFolder) -> None:
    """The loop adds nothing to the step: checkpoint, batch and scalars give the next checkpoint."""
    saved, config = load_checkpoint(run.path, 2), run.config
    step, state, corpus = Step(config, run.policy, "numba"), saved.state, load_data(run.path)
    for number in (3, 4):
        rows = batch(corpus, seed=0, step=number, batch_size=4, length=16)
        scalars = step_scalars(config.optimizer, number, STEPS, number - 1, 1.0)
        state, results = step(state, rows, scalars, None)
        recorded = hash_rows(run)[number - 1]
        assert recorded["gradients"] == tree_hash(results["gradients"])
        assert recorded["loss"] == scalar_hash(results["loss"])
    assert_same_trees(state["parameters"], load_checkpoint(run.path, 4).state["parameters"])


def test_statistics_name_every_site(run: RunFolder) -> None:
    """Every site, layer by layer, in each pass in which it rounds anything, and the weights as they are used."""
    file = json.loads((run.path / "statistics" / "step_000003.json").read_text())
    assert file["step"] == 3
    sites = file["sites"]
    single = {"embedding", "layernorm_final", "logits", "loss"}
    layered = set(SITES) - single
    found = {tuple(name.removeprefix("layer.0.").split(".")) for name in sites if not name.startswith("layer.1.")}
    wgrad = {"embedding", "layernorm_1", "layernorm_2", "layernorm_final", "qkv", "attention_out", "mlp_up"}
    expected = {(site, p) for site in SITES for p in ("fprop", "dgrad")} - {("embedding", "dgrad")}
    expected |= {(site, "wgrad") for site in wgrad | {"mlp_down", "logits"}}
    weighted = wgrad | {"mlp_down", "logits"}
    expected |= {(site, "weights") for site in weighted}
    assert found == expected
    assert {p for _, p in found} == {*PASSES, "weights"}
    for name in sites:
        assert name.startswith("layer.") == (name.split(".")[-2] in layered), name
        if name.startswith("layer.0."):
            assert name.replace("layer.0.", "layer.1.") in sites


def test_statistics_count_every_value(run: RunFolder) -> None:
    """Counts that follow from the shapes: N = 64 rows, width 16, heads 2, vocabulary 256, two chunks."""
    sites = json.loads((run.path / "statistics" / "step_000001.json").read_text())["sites"]
    rows, h, chunks = 4 * 16, 16, 2
    expected = {
        "embedding.fprop": rows * h,
        "logits.fprop": rows * 256,
        "logits.wgrad": chunks * h * 256,
        "logits.weights": h * 256,
        "loss.fprop": 1,
        "loss.dgrad": rows * 256,
        "layer.0.qkv.fprop": 2 * rows * 3 * h,  # product, then bias
        "layer.1.qkv.wgrad": chunks * (h * 3 * h + 3 * h),
        "layer.1.qkv.weights": h * 3 * h + 3 * h,
        "layer.0.softmax.fprop": 4 * 2 * 16 * 16,
        "layer.0.mlp_up.dgrad": rows * h,
        "layer.1.gelu.fprop": rows * 4 * h,
        "embedding.weights": 256 * h + 16 * h,
    }
    assert {name: sites[name]["count"] for name in expected} == expected
    for site in sites.values():
        seen = site["count"] - site["zero"] - site["nan"] - site["infinite"]
        assert sum(site["exponents"].values()) == seen
        assert site["format"] == "fp32"
        assert site["overflowed"] == site["nan"] == site["infinite"] == site["inexact"] == 0


def test_recording_can_be_turned_off(tmp_path: Path) -> None:
    off = {"record.statistics_every": 0, "record.checkpoint_every": 0, "record.hash_every": 0}
    quiet = small_run(tmp_path / "run", **off)
    assert not (quiet.path / "statistics").exists()
    assert not (quiet.path / "hashes.jsonl").exists()
    assert saved_steps(quiet.path) == [0, STEPS]  # the ends are always kept


def test_recording_does_not_change_the_run(tmp_path: Path, run: RunFolder) -> None:
    every = {"record.statistics_every": 1, "record.checkpoint_every": 1, "record.hash_every": 2}
    other = small_run(tmp_path / "run", **every)
    assert hash_rows(other) == hash_rows(run)[1::2]
    assert figures(other) == figures(run)
    assert saved_steps(other.path) == list(range(STEPS + 1))


# What comes of it


def test_loss_falls(tmp_path: Path) -> None:
    longer = small_run(tmp_path / "run", steps=40, **{"optimizer.learning_rate": 1e-2})
    losses = [row["loss"] for row in longer.rows("metrics.jsonl") if "loss" in row]
    held_out = list(longer.rows("metrics.jsonl"))[-1]["validation_loss"]
    assert np.mean(losses[-5:]) < losses[0] - 2
    assert held_out < losses[0] - 2


def test_runs_repeat_and_seeds_differ(tmp_path: Path, run: RunFolder) -> None:
    assert hash_rows(small_run(tmp_path / "again")) == hash_rows(run)
    other = hash_rows(small_run(tmp_path / "other", seed=1))
    assert all(a["parameters"] != b["parameters"] for a, b in zip(other, hash_rows(run), strict=True))


def test_dropout_changes_the_training_and_not_the_held_out_loss(tmp_path: Path, run: RunFolder) -> None:
    """The held-out loss is that of the final weights without dropout."""
    dropped = small_run(tmp_path / "run", **DROPOUT)
    assert hash_rows(dropped)[0]["gradients"] != hash_rows(run)[0]["gradients"]
    parameters = load_checkpoint(dropped.path, STEPS).state["parameters"]
    corpus = load_data(dropped.path)
    loss = training.held_out_loss(run.config, run.policy, "numba", parameters, corpus)
    assert list(dropped.rows("metrics.jsonl"))[-1]["validation_loss"] == loss


def test_skipped_steps_are_told_and_counted(tmp_path: Path) -> None:
    """A scale of 2^40 overflows fp16 until it has been halved often enough; the weights stand still meanwhile."""
    steps = 26
    scaled = run_under(tmp_path, scaled_from(2.0**40), steps=steps)
    *rows, _ = scaled.rows("metrics.jsonl")
    skipped = [row["skipped"] for row in rows]
    assert all(skipped[:10])
    assert not all(skipped)
    assert [row["loss_scale"] for row in rows] == [2.0 ** (40 - sum(skipped[:step])) for step in range(steps)]
    start = tree_hash(initial_parameters(scaled.config.model, 0))
    hashes = [start, *(row["parameters"] for row in hash_rows(scaled))]
    assert [a == b for a, b in pairwise(hashes)] == skipped
    last = load_checkpoint(scaled.path, steps)
    assert (last.updates, last.scale.scale) == (steps - sum(skipped), 2.0 ** (40 - sum(skipped)))
    assert last.scale.good_steps == skipped[::-1].index(True)


def test_scale_grows_after_its_interval(tmp_path: Path) -> None:
    grown = run_under(tmp_path, scaled_from(16.0, interval=2))
    *rows, _ = grown.rows("metrics.jsonl")
    assert [row["loss_scale"] for row in rows] == [16, 16, 32, 32, 64, 64]


# Interruption


def interrupted_run(folder: Path, after: int, policy: str = "fp32", **changes: Any) -> RunFolder:
    with pytest.raises(KeyboardInterrupt):
        small_run(folder, policy, progress=interrupted(after), **changes)
    stopped = RunFolder.open(folder)
    assert not stopped.finished
    assert len(hash_rows(stopped)) == after
    return stopped


@pytest.mark.thinned(0.15)
@pytest.mark.parametrize("policy", ["fp32", "fp16", "int8-train-sr"])
@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
@pytest.mark.parametrize("after", [1, 3, 4, 6])
def test_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, straight: Callable[[str, bool], RunFolder], after: int, dropout: bool, policy: str
) -> None:
    """Checkpoints at 0, 2, 4 and 6: step 3 lies after one, 4 and 6 on one, 1 has only the start."""
    whole = straight(policy, dropout)
    stopped = interrupted_run(tmp_path / "stopped", after, policy, **(DROPOUT if dropout else {}))
    assert resume(stopped).finished
    assert hash_rows(stopped) == hash_rows(whole)
    assert figures(stopped) == figures(whole)
    a, b = contents(stopped.path), contents(whole.path)
    assert a.keys() == b.keys()
    different = {name for name in a if a[name] != b[name]}
    assert different <= {"metrics.jsonl", "data.json", "environment.json"}  # seconds, path of the text, commit


def test_a_step_cut_short_is_made_again(tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the hashes and the metrics of step 4: what it wrote is dropped, not doubled."""
    append = RunFolder.append

    def cut(self: RunFolder, name: str, row: dict[str, Any]) -> None:
        if name == "metrics.jsonl" and row["step"] == 4:
            raise KeyboardInterrupt
        append(self, name, row)

    monkeypatch.setattr(RunFolder, "append", cut)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "run")
    monkeypatch.undo()
    stopped = RunFolder.open(tmp_path / "run")
    assert len(hash_rows(stopped)) == 4
    resume(stopped)
    assert hash_rows(stopped) == hash_rows(run)
    assert figures(stopped) == figures(run)


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("name", ["metrics.jsonl", "hashes.jsonl"])
@pytest.mark.parametrize("half", ['{"step": 4, "lo', '{"step": 4', "{"])
def test_half_written_last_line_is_dropped(tmp_path: Path, run: RunFolder, name: str, half: str) -> None:
    stopped = interrupted_run(tmp_path / "run", 3)
    with (stopped.path / name).open("a") as file:
        file.write(half)
    resume(stopped)
    assert hash_rows(stopped) == hash_rows(run)
    assert figures(stopped) == figures(run)


@pytest.mark.parametrize("name", ["metrics.jsonl", "hashes.jsonl"])
def test_damage_before_the_last_line_is_refused(tmp_path: Path, name: str) -> None:
    """A kill cuts the last line alone; to drop what follows another one would lose it."""
    stopped = interrupted_run(tmp_path / "run", 3)
    lines = (stopped.path / name).read_text().splitlines(keepends=True)
    (stopped.path / name).write_text(lines[0] + lines[1][:20] + "\n" + lines[2])
    before = contents(stopped.path)
    with pytest.raises(RunError) as error:
        resume(stopped)
    assert_sentence(error.value, "line 2", name, "damaged", "restore it or delete it")
    assert contents(stopped.path) == before


def test_run_killed_before_its_held_out_loss_gets_it(tmp_path: Path, run: RunFolder) -> None:
    stopped = small_run(tmp_path / "run")
    path = stopped.path / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert not stopped.finished
    resume(stopped)
    assert figures(stopped) == figures(run)


def test_resuming_a_finished_run_leaves_it_as_it_is(run: RunFolder) -> None:
    before = contents(run.path)
    resume(run)
    assert contents(run.path) == before


def test_interrupted_twice(tmp_path: Path, run: RunFolder) -> None:
    stopped = interrupted_run(tmp_path / "run", 1)
    with pytest.raises(KeyboardInterrupt):
        resume(stopped, progress=interrupted(5))
    resume(stopped)
    assert hash_rows(stopped) == hash_rows(run)


def test_no_checkpoint_to_resume_from(tmp_path: Path) -> None:
    stopped = interrupted_run(tmp_path / "run", 1)
    for file in checkpoint_path(stopped.path, 0).iterdir():
        file.unlink()
    checkpoint_path(stopped.path, 0).rmdir()
    with pytest.raises(RunError) as error:
        resume(stopped)
    assert_sentence(error.value, repr(str(stopped.path)), "no checkpoint", "start it anew")


@pytest.mark.parametrize("key", ["policy_sha256", "data_sha256"])
def test_checkpoint_of_something_else_is_refused(tmp_path: Path, key: str) -> None:
    stopped = interrupted_run(tmp_path / "run", 3)
    saved = load_checkpoint(stopped.path, 2)
    shutil.rmtree(checkpoint_path(stopped.path, 2))
    save_checkpoint(stopped.path, dataclasses.replace(saved, **{key: "0" * 64}))
    before = contents(stopped.path)
    with pytest.raises(RunError) as error:
        resume(stopped)
    assert_sentence(error.value, repr(str(stopped.path)), "another policy or other data")
    assert contents(stopped.path) == before


# Refusals


def test_folder_in_use_is_refused(tmp_path: Path, run: RunFolder) -> None:
    before = contents(run.path)
    with pytest.raises(RunError) as error:
        small_run(run.path)
    assert_sentence(error.value, repr(str(run.path)), "exists already", "choose another --out")
    assert contents(run.path) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        small_run(tmp_path / "file")


def test_empty_folder_will_do(tmp_path: Path, run: RunFolder) -> None:
    (tmp_path / "run").mkdir()
    assert hash_rows(small_run(tmp_path / "run")) == hash_rows(run)


@pytest.mark.parametrize(
    ("words", "changes", "parts"),
    [
        (3, {}, ("training part", "fewer than one batch")),
        (900, {"model.length": 2000}, ("training part", "lower batch_size or length")),
        (22, {}, ("held-out part", "more text")),
        (900, {"model.vocabulary": 300}, ("vocabulary_size 256, not 300",)),
    ],
)
def test_corpus_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, words: int, changes: dict, parts: tuple[str, ...]
) -> None:
    text = write_text(tmp_path, words)
    with pytest.raises(DataError) as error:
        train_new(tmp_path / "run", small_config(**changes), "fp32", "numba", [text])
    assert_sentence(error.value, *parts)
    assert list(contents(tmp_path)) == ["text.txt"]


def test_damaged_config_is_one_sentence(tmp_path: Path) -> None:
    for text in ("", "{", "[]", "{}", '{"config": 3}', '{"config": {"seed": 0}, "policy": {}}', "\xff"):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(RunError) as error:
            RunFolder.open(tmp_path)
        assert_sentence(error.value, repr(str(tmp_path)), "is damaged", "restore it")
