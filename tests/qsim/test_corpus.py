"""Corpus: built from each source, split, identified by its hash, and refused word for word."""

from __future__ import annotations

import hashlib
import re
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsim.corpus import Corpus, build_corpus
from qsim.text_sources import DataError, embedded_text


def _refuses(message: str):
    """The whole message: one sentence on one line."""
    assert "\n" not in message
    assert ". " not in message
    return pytest.raises(DataError, match=rf"^{re.escape(message)}\Z")


def _corpus(tokens=(1, 2, 3, 4), **changes) -> Corpus:
    array = np.asarray(tokens, dtype="<u2")
    fields = {"vocabulary_size": 256, "tokenizer": "bytes", "sources": ("a.txt",), "held_out": 1}
    return Corpus(**{"tokens": array, **fields, **changes})


def _token_file(folder: Path, tokens, dtype: str = "<u2", name: str = "train.bin") -> Path:
    path = folder / name
    path.write_bytes(np.asarray(tokens, dtype=dtype).tobytes())
    return path


# Building


def test_embedded_bytes() -> None:
    corpus = build_corpus()
    assert corpus.sources == ("embedded",)
    assert (corpus.tokenizer, corpus.vocabulary_size, corpus.tokenizer_model) == ("bytes", 256, None)
    assert corpus.text_tokenizer().decode(corpus.tokens) == embedded_text()
    assert corpus.held_out == int(0.1 * len(corpus.tokens))


def test_sentencepiece_keeps_its_model(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(embedded_text()[:50_000], encoding="utf-8", newline="")
    corpus = build_corpus([path], tokenizer="sentencepiece", vocabulary_size=400)
    assert corpus.sources == (str(path),)
    assert corpus.vocabulary_size == 400
    assert corpus.text_tokenizer().decode(corpus.tokens) == embedded_text()[:50_000]


def test_token_files_are_joined(tmp_path: Path) -> None:
    paths = [_token_file(tmp_path, [5, 60_000], name="a.bin"), _token_file(tmp_path, [7], name="b.BIN")]
    corpus = build_corpus(paths, tokenizer="none")
    assert corpus.tokens.tolist() == [5, 60_000, 7]
    assert (corpus.tokens.dtype.name, corpus.vocabulary_size) == ("uint16", 60_001)


def test_large_vocabulary_reads_32_bit_tokens(tmp_path: Path) -> None:
    path = _token_file(tmp_path, [5, 99_999], "<u4")
    corpus = build_corpus([path], tokenizer="none", vocabulary_size=100_000)
    assert corpus.tokens.tolist() == [5, 99_999]
    assert corpus.tokens.dtype.name == "uint32"


# The split and the hash


@given(count=st.integers(1, 500), fraction=st.floats(0, 1, exclude_max=True))
def test_parts_are_views_that_make_up_the_tokens(count: int, fraction: float) -> None:
    tokens = np.arange(count).astype("<u2")
    corpus = _corpus(tokens, vocabulary_size=500, held_out=int(fraction * count))
    assert np.array_equal(np.concatenate([corpus.train, corpus.validation]), tokens)
    assert len(corpus.validation) == corpus.held_out
    assert np.shares_memory(corpus.train, tokens)


def test_hash_is_the_documented_one() -> None:
    text = b"\x01\0\x02\0\x03\0\x04\0held_out=1 vocabulary_size=256 tokenizer=bytes"
    assert _corpus().sha256 == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    "change", [{"held_out": 2}, {"vocabulary_size": 257}, {"tokenizer": "none"}, {"tokens": (1, 2, 4, 3)}]
)
def test_hash_follows_everything_that_changes_a_run(change: dict) -> None:
    assert _corpus(**change).sha256 != _corpus().sha256


def test_hash_leaves_out_the_sources() -> None:
    assert replace(_corpus(), sources=("elsewhere",)).sha256 == _corpus().sha256


def test_corpus_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        _corpus().held_out = 2
    with pytest.raises(ValueError, match="read-only"):
        _corpus().tokens[0] = 9


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size 0 is outside 1 to 2^31; choose one in that range"),
        (
            {"tokens": np.zeros((2, 2), "<u2")},
            "tokens are uint16 of shape (2, 2); give 1-D little-endian uint16",
        ),
        (
            {"tokens": np.zeros(4, "<u2"), "vocabulary_size": 1 << 17},
            "tokens are uint16 of shape (4,); give 1-D little-endian uint32",
        ),
        ({"held_out": 4}, "held_out 4 leaves nothing of 4 tokens; hold out fewer"),
        ({"held_out": -1}, "held_out -1 leaves nothing of 4 tokens; hold out fewer"),
        ({"tokenizer": "word"}, "unknown tokenizer 'word'; known tokenizers: bytes, sentencepiece, none"),
        (
            {"tokenizer": "sentencepiece"},
            "tokenizer 'sentencepiece' and model do not match; 'sentencepiece' alone has one",
        ),
        (
            {"tokenizer_model": b"m"},
            "tokenizer 'bytes' and model do not match; 'sentencepiece' alone has one",
        ),
        (
            {"vocabulary_size": 4},
            "token 4 of the corpus is outside its vocabulary of 4; give a larger vocabulary_size",
        ),
        ({"tokens": np.zeros(0, "<u2"), "held_out": 0}, "the corpus holds no token; give more text"),
    ],
)
def test_inconsistent_corpus_is_refused(changes: dict, message: str) -> None:
    with _refuses(message):
        _corpus(**changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"held_out_fraction": 1.0},
            "held_out_fraction 1.0 is outside [0, 1); choose for example 0.1",
        ),
        (
            {"held_out_fraction": float("nan")},
            "held_out_fraction nan is outside [0, 1); choose for example 0.1",
        ),
        ({"tokenizer": "word"}, "unknown tokenizer 'word'; known tokenizers: bytes, sentencepiece, none"),
        ({"tokenizer": "none"}, "tokenizer 'none' needs a .bin file of tokens; give one with --text"),
        (
            {"tokenizer": "sentencepiece"},
            "tokenizer 'sentencepiece' needs a vocabulary_size; give for example 1024",
        ),
        (
            {"vocabulary_size": 512},
            "tokenizer 'bytes' has vocabulary_size 256, not 512; leave it out",
        ),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with _refuses(message):
        build_corpus(**settings)


def test_tokens_and_text_tokenizers_do_not_mix(tmp_path: Path) -> None:
    path = _token_file(tmp_path, [1, 2])
    with _refuses(f"'{path}' holds tokens, not text; choose tokenizer 'none'"):
        build_corpus([path])
    with _refuses("tokenizer 'none' takes .bin files, not 'a.txt'; choose tokenizer 'bytes'"):
        build_corpus([path, Path("a.txt")], tokenizer="none")


def test_cut_off_token_file_is_refused(tmp_path: Path) -> None:
    path = _token_file(tmp_path, [1, 2, 3], "u1")
    with _refuses(f"token file '{path}' has 3 bytes, no multiple of 2; give raw uint16 tokens"):
        build_corpus([path], tokenizer="none")


@pytest.mark.parametrize("size", [0, -1])
def test_impossible_vocabulary_of_a_token_file_is_refused(tmp_path: Path, size: int) -> None:
    with _refuses(f"vocabulary_size {size} is outside 1 to 2^31; choose one in that range"):
        build_corpus([_token_file(tmp_path, [1, 2])], tokenizer="none", vocabulary_size=size)
