"""The data of a run folder: it comes back the same, moved or referred to, and no alteration passes."""

from __future__ import annotations

import json
import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsim.corpus import Corpus
from qsim.run_data import load_data, reference_data, save_data
from qsim.text_sources import DataError
from qsim.tokenizers import token_dtype, train_sentencepiece

KINDS = ["bytes", "sentencepiece", "none"]


def _refuses(message: str):
    """The whole message: one sentence on one line."""
    assert "\n" not in message
    assert ". " not in message
    return pytest.raises(DataError, match=rf"^{re.escape(message)}\Z")


@cache
def _corpus(kind: str, first: int = 7) -> Corpus:
    size = {"bytes": 256, "sentencepiece": 270, "none": 100_000}[kind]
    return Corpus(
        tokens=((np.arange(50) * 9973 + first) % size).astype(token_dtype(size)),
        vocabulary_size=size,
        tokenizer=kind,
        tokenizer_model=train_sentencepiece("abcdefgh " * 50, size).model if kind == "sentencepiece" else None,
        sources=("texts/é", "b.txt"),
        held_out=5,
    )


def _assert_same(a: Corpus, b: Corpus) -> None:
    assert (a.tokens.dtype, a.tokens.tobytes()) == (b.tokens.dtype, b.tokens.tobytes())
    for name in ("sha256", "vocabulary_size", "tokenizer", "tokenizer_model", "sources", "held_out"):
        assert getattr(a, name) == getattr(b, name), name


def _change_record(folder: Path, **changes: Any) -> None:
    path = folder / "data.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Round trips


@pytest.mark.parametrize("kind", KINDS)
def test_corpus_comes_back_the_same(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "new" / "run"
    save_data(folder, _corpus(kind))
    _assert_same(load_data(folder), _corpus(kind))
    files = {"data.json", "tokens.bin"} | ({"tokenizer.model"} if kind == "sentencepiece" else set())
    assert set(os.listdir(folder)) == files


def test_record_is_the_documented_one(tmp_path: Path) -> None:
    save_data(tmp_path, _corpus("none"))
    assert json.loads((tmp_path / "data.json").read_text()) == {
        "sha256": _corpus("none").sha256,
        "dtype": "uint32",
        "count": 50,
        "vocabulary_size": 100_000,
        "tokenizer": "none",
        "tokenizer_sha256": None,
        "sources": ["texts/é", "b.txt"],
        "held_out": 5,
        "file": "tokens.bin",
    }


def test_saving_again_replaces_the_corpus(tmp_path: Path) -> None:
    save_data(tmp_path, _corpus("sentencepiece"))
    save_data(tmp_path, _corpus("bytes"))
    _assert_same(load_data(tmp_path), _corpus("bytes"))


@pytest.mark.parametrize("kind", KINDS)
def test_reference_reads_the_other_folder(tmp_path: Path, kind: str) -> None:
    parent, child = tmp_path / "a", tmp_path / "runs" / "b"
    save_data(parent, _corpus(kind))
    reference_data(child, _corpus(kind), parent)
    assert os.listdir(child) == ["data.json"]
    assert json.loads((child / "data.json").read_text())["file"] == "../../a/tokens.bin"
    _assert_same(load_data(child), _corpus(kind))


def test_reference_to_a_reference_names_the_tokens_themselves(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    save_data(tmp_path / "a", _corpus("bytes"))
    reference_data(tmp_path / "b", _corpus("bytes"), tmp_path / "a")
    reference_data(tmp_path / "c", _corpus("bytes"), tmp_path / "b")
    (tmp_path / "b" / "data.json").unlink()
    _assert_same(load_data(tmp_path / "c"), _corpus("bytes"))


def test_reference_holds_when_both_runs_move(tmp_path: Path) -> None:
    save_data(tmp_path / "runs" / "a", _corpus("bytes"))
    reference_data(tmp_path / "runs" / "b", _corpus("bytes"), tmp_path / "runs" / "a")
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    _assert_same(load_data(tmp_path / "moved" / "b"), _corpus("bytes"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["elsewhere", "elsewhere/tokens.bin"])
def test_moved_tokens_are_named(tmp_path: Path, kind: str, name: str) -> None:
    save_data(tmp_path / "run", _corpus(kind))
    (tmp_path / "elsewhere").mkdir()
    for file in ("tokens.bin", "tokenizer.model"):
        if (tmp_path / "run" / file).exists():
            shutil.move(tmp_path / "run" / file, tmp_path / "elsewhere" / file)
    _assert_same(load_data(tmp_path / "run", tmp_path / name), _corpus(kind))


def test_moved_tokens_may_be_named_by_a_reference(tmp_path: Path) -> None:
    save_data(tmp_path / "a", _corpus("bytes"))
    save_data(tmp_path / "run", _corpus("bytes"))
    reference_data(tmp_path / "b", _corpus("bytes"), tmp_path / "a")
    (tmp_path / "run" / "tokens.bin").unlink()
    _assert_same(load_data(tmp_path / "run", tmp_path / "b"), _corpus("bytes"))


# Alterations


@settings(deadline=None, max_examples=25)
@given(position=st.integers(0, 99), flip=st.integers(1, 255))
def test_any_altered_byte_is_refused(tmp_path_factory, position: int, flip: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "altered"
    save_data(folder, _corpus("bytes"))
    data = bytearray((folder / "tokens.bin").read_bytes())
    data[position] ^= flip
    (folder / "tokens.bin").write_bytes(data)
    with pytest.raises(DataError, match=_altered(folder)):
        load_data(folder)


def _altered(folder: Path) -> str:
    hashes = r"\(SHA-256 [0-9a-f]{12}, not [0-9a-f]{12}\)"
    what = rf"tokens '{re.escape(str(folder / 'tokens.bin'))}' or their record were altered {hashes}"
    return rf"^{what}; restore the file or name it with --data\Z"


@pytest.mark.parametrize("changes", [{"held_out": 6}, {"vocabulary_size": 300}, {"tokenizer": "none"}])
def test_altered_record_is_refused(tmp_path: Path, changes: dict) -> None:
    save_data(tmp_path, _corpus("bytes"))
    _change_record(tmp_path, **changes)
    with pytest.raises(DataError, match=_altered(tmp_path)):
        load_data(tmp_path)


def test_tokens_of_another_corpus_are_refused(tmp_path: Path) -> None:
    save_data(tmp_path / "a", _corpus("bytes"))
    save_data(tmp_path / "b", _corpus("bytes", 8))
    with pytest.raises(DataError, match=_altered(tmp_path / "b")):
        load_data(tmp_path / "a", tmp_path / "b")


def test_cut_off_tokens_are_refused(tmp_path: Path) -> None:
    save_data(tmp_path, _corpus("bytes"))
    path = tmp_path / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-1])
    what = f"tokens '{path}' have 99 bytes where 100 are recorded"
    with _refuses(f"{what}; restore the file or name it with --data"):
        load_data(tmp_path)


def test_altered_tokenizer_is_refused(tmp_path: Path) -> None:
    save_data(tmp_path, _corpus("sentencepiece"))
    path = tmp_path / "tokenizer.model"
    path.write_bytes(path.read_bytes() + b"x")
    with _refuses(f"tokenizer model '{path}' was altered; restore it or name a copy with --data"):
        load_data(tmp_path)


@pytest.mark.parametrize("name", ["data.json", "tokens.bin", "tokenizer.model"])
def test_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    save_data(tmp_path, _corpus("sentencepiece"))
    (tmp_path / name).unlink()
    with _refuses(f"data file '{tmp_path / name}' is missing; restore it or name it with --data"):
        load_data(tmp_path)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    save_data(tmp_path, _corpus("bytes"))
    (tmp_path / "tokens.bin").unlink()
    (tmp_path / "tokens.bin").mkdir()
    with pytest.raises(DataError, match=r"^cannot read data file '.*tokens.bin' \(.*\); make it readable\Z"):
        load_data(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000], ids=["empty", "cut", "bytes", "deep"])
def test_record_that_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.json").write_bytes(content)
    with _refuses(f"'{tmp_path / 'data.json'}' is not JSON; restore it from the run"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"count": "50"},
        {"count": True},
        {"held_out": 5.0},
        {"sha256": None},
        {"sources": "a.txt"},
        {"sources": [1]},
        {"tokenizer_sha256": 5},
        {"tokenizer": "sentencepiece"},
        {"dtype": "uint32"},
        {"file": None},
    ],
)
def test_malformed_record_is_refused(tmp_path: Path, changes: dict) -> None:
    save_data(tmp_path, _corpus("bytes"))
    _change_record(tmp_path, **changes)
    with _refuses(f"'{tmp_path / 'data.json'}' is not a data record; restore it from the run"):
        load_data(tmp_path)


@pytest.mark.parametrize("value", [[], {}, "text", None])
def test_record_of_another_shape_is_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "data.json").write_text(json.dumps(value))
    with _refuses(f"'{tmp_path / 'data.json'}' is not a data record; restore it from the run"):
        load_data(tmp_path)


def test_reference_to_another_corpus_is_refused(tmp_path: Path) -> None:
    mine, other = _corpus("bytes"), _corpus("bytes", 8)
    save_data(tmp_path / "a", other)
    what = f"run '{tmp_path / 'a'}' records data {other.sha256[:12]}, not {mine.sha256[:12]}"
    with _refuses(f"{what}; refer to a run on the same corpus"):
        reference_data(tmp_path / "b", mine, tmp_path / "a")
    assert not (tmp_path / "b").exists()


# Interruption


def test_failing_write_leaves_the_old_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_data(tmp_path, _corpus("bytes"))

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            save_data(tmp_path, _corpus("bytes", 8))
    _assert_same(load_data(tmp_path), _corpus("bytes"))
    assert set(os.listdir(tmp_path)) == {"data.json", "tokens.bin"}


def test_replacement_killed_half_way_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_data(tmp_path, _corpus("bytes"))
    replace = os.replace

    def fail_on_record(source: Path, target: Path) -> None:
        if target.name == "data.json":
            raise OSError("killed")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_record)
    with pytest.raises(OSError, match="killed"):
        save_data(tmp_path, _corpus("bytes", 8))
    with pytest.raises(DataError, match=_altered(tmp_path)):
        load_data(tmp_path)
