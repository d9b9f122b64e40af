"""Checkpoints: the same bits back, whole or absent, and damage told in one sentence."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from small_runs import assert_same_trees, assert_sentence, contents

from qsim import checkpoints
from qsim.checkpoints import (
    PARTS,
    Checkpoint,
    CheckpointError,
    CheckpointWarning,
    checkpoint_path,
    load_checkpoint,
    load_last_checkpoint,
    save_checkpoint,
    saved_steps,
)
from qsim.optimizer import ScaleState

HARD = np.array([0x7FC01234, 0x80000000, 0x00000001, 0xFF800000, 0x007FFFFF, 0x3F800001], np.uint32)


def example(step: int = 3) -> Checkpoint:
    """Twelve layers, and every kind of float32 value that a copy might lose."""
    patterns = np.arange(12 * 6, dtype=np.uint32) * 0x9E3779B1 + np.uint32(step)
    part = {
        "blocks.qkv.weight": patterns.view(np.float32).reshape(12, 3, 2),
        "logits.weight": HARD.view(np.float32).reshape(2, 3),
    }
    return Checkpoint(
        step=step,
        updates=step - 1,
        scale=ScaleState(scale=2.0**-3, good_steps=7),
        state={name: {k: np.roll(w, i, axis=-1) for k, w in part.items()} for i, name in enumerate(PARTS)},
        policy_sha256="ab" * 32,
        data_sha256="cd" * 32,
    )


def assert_same_checkpoint(a: Checkpoint, b: Checkpoint) -> None:
    for field in dataclasses.fields(Checkpoint):
        if field.name != "state":
            assert getattr(a, field.name) == getattr(b, field.name)
    assert a.state.keys() == b.state.keys() == set(PARTS)
    for part in PARTS:
        assert_same_trees(a.state[part], b.state[part])


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, example())
    assert_same_checkpoint(load_checkpoint(tmp_path, 3), example())


def test_layout_does_not_count(tmp_path: Path) -> None:
    """safetensors writes memory as it lies; a transposed array must not come back permuted."""
    original = example()
    fortran = {p: {k: np.asfortranarray(w) for k, w in tree.items()} for p, tree in original.state.items()}
    save_checkpoint(tmp_path, dataclasses.replace(original, state=fortran))
    assert_same_checkpoint(load_checkpoint(tmp_path, 3), original)


def test_files_are_safetensors_by_layer_and_json(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, example())
    folder = tmp_path / "checkpoints" / "step_3"
    assert checkpoint_path(tmp_path, 3) == folder
    assert sorted(os.listdir(folder)) == ["state.json", "state.safetensors"]
    names = {f"{p}/layer.{i}.qkv.weight" for p in PARTS for i in range(12)}
    assert set(load_file(folder / "state.safetensors")) == names | {f"{p}/logits.weight" for p in PARTS}
    record = json.loads((folder / "state.json").read_text())
    assert record.pop("sha256") == hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    files = {"state.safetensors": hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()}
    assert record == {
        "files": files,
        "step": 3,
        "updates": 2,
        "loss_scale": 0.125,
        "good_steps": 7,
        "policy_sha256": "ab" * 32,
        "data_sha256": "cd" * 32,
    }


def test_saved_steps_are_in_order_of_number(tmp_path: Path) -> None:
    assert saved_steps(tmp_path) == []
    for step in (10, 2, 0, 100):
        save_checkpoint(tmp_path, example(step))
    assert saved_steps(tmp_path) == [0, 2, 10, 100]


def test_what_is_no_checkpoint_is_not_counted(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, example(4))
    folder = tmp_path / "checkpoints"
    for name in (".step_6.tmp", "step_8.kept", "step_", "other"):
        (folder / name).mkdir()
    (folder / "step_9").write_text("a file")
    assert saved_steps(tmp_path) == [4]


# A write that fails


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """os.replace fails from the call with that number on."""
    replace = os.replace

    def begin(call: int, error: BaseException) -> None:
        made = 0

        def fail(*paths: Any) -> None:
            nonlocal made
            made += 1
            if made >= call:
                raise error
            replace(*paths)

        monkeypatch.setattr(os, "replace", fail)

    return begin


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("call", [1, 2], ids=["of the record", "of the folder"])
def test_a_failing_rename_leaves_the_last_whole_checkpoint(
    tmp_path: Path, failing: Any, monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException
) -> None:
    save_checkpoint(tmp_path, example(2))
    before = contents(tmp_path / "checkpoints" / "step_2")
    failing(call, error)
    with pytest.raises(type(error)):
        save_checkpoint(tmp_path, example(4))
    assert saved_steps(tmp_path) == [2]
    assert contents(tmp_path / "checkpoints" / "step_2") == before
    assert_same_checkpoint(load_checkpoint(tmp_path, 2), example(2))
    monkeypatch.undo()
    save_checkpoint(tmp_path, example(4))  # what the failed write left behind is in nobody's way
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step_2", "step_4"]
    assert_same_checkpoint(load_checkpoint(tmp_path, 4), example(4))


def test_a_checkpoint_is_never_written_over(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, example(2))
    with pytest.raises(CheckpointError) as error:
        save_checkpoint(tmp_path, dataclasses.replace(example(9), step=2))
    assert_sentence(error.value, repr(str(checkpoint_path(tmp_path, 2))), "remove that folder")
    assert_same_checkpoint(load_checkpoint(tmp_path, 2), example(2))
    assert os.listdir(tmp_path / "checkpoints") == ["step_2"]


# Damage


def test_missing_step_names_those_there(tmp_path: Path) -> None:
    for step in (0, 2):
        save_checkpoint(tmp_path, example(step))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path, 5)
    assert_sentence(error.value, repr(str(tmp_path)), "no checkpoint of step 5", "[0, 2]")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scramble(path: Path) -> None:
    path.write_bytes(b"\xff\x00\xfe" * 50)


def remove(path: Path) -> None:
    path.unlink()


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, empty, scramble, remove, replace_by_folder])
@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_damaged_file_is_one_sentence(tmp_path: Path, name: str, damage: Any) -> None:
    save_checkpoint(tmp_path, example())
    folder = checkpoint_path(tmp_path, 3)
    damage(folder / name)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path, 3)
    assert_sentence(error.value, repr(str(folder)), "is damaged", "remove that folder")


@pytest.mark.parametrize("record", ["[]", "3", "null", "{}", '{"step": 3}', '"text"'])
def test_record_of_another_kind_is_one_sentence(tmp_path: Path, record: str) -> None:
    save_checkpoint(tmp_path, example())
    (checkpoint_path(tmp_path, 3) / "state.json").write_text(record)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path, 3)
    assert_sentence(error.value, "is damaged", "remove that folder")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["layer.0.qkv.weight", "layer.1.qkv.weight", "layer.11.qkv.weight", "logits.weight"])
def test_missing_tensor_is_refused(tmp_path: Path, part: str, name: str) -> None:
    save_checkpoint(tmp_path, example())
    path = checkpoint_path(tmp_path, 3) / "state.safetensors"
    tensors = load_file(path)
    del tensors[f"{part}/{name}"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path, 3)
    assert_sentence(error.value, "is damaged", "remove that folder")


def test_advice_of_the_sentence_works(tmp_path: Path) -> None:
    for step in (2, 3):
        save_checkpoint(tmp_path, example(step))
    (checkpoint_path(tmp_path, 3) / "state.json").write_text("{")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path, 3)
    named = re.search(r"checkpoint '([^']+)'", str(error.value))
    assert named is not None
    shutil.rmtree(named[1])
    assert saved_steps(tmp_path) == [2]
    assert_same_checkpoint(load_checkpoint(tmp_path, 2), example(2))


# Hashes


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_no_flipped_bit_passes(tmp_path: Path, name: str) -> None:
    """Every bit of the record, every 7th byte of the tensors: refused, or, as white space may be, without effect."""
    save_checkpoint(tmp_path, example())
    path = checkpoint_path(tmp_path, 3) / name
    whole = path.read_bytes()
    places = [(i, b) for i in range(len(whole)) for b in range(8)] if name == "state.json" else []
    for byte, bit in places or [(i, i % 8) for i in range(0, len(whole), 7)]:
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1 << bit]) + whole[byte + 1 :])
        try:
            found = load_checkpoint(tmp_path, 3)
        except CheckpointError as error:
            assert_sentence(error, "is damaged", "remove that folder")
        else:
            assert name == "state.json"
            assert_same_checkpoint(found, example())


def test_checkpoints_of_before_hashes_are_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, example())
    path = checkpoint_path(tmp_path, 3) / "state.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: record[key] for key in record if key not in ("files", "sha256")}, indent=1))
    assert_same_checkpoint(load_checkpoint(tmp_path, 3), example())


def test_checkpoint_of_another_step_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, example())
    checkpoint_path(tmp_path, 3).rename(checkpoint_path(tmp_path, 4))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path, 4)
    assert_sentence(error.value, "it is of step 3", "remove that folder")


def test_newest_whole_checkpoint_is_loaded(tmp_path: Path) -> None:
    assert load_last_checkpoint(tmp_path) is None
    for step in (2, 10):
        save_checkpoint(tmp_path, example(step))
    loaded = load_last_checkpoint(tmp_path)
    assert loaded is not None
    assert_same_checkpoint(loaded, example(10))


@pytest.mark.parametrize("damage", [cut, empty, scramble, remove])
@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_damaged_checkpoint_is_passed_over_and_set_aside(tmp_path: Path, name: str, damage: Any) -> None:
    for step in (2, 4):
        save_checkpoint(tmp_path, example(step))
    folder = checkpoint_path(tmp_path, 4)
    damage(folder / name)
    with pytest.warns(CheckpointWarning) as warned:
        loaded = load_last_checkpoint(tmp_path)
    assert loaded is not None
    assert_same_checkpoint(loaded, example(2))
    assert_sentence(
        warned[0].message, repr(str(folder)), "is damaged", "'step_4.damaged'", "the one before it is used"
    )
    assert saved_steps(tmp_path) == [2]
    save_checkpoint(tmp_path, example(4))
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step_2", "step_4", "step_4.damaged"]


# A full disk


@pytest.mark.parametrize("call", [1, 2, 3])
def test_full_disk_names_the_checkpoint_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The writing of the tensors, the syncing of them and that of the record."""
    save_checkpoint(tmp_path, example(2))
    fsync, made = os.fsync, 1

    def full_fsync(descriptor: int) -> None:
        nonlocal made
        made += 1
        if made == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    def full_save(*_: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(os, "fsync", full_fsync)
    if call == 1:
        monkeypatch.setattr(checkpoints, "save_file", full_save)
    with pytest.raises(OSError, match="No space left on device") as error:
        save_checkpoint(tmp_path, example(4))
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(checkpoint_path(tmp_path, 4)))
    assert os.listdir(tmp_path / "checkpoints") == ["step_2"]
    assert_same_checkpoint(load_checkpoint(tmp_path, 2), example(2))
