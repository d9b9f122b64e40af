"""Texts of Hugging Face datasets, by the package ``datasets``, which is imported on first use (extra ``hub``)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

PREFIX = "hf:"
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves of a dictionary and of one dataset
_FIELD = "text"
_SPLIT = "train"


def is_hub_dataset(path: Path) -> bool:
    """Whether a path is ``hf:NAME`` or ``hf:NAME:SPLIT``, or a folder that ``save_to_disk`` wrote."""
    return str(path).startswith(PREFIX) or any((path / name).is_file() for name in _SAVED)


def hub_texts(path: Path) -> list[str]:
    """The field "text" of every row, in the dataset's own order.

    ``hf:NAME[:SPLIT]`` is what ``datasets.load_dataset`` finds under that name; a folder is read from disk, the
    split "train" of a dictionary.  Raises ValueError where the package is missing or there is no such text.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise ValueError(f"reading {str(path)!r} needs the package datasets; install qsim-precision[hub]") from None
    try:
        dataset = _load(datasets, path)
    except Exception as error:  # the package raises what its file systems and parsers raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot read dataset {str(path)!r} ({reason}); name another") from None
    return _texts(path, dataset)


def _load(datasets: Any, path: Path) -> Any:
    if str(path).startswith(PREFIX):
        name, _, split = str(path).removeprefix(PREFIX).partition(":")
        return datasets.load_dataset(name, split=split or _SPLIT)
    found = datasets.load_from_disk(str(path))
    return found[_SPLIT] if (path / "dataset_dict.json").is_file() else found


def _texts(path: Path, dataset: Any) -> list[str]:
    if _FIELD not in dataset.column_names:
        columns = ", ".join(dataset.column_names)
        raise ValueError(f"dataset {str(path)!r} has no column 'text' but {columns}; rename one and save it")
    texts = list(dataset[_FIELD])
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"row {number} of dataset {str(path)!r} has no text; give each row a string")
    if not any(texts):
        raise ValueError(f"dataset {str(path)!r} holds no text; give rows with a non-empty 'text'")
    return texts
