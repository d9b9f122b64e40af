"""Checkpoints in shards: the same bits back on any devices, whole or absent, written while training goes on."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from processes import environment, free_port
from small_runs import (
    assert_same_trees,
    assert_sentence,
    contents,
    hash_rows,
    interrupted,
    small_config,
    write_text,
)
from test_checkpoints import assert_same_checkpoint, example
from test_soak import flip, small_disk, start  # noqa: F401  (a fixture)

import qsim
from qsim import shards_on_disk
from qsim.checkpointing import ShardedCheckpoints, convert
from qsim.checkpoints import (
    Checkpoint,
    CheckpointError,
    CheckpointWarning,
    checkpoint_path,
    load_checkpoint,
    load_last_checkpoint,
    save_checkpoint,
    saved_steps,
    write_record,
)
from qsim.config import override_all
from qsim.devices import OneDevice
from qsim.replay import resume
from qsim.runs import RunFolder
from qsim.shards_on_disk import MissingOrbax
from qsim.training import train_new

needs_orbax = pytest.mark.skipif(find_spec("orbax") is None, reason="orbax-checkpoint is not installed")
SCRIPT = Path(__file__).with_name("shards_of_processes.py")
CHANGES = {"model.layers": 1, "model.dropout": 0.1, "record.statistics_every": 0}


def run_of(out: Path, form: str, policy: str = "fp16", **how: object) -> RunFolder:
    """Of 6 steps on NumPy, a checkpoint every second."""
    out.parent.mkdir(parents=True, exist_ok=True)
    config = small_config(**CHANGES, **{"record.checkpoints": form})
    return train_new(out, config, policy, "numpy", [write_text(out.parent)], **how)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_of(tmp_path_factory.mktemp("whole") / "run", "safetensors")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_of(tmp_path_factory.mktemp("sharded") / "run", "orbax")


# The same bits


@needs_orbax
def test_a_run_is_the_same_in_either_form(whole: RunFolder, sharded: RunFolder) -> None:
    assert hash_rows(sharded) == hash_rows(whole)
    assert saved_steps(sharded.path) == saved_steps(whole.path) == [0, 2, 4, 6]
    for step in (0, 2, 4, 6):
        assert_same_checkpoint(load_checkpoint(sharded.path, step), load_checkpoint(whole.path, step))
    assert not list(sharded.path.rglob("*.safetensors"))
    found, expected = qsim.load_run(sharded.path), qsim.load_run(whole.path)
    assert found.checkpoints == expected.checkpoints
    assert_same_trees(found.parameters(4), expected.parameters(4))


@needs_orbax
@pytest.mark.parametrize("policy", ["fp8-delayed", "fp64"])
def test_other_states(tmp_path: Path, policy: str) -> None:
    """Histories of scales, and float64."""
    one, other = (run_of(tmp_path / form / "run", form, policy) for form in ("safetensors", "orbax"))
    a, b = (load_checkpoint(run.path, 6).state for run in (one, other))
    assert a.keys() == b.keys()
    for part in a:
        assert_same_trees(a[part], b[part])


@needs_orbax
def test_conversion_there_and_back(tmp_path: Path) -> None:
    """NaNs with payloads, subnormals and signed zeros; what a killed conversion left is in nobody's way."""
    save_checkpoint(tmp_path, example())
    folder, before = checkpoint_path(tmp_path, 3), contents(tmp_path)
    (folder / "orbax").mkdir()
    (folder / "orbax" / "half").write_text("written")
    assert convert(tmp_path, 3, "orbax")
    assert_same_checkpoint(load_checkpoint(tmp_path, 3), example())
    assert not list(folder.glob("*.safetensors"))
    assert not convert(tmp_path, 3, "orbax")
    (folder / "state.safetensors").write_text("half written")
    assert_same_checkpoint(load_checkpoint(tmp_path, 3), example())
    assert convert(tmp_path, 3, "safetensors")
    assert contents(tmp_path) == before


@needs_orbax
def test_commands_take_shards(tmp_path: Path, sharded: RunFolder, cli: Cli) -> None:
    """A model is exported from them, and the command converts them."""
    assert cli("export", sharded.path, "--out", tmp_path / "gpt2")[0] == 0
    copy = tmp_path / "copy"
    run_of(copy, "orbax")
    assert cli("diff", sharded.path, copy)[0] == 0
    found = cli.rows("convert", copy, "--to", "safetensors", "--step", 4)
    assert found == {"run": str(copy), "form": "safetensors", "converted": [4]}
    for said in ("0, 2, 6", "already"):
        assert said in cli("convert", copy, "--to", "safetensors")[1]
    assert hash_rows(copy) == hash_rows(sharded)


# Whole or absent


def slow(monkeypatch: pytest.MonkeyPatch, wait: Callable[[], object]) -> None:
    """Before it is complete, a checkpoint waits for something."""
    from qsim.orbax_files import _Hashing

    hashed = _Hashing._hash
    monkeypatch.setattr(_Hashing, "_hash", lambda own: (wait(), hashed(own))[1])


@needs_orbax
def test_training_goes_on_meanwhile(tmp_path: Path, sharded: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of step 0 is written for as long as step 1 takes, and then is that of step 0."""
    released, seen = threading.Event(), []
    slow(monkeypatch, lambda: released.wait(60))

    class Watching:
        def __enter__(self) -> Watching:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def update(self, step: int, loss: float) -> None:
            seen.append((step, saved_steps(tmp_path / "run"), released.is_set()))
            released.set()

    run = run_of(tmp_path / "run", "orbax", progress=lambda *_: Watching())
    assert seen[0] == (1, [], False)
    assert saved_steps(run.path) == [0, 2, 4, 6]
    assert_same_checkpoint(load_checkpoint(run.path, 0), load_checkpoint(sharded.path, 0))
    assert hash_rows(run) == hash_rows(sharded)


@needs_orbax
def test_an_interrupted_run_goes_on(tmp_path: Path, whole: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path / "run", "orbax", progress=interrupted(5))
    assert saved_steps(tmp_path / "run") == [0, 2, 4]
    half = tmp_path / "run" / "checkpoints" / "step_6.orbax-checkpoint-tmp"
    half.mkdir()
    run = resume(RunFolder.open(tmp_path / "run"))
    assert hash_rows(run) == hash_rows(whole)
    assert not half.exists()


DYING = """
import os, signal
from qsim.orbax_files import _Hashing
{place} = _Hashing.{place}
def dying(own, *rest):
    if "step_6" in str(own.written):
        os.kill(os.getpid(), signal.SIGKILL)
    return {place}(own, *rest)
_Hashing.{place} = dying
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.mark.exhaustive
@needs_orbax
@pytest.mark.parametrize("place", [pytest.param("_hash", marks=pytest.mark.exhaustive), "finalize"])
def test_death_inside_the_writer(tmp_path: Path, text: Path, place: str) -> None:
    """Its shards written, or all but the folder's new name: not taken for whole, and the run goes on."""
    run = tmp_path / "run"
    process = start(run, text, before=DYING.format(place=place), more=["--checkpoints", "orbax"])
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert saved_steps(run) == [0, 3]
    assert list((run / "checkpoints").glob("step_6.*"))
    begun = RunFolder.open(run)
    config = override_all(begun.config, [("record.checkpoints", "safetensors")])
    peace = train_new(tmp_path / "peace", config, "fp16", "numpy", [text])
    assert hash_rows(resume(begun)) == hash_rows(peace)
    assert not list((run / "checkpoints").glob("*tmp*"))


@needs_orbax
def test_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    for step in (2, 4):
        save_checkpoint(tmp_path, example(step))
        convert(tmp_path, step, "orbax")
    folder = checkpoint_path(tmp_path, 4)
    flip(max(folder.rglob("ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size), -5)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path, 4)
    assert_sentence(error.value, repr(str(folder)), "ocdbt.process_0/d/", "was altered", "remove that folder")
    with pytest.warns(CheckpointWarning, match="step_4.damaged"):
        found = load_last_checkpoint(tmp_path)
    assert found is not None
    assert_same_checkpoint(found, example(2))


def saved(saver: ShardedCheckpoints, checkpoint: Checkpoint) -> None:
    saver.save(checkpoint)
    saver.wait()


@needs_orbax
def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A step that is there already; an array that orbax refuses; a place where no folder can be."""
    save_checkpoint(tmp_path, example())
    saver = ShardedCheckpoints(tmp_path, OneDevice("numpy"))
    with pytest.raises(CheckpointError, match="exists already"):
        saver.save(example())
    with pytest.raises(CheckpointError) as refused:
        saved(saver, dataclasses.replace(example(5), state={"first": {"nothing": np.zeros((0, 2), np.float32)}}))
    assert_sentence(refused.value, "step_5", "could not be written", "zero size")
    assert saved_steps(tmp_path) == [3]
    (tmp_path / "file").write_text("")
    saver = ShardedCheckpoints(tmp_path / "file", OneDevice("numpy"))
    with pytest.raises(OSError, match="step_4") as error:
        saved(saver, example(4))
    assert error.value.filename == str(checkpoint_path(tmp_path / "file", 4))


# where one array cannot be written, orbax closes the event loop that others still report to
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@needs_orbax
def test_a_full_disk(small_disk: Path) -> None:  # noqa: F811
    """Told by its name; the checkpoint before stays."""
    saver = ShardedCheckpoints(small_disk, OneDevice("numpy"))
    saver.save(example(2))
    large = np.random.default_rng(0).random((300, 300)).astype(np.float32)
    state = {part: {"logits.weight": large} for part in ("parameters", "first", "second")}
    with pytest.raises(OSError, match=r"[Nn]o space left") as error:
        saved(saver, dataclasses.replace(example(4), state=state))
    assert error.value.filename == str(checkpoint_path(small_disk, 4))
    assert saved_steps(small_disk) == [2]
    assert_same_checkpoint(load_checkpoint(small_disk, 2), example(2))


# Several devices and processes


def outcomes(processes: int, devices: int, folder: Path) -> list[str]:
    """What processes of ``shards_of_processes`` print."""
    command = [sys.executable, "-W", "error", str(SCRIPT), str(folder), str(processes), str(free_port())]
    started = [
        subprocess.Popen(
            [*command, str(i)], env=environment(devices), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for i in range(processes)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * processes, ended
    return [out for out, _ in ended]


@pytest.mark.thinned(0.5)
@needs_orbax
@pytest.mark.parametrize(("processes", "devices"), [(1, 8), (2, 4)])
def test_every_mesh_reads_what_another_wrote(tmp_path: Path, processes: int, devices: int) -> None:
    """Eight devices of one process or two write; they, two of them and one read.  Damage is an error in all."""
    for out in outcomes(processes, devices, tmp_path):
        assert out.endswith("saved\nread\ndamage noticed\n")
    written = {path.name for path in tmp_path.rglob("ocdbt.process_*")}
    assert written == {f"ocdbt.process_{i}" for i in range(processes)}


# Without orbax


def test_what_needs_orbax_says_so(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, text: Path) -> None:
    """Before anything is written; a checkpoint in shards is not taken for damaged."""
    monkeypatch.setattr(shards_on_disk, "find_spec", lambda _: None)
    said = cli.refused(tmp_path, "train", "--checkpoints", "orbax", "--text", text, "--out", tmp_path / "run")
    assert_sentence(said, "need orbax, which is not installed", "qsim-precision[orbax]")
    save_checkpoint(tmp_path, example())
    with pytest.raises(MissingOrbax, match="not installed"):
        convert(tmp_path, 3, "orbax")
    write_record(checkpoint_path(tmp_path, 3), example(), {})
    with pytest.raises(MissingOrbax, match="is in shards"):
        load_last_checkpoint(tmp_path)
    assert saved_steps(tmp_path) == [3]
