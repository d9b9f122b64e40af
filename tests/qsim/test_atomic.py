"""Atomic writes: whole new bytes, or the old file and nothing beside it."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

from qsim.atomic import append_line, remove_leftovers, write_atomically


def test_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for data in (b"one", b"", memoryview(b"three")):
        write_atomically(path, data)
        assert path.read_bytes() == bytes(data)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch, call: str, error) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_bytes_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_atomically(tmp_path / "a", b"new")
    assert calls[:2] == ["fsync", "replace"]


def test_lines_are_appended(tmp_path: Path) -> None:
    for line in ("one", "", "größer"):
        append_line(tmp_path / "a", line)
    assert (tmp_path / "a").read_text(encoding="utf-8") == "one\n\ngrößer\n"


class _FullDisk(io.FileIO):
    """A file that takes four bytes and no more."""

    left = 4

    def write(self, data: Any) -> int:
        part = bytes(data)[: self.left]
        if not part:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= len(part)
        return super().write(part)


@pytest.mark.parametrize("old", [b"", b"old\n"])
def test_a_line_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes) -> None:
    (tmp_path / "a").write_bytes(old)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *_, **__: _FullDisk(path, "a"))
        with pytest.raises(OSError, match="No space left") as error:
            append_line(tmp_path / "a", "a line")
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == old


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_names_the_file_and_not_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "full", *map(str, paths[:1]))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left on device") as error:
        write_atomically(tmp_path / "a", b"new")
    assert error.value.filename == str(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        write_atomically(tmp_path / "none" / "a", b"new")
    assert error.value.filename == str(tmp_path / "none" / "a")


def test_leftovers_are_temporary_files_alone(tmp_path: Path) -> None:
    for name in (".a.json.12.tmp", "a.tmp", ".hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / ".step_3.tmp").mkdir()
    (tmp_path / ".step_3.tmp" / "file").write_text("")
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "none")
    assert sorted(os.listdir(tmp_path)) == [".hidden", "a.tmp"]
