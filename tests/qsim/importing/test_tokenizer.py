"""Tokenizers of Hugging Face folders, by the package that writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_checkpoints
from refusals import refused
from small_checkpoints import CHECKPOINTS

from qsim.importing import ModelError, open_model
from qsim.importing.tokenizer import HuggingFaceTokenizer, MissingPackageError
from qsim.text_sources import DataError

# a byte-pair vocabulary of four letters, two merges and a special token
TEXT = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": 6, "content": "<end>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {"a": 0, "b": 1, "c": 2, "\u0120": 3, "ab": 4, "abc": 5},
            "merges": [["a", "b"], ["ab", "c"]],
        },
    }
)  # fmt: skip


def test_a_folder_without_one(tmp_path: Path) -> None:
    model = open_model(small_checkpoints.write(tmp_path / "model", CHECKPOINTS["gpt2"]()))
    with refused(ModelError, str(tmp_path / "model"), "no tokenizer.json"):
        _ = model.tokenizer


def test_the_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with refused(MissingPackageError, "the package tokenizers; pip install 'qsim-precision[hf]'"):
        HuggingFaceTokenizer(model=TEXT.encode()).encode("abc")


def own() -> Any:
    pytest.importorskip("tokenizers", reason="tokenizer.json is read by the package tokenizers; install it")
    return HuggingFaceTokenizer(model=TEXT.encode())


def test_text_there_and_back(tmp_path: Path) -> None:
    tokenizer = own()
    assert tokenizer.vocabulary_size == 7
    folder = small_checkpoints.write(tmp_path / "model", CHECKPOINTS["gpt2"]())
    (folder / "tokenizer.json").write_text(TEXT)
    for one in (tokenizer, open_model(folder).tokenizer):
        found = one.encode("abcab ba<end>")
        assert found.dtype == np.uint16
        assert found.tolist() == [5, 4, 3, 1, 0, 6]
        assert one.decode(found) == "abcab ba<end>"


def test_what_is_refused() -> None:
    with refused(DataError, "token 7 is unknown"):
        own().decode([0, 7])
    with refused(DataError, "is no tokenizer.json", "restore it"):
        HuggingFaceTokenizer(model=TEXT.encode()[:-1]).encode("a")
