"""Text sources: what each kind of file gives, the embedded corpus, and every refusal word for word."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest

from qsim import text_sources
from qsim.text_sources import DataError, embedded_text, read_text


def _refuses(message: str):
    """The whole message: one sentence on one line."""
    assert "\n" not in message
    assert ". " not in message
    return pytest.raises(DataError, match=rf"^{re.escape(message)}\Z")


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# The embedded corpus


def test_embedded_text_has_the_promised_size_in_time() -> None:
    embedded_text.cache_clear()
    start = time.perf_counter()
    text = embedded_text()
    assert time.perf_counter() - start < 5  # about 0.5 s; the slack is for a busy machine
    assert 1_000_000 < len(text) < 4_000_000


def test_embedded_text_is_the_same_when_read_again() -> None:
    first = embedded_text()
    embedded_text.cache_clear()
    assert embedded_text() == first


def test_embedded_text_repeats_no_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_sources, "_reference_pages", lambda: ["one", "two"])
    monkeypatch.setattr(text_sources, "_docstrings", lambda: iter(["two", "three", "one"]))
    assert embedded_text.__wrapped__() == "one\n\ntwo\n\nthree"


def test_modules_are_sorted_by_path_and_hold_no_tests() -> None:
    paths = text_sources._modules("numpy/lib")
    assert paths == sorted(paths, key=Path.as_posix)
    assert not any("tests" in path.parts for path in paths)


def test_docstrings_come_from_modules_classes_and_functions(tmp_path: Path) -> None:
    method = "    async def f(self):\n        'Async \\d.'\n"  # an escape that Python warns of
    source = f"'Module.'\nclass A:\n    'Class.'\n{method}x = 'no'\ndef g():\n    ' '\n"
    path = _file(tmp_path, "m.py", source)
    assert sorted(text_sources._docstrings_of(path)) == ["Async \\d.", "Class.", "Module."]


def test_missing_reference_pages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with _refuses("this Python lacks pydoc_data.topics of the embedded corpus; give --text"):
        embedded_text.__wrapped__()


@pytest.mark.parametrize("folder", ["numpy/nowhere", "no_such_package/inner"])
def test_missing_sources_are_refused(folder: str) -> None:
    with _refuses(f"the embedded corpus needs the sources of {folder}, not installed here; give --text"):
        text_sources._modules(folder)


# The user's text


def test_plain_text_is_taken_as_it_is(tmp_path: Path) -> None:
    text = "\ufeffone\r\ntwo\t é \0\n"
    assert read_text([_file(tmp_path, "a.text", text)]) == text


def test_documents_are_joined_in_the_given_order(tmp_path: Path) -> None:
    paths = [_file(tmp_path, "b.txt", "b"), _file(tmp_path, "a.txt", "a")]
    assert read_text(paths) == "b\n\na"


def test_folder_gives_its_text_files_sorted_at_any_depth(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/c.TXT", "skipped.py", "d.jsonl"):
        _file(tmp_path, name, name)
    assert read_text([tmp_path]) == "a/c.TXT\n\na/z.md\n\nb.txt"


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": "one\u2028", "id": 1}),
        "",
        json.dumps({"text": "é"}, ensure_ascii=False),
        "",
    ]
    assert read_text([_file(tmp_path, "a.jsonl", "\n".join(lines))]) == "one\u2028\n\né"


def test_compressed_json_lines_of_two_frames(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    frames = [zstandard.compress(json.dumps({"text": text}).encode() + b"\n") for text in ("one", "two")]
    path = _file(tmp_path, "a.jsonl.zst", b"".join(frames))
    assert read_text([path]) == "one\n\ntwo"


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"junk" + data, lambda data: data + b"x"])
def test_damaged_compressed_file_is_refused(tmp_path: Path, damage) -> None:
    zstandard = pytest.importorskip("zstandard")
    data = zstandard.compress(json.dumps({"text": "word " * 100}).encode())
    path = _file(tmp_path, "a.jsonl.zst", damage(data))
    with _refuses(f"file '{path}' is cut off or not Zstandard data; compress it again"):
        read_text([path])


def test_compressed_file_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = _file(tmp_path, "a.jsonl.zst", b"any")
    with _refuses(f"reading '{path}' needs the package zstandard; install it or decompress the file"):
        read_text([path])


def test_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no\nfile"
    with _refuses(f"no file or folder {str(path)!r}; give --text an existing one"):
        read_text([path])


def test_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", fail)
    path = tmp_path / "a.txt"
    with _refuses(f"cannot read '{path}' (Permission denied); give a readable file"):
        read_text([path])


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.zst"])
def test_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, name, "")
    with _refuses(f"file '{path}' is empty; give a file with text"):
        read_text([path])


def test_folder_without_text_is_refused(tmp_path: Path) -> None:
    _file(tmp_path, "a.py", "x")
    with _refuses(f"folder '{tmp_path}' holds no .txt or .md file; give a folder that does"):
        read_text([tmp_path])


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "folder/a.md"])
def test_undecodable_bytes_are_refused(tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, name, b"fine \xff")
    with _refuses(f"file '{path}' is not UTF-8 at byte 5; convert it"):
        read_text([path.parent if name.startswith("folder") else path])


@pytest.mark.parametrize("line", ["{", "text", "[" * 100_000])
def test_line_that_is_not_json_is_refused(tmp_path: Path, line: str) -> None:
    path = _file(tmp_path, "a.jsonl", f'{{"text": "x"}}\n{line}\n')
    with _refuses(f"line 2 of '{path}' is not JSON; give one JSON object per line"):
        read_text([path])


@pytest.mark.parametrize("line", ['{"body": "x"}', '{"text": 1}', '{"text": null}', '["text"]', '"text"'])
def test_json_line_without_text_is_refused(tmp_path: Path, line: str) -> None:
    path = _file(tmp_path, "a.jsonl", line)
    remedy = "give each line an object with a string field 'text'"
    with _refuses(f"line 1 of '{path}' has no text; {remedy}"):
        read_text([path])


@pytest.mark.parametrize("content", ["\n \n", '{"text": ""}\n'])
def test_json_lines_with_nothing_to_read_are_refused(tmp_path: Path, content: str) -> None:
    path = _file(tmp_path, "a.jsonl", content)
    with _refuses(f"file '{path}' holds no text; give lines with a non-empty 'text' field"):
        read_text([path])


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.jsonl", '{"text": "\\ud83d\\ude00"}\n{"text": "\\ud83d"}')
    with _refuses(f"line 2 of '{path}' holds half of a surrogate pair; write whole characters"):
        read_text([path])
