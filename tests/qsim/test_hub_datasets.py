"""Hugging Face datasets as text: from a folder made here, where the package is installed; refusals without it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qsim.corpus import build_corpus
from qsim.text_sources import DataError, read_text

TEXTS = ["one", "", "two\nlines", "drei Größen"]


class _Dataset(dict):
    """What this project uses of a dataset."""

    @property
    def column_names(self) -> list[str]:
        return list(self)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[Any, ...], Any]:
    """A package ``datasets`` in which the test puts what calls return; unknown calls fail as the real one's do."""
    found: dict[tuple[Any, ...], Any] = {}

    def load_dataset(name: str, split: str) -> Any:
        if (name, split) not in found:
            raise FileNotFoundError(f"no dataset\n{name}")
        return found[name, split]

    package = SimpleNamespace(load_dataset=load_dataset, load_from_disk=lambda path: found[(path,)])
    monkeypatch.setitem(sys.modules, "datasets", package)
    return found


def _refuses(message: str):
    assert "\n" not in message
    return pytest.raises(DataError, match=rf"^{re.escape(message)}\Z")


def test_real_datasets_on_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")
    one = datasets.Dataset.from_dict({"text": TEXTS, "number": [1, 2, 3, 4]})
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one.select([0])}).save_to_disk(str(tmp_path / "both"))
    for folder in ("one", "both"):
        assert read_text([tmp_path / folder]) == "\n\n".join(TEXTS)
    assert build_corpus([tmp_path / "one"]).tokens.tobytes()[::2] == "\n\n".join(TEXTS).encode()
    one.remove_columns("text").save_to_disk(str(tmp_path / "none"))
    with _refuses(f"dataset '{tmp_path / 'none'}' has no column 'text' but number; rename one and save it"):
        read_text([tmp_path / "none"])


def test_name_and_split(installed: dict[tuple[Any, ...], Any]) -> None:
    installed["org/name", "train"] = _Dataset(text=TEXTS)
    installed["org/name", "test"] = _Dataset(text=["tail"])
    assert read_text([Path("hf:org/name")]) == "\n\n".join(TEXTS)
    assert read_text([Path("hf:org/name:test"), Path("hf:org/name:test")]) == "tail\n\ntail"


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_folder_on_disk(installed: dict[tuple[Any, ...], Any], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    found = _Dataset(text=TEXTS)
    installed[(str(tmp_path),)] = {"train": found} if name == "dataset_dict.json" else found
    assert read_text([tmp_path]) == "\n\n".join(TEXTS)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["a"]}, "dataset 'hf:a' has no column 'text' but body; rename one and save it"),
        ({"text": ["a", None]}, "row 1 of dataset 'hf:a' has no text; give each row a string"),
        ({"text": ["", ""]}, "dataset 'hf:a' holds no text; give rows with a non-empty 'text'"),
        ({"text": []}, "dataset 'hf:a' holds no text; give rows with a non-empty 'text'"),
    ],
)
def test_rows_without_text_are_refused(installed: dict[tuple[Any, ...], Any], columns: dict, message: str) -> None:
    installed["a", "train"] = _Dataset(columns)
    with _refuses(message):
        read_text([Path("hf:a")])


@pytest.mark.usefixtures("installed")
def test_dataset_that_cannot_be_read_is_one_sentence() -> None:
    with _refuses("cannot read dataset 'hf:b' (no dataset b); name another"):
        read_text([Path("hf:b")])


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with _refuses("reading 'hf:a' needs the package datasets; install qsim-precision[hub]"):
        read_text([Path("hf:a")])
