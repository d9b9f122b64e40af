"""Tokenizers: decode inverts encode on every text, training is repeatable, refusals word for word."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qsim.text_sources import DataError, embedded_text
from qsim.tokenizers import (
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    token_dtype,
    tokenizer_named,
    train_sentencepiece,
)

PIECES = 512
# What SentencePiece treats specially: its space sign, spaces, newlines, piece names, our own escapes.
HARD_TEXTS = [
    "\u2581",
    " \u2581 ",
    "\ue000",
    "\ue0000\ue0001",
    "  a ",
    "\n\n",
    "\r\n",
    "\0",
    "<0x41><unk>",
    "\ufffd",
]


@cache
def _pieces() -> SentencePieceTokenizer:
    return train_sentencepiece(embedded_text()[:200_000], PIECES)


@pytest.fixture(params=["bytes", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return ByteTokenizer() if request.param == "bytes" else _pieces()


def _refuses(message: str):
    """The whole message: one sentence on one line."""
    assert "\n" not in message
    assert ". " not in message
    return pytest.raises(DataError, match=rf"^{re.escape(message)}\Z")


@settings(deadline=None)
@given(text=st.text() | st.text(alphabet=" \n\u2581\ue00001ab<>"))
@example(text="")
def test_bytes_round_trip(text: str) -> None:
    tokens = ByteTokenizer().encode(text)
    assert tokens.dtype == np.uint16
    assert bytes(tokens.astype(np.uint8)) == text.encode()
    assert ByteTokenizer().decode(tokens) == text


@settings(deadline=None)
@given(text=st.text() | st.text(alphabet=" \n\u2581\ue00001ab<>"))
@example(text="")
def test_pieces_round_trip(text: str) -> None:
    tokens = _pieces().encode(text)
    assert tokens.dtype == np.uint16
    assert (tokens < PIECES).all()
    assert _pieces().decode(tokens) == text


@pytest.mark.parametrize("text", HARD_TEXTS, ids=ascii)
def test_hard_texts_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_text_round_trips_in_fewer_tokens() -> None:
    text = embedded_text()[:200_000]
    tokens = _pieces().encode(text)
    assert _pieces().decode(tokens) == text
    assert len(tokens) < 0.75 * len(text)


def test_lines_are_encoded_as_the_whole_text_would_be() -> None:
    text = "one line\n\n  another, indented\nlast"
    assert _pieces().encode(text).tolist() == _pieces()._processor.encode(text)


def test_training_is_repeatable() -> None:
    text = embedded_text()[:50_000]
    assert train_sentencepiece(text, 400).model == train_sentencepiece(text, 400).model


def test_training_uses_lines_of_any_length() -> None:
    text = "abcdefgh " * 10_000
    tokenizer = train_sentencepiece(text, 270)
    assert len(tokenizer.encode(text)) < 0.6 * len(text)


def test_model_bytes_build_the_tokenizer_again() -> None:
    again = tokenizer_named("sentencepiece", _pieces().model)
    assert again.vocabulary_size == PIECES
    assert again.encode("a text").tolist() == _pieces().encode("a text").tolist()


def test_cut_characters_decode_to_replacement(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("\u4e2d")[:-1]).strip("\ufffd") == ""


@pytest.mark.parametrize(("size", "name"), [(256, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_token_dtype(size: int, name: str) -> None:
    assert token_dtype(size).name == name
    assert token_dtype(size).newbyteorder("<") == token_dtype(size)


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    with _refuses("text holds half of a surrogate pair at character 1; give whole characters"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize("token", [-1, 512, 70_000])
def test_unknown_token_is_refused(tokenizer: Tokenizer, token: int) -> None:
    what = f"token {token} is outside the vocabulary of {tokenizer.vocabulary_size}"
    with _refuses(f"{what}; decode with the tokenizer that made it"):
        tokenizer.decode([97, token])


def test_vocabulary_too_large_for_the_text_is_refused() -> None:
    message = "vocabulary_size 1000 does not fit a text of 11 characters; choose at most "
    with pytest.raises(DataError, match=rf"^{message}\d+ or give more text\Z") as refusal:
        train_sentencepiece("hello world", 1000)
    largest = int(re.findall(r"\d+", str(refusal.value))[-1])
    assert train_sentencepiece("hello world", largest).vocabulary_size == largest


@pytest.mark.parametrize("size", [257, 1])
def test_vocabulary_too_small_for_the_text_is_refused(size: int) -> None:
    with _refuses(f"vocabulary_size {size} does not fit a text of 11 characters; choose at least 265"):
        train_sentencepiece("hello world", size)


@pytest.mark.parametrize(("text", "size"), [("", 300), ("\n\n", 300), ("hello", -5), ("hello", 1 << 40)])
def test_untrainable_text_or_size_is_refused(text: str, size: int) -> None:
    what = f"vocabulary_size {size} does not fit a text of {len(text)} characters"
    with _refuses(f"{what} under tokenizer 'sentencepiece'; choose another size or give more text"):
        train_sentencepiece(text, size)


def test_damaged_model_is_refused() -> None:
    message = "tokenizer model of 4 bytes is not a SentencePiece model; restore tokenizer.model"
    with _refuses(message):
        tokenizer_named("sentencepiece", b"junk").encode("a")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sentencepiece", "tokenizer 'sentencepiece' comes without its model; restore tokenizer.model"),
        ("none", "tokenizer 'none' keeps no text: the corpus came as tokens; use its own tokenizer"),
        ("word", "unknown tokenizer 'word'; known tokenizers: bytes, sentencepiece, none"),
    ],
)
def test_names_without_a_tokenizer_are_refused(name: str, message: str) -> None:
    with _refuses(message):
        tokenizer_named(name)
