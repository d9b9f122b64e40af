"""Text to tokens and back: bytes, or SentencePiece trained on the corpus.

decode(encode(text)) == text        for every string of whole characters
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import numpy as np

from qsim.text_sources import DataError

TOKENIZERS = ("bytes", "sentencepiece", "none")
BYTE_VALUES = 256

# SentencePiece writes a space as U+2581 and cannot tell the two apart, so a literal U+2581 travels as a
# private character and "1"; that private character itself as it and "0", which keeps the mapping one to one.
_SPACE_SIGN = "\u2581"
_ESCAPE = "\ue000"

# Spaces, a full-width and a combining character, an escape: normalisation, trimming or a lack of bytes changes them.
_HARD_TEXT = f"  a  \n \uff21e\u0301\t{_ESCAPE}1 "

# Longer lines are cut for training only: SentencePiece leaves out what exceeds its limit.
_TRAINING_LINE = 1000
_TRAINING_SETTINGS: dict[str, Any] = {
    "model_type": "bpe",  # integer pair counts, so the same model on every machine
    "num_threads": 1,
    "shuffle_input_sentence": False,
    "max_sentence_length": 4 * _TRAINING_LINE,  # bytes
    "normalization_rule_name": "identity",
    "byte_fallback": True,
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "character_coverage": 0.9995,
    "unk_id": 0,
    "bos_id": -1,
    "eos_id": -1,
    "pad_id": -1,
    "minloglevel": 2,
}

Tokens = Sequence[int] | np.ndarray


def token_dtype(vocabulary_size: int) -> np.dtype:
    """Little-endian uint16, or uint32 where the vocabulary exceeds 65,536."""
    return np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")


class Tokenizer(Protocol):
    """What both tokenizers offer; ``model`` is what a run folder must keep to build it again."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> bytes | None: ...
    @property
    def vocabulary_size(self) -> int: ...

    def encode(self, text: str) -> np.ndarray: ...
    def decode(self, tokens: Tokens) -> str: ...


@dataclass(frozen=True, kw_only=True)
class ByteTokenizer:
    """The UTF-8 bytes of a text as tokens 0 to 255."""

    name: str = "bytes"
    model: None = None
    vocabulary_size: int = BYTE_VALUES

    def encode(self, text: str) -> np.ndarray:
        """(N,) uint16; DataError where the text holds half of a surrogate pair."""
        return np.frombuffer(_utf8(text), dtype=np.uint8).astype(token_dtype(BYTE_VALUES))

    def decode(self, tokens: Tokens) -> str:
        """Text of any byte tokens; bytes that are no UTF-8 become U+FFFD.  DataError on a token over 255."""
        return bytes(_checked_tokens(tokens, BYTE_VALUES)).decode("utf-8", errors="replace")


@dataclass(frozen=True, kw_only=True)
class SentencePieceTokenizer:
    """Pieces of a SentencePiece model; under ours a character without a piece becomes its bytes.

    A model trained elsewhere may normalise, drop spaces or know no bytes: then text is encoded whole and as it is,
    decode gives what the model makes of it, and only under a lossless one decode(encode(text)) == text.
    """

    model: bytes
    name: str = "sentencepiece"

    @cached_property
    def _processor(self) -> Any:
        from sentencepiece import SentencePieceProcessor

        try:
            return SentencePieceProcessor(model_proto=self.model)
        except (RuntimeError, ValueError, OSError):
            size = len(self.model)
            message = f"tokenizer model of {size} bytes is not a SentencePiece model; restore tokenizer.model"
            raise DataError(message) from None

    @property
    def vocabulary_size(self) -> int:
        return int(self._processor.get_piece_size())

    @cached_property
    def _lossless(self) -> bool:
        """Whether hard text comes back and no piece holds a newline, so that lines may be encoded one by one."""
        processor = self._processor
        if processor.decode(processor.encode(_HARD_TEXT)) != _HARD_TEXT:
            return False
        return not any("\n" in piece for piece in processor.id_to_piece(list(range(self.vocabulary_size))))

    def encode(self, text: str) -> np.ndarray:
        """(N,) uint16 or uint32; DataError where the text holds half of a surrogate pair."""
        _utf8(text)
        if not self._lossless:
            return np.array(self._processor.encode(text), dtype=token_dtype(self.vocabulary_size))
        *lines, last = _escape(text).split("\n")
        # No piece contains a newline, so line by line gives the tokens of the whole, in linear time.
        pieces = self._processor.encode([*(line + "\n" for line in lines), last], num_threads=1)
        return np.fromiter(chain.from_iterable(pieces), dtype=token_dtype(self.vocabulary_size))

    def decode(self, tokens: Tokens) -> str:
        """Text of any tokens; byte tokens that are no UTF-8 become U+FFFD.  DataError on an unknown token."""
        checked = _checked_tokens(tokens, self.vocabulary_size)
        text = self._processor.decode(checked)
        return _unescape(text) if self._lossless else text


def train_sentencepiece(text: str, vocabulary_size: int) -> SentencePieceTokenizer:
    """Train on all of the text; the same text and size give the same model bytes.

    ``vocabulary_size`` counts 1 unknown piece, 256 byte pieces, the frequent characters and merged pieces.
    Raises DataError where the text cannot fill that size or needs more.
    """
    from sentencepiece import SentencePieceTrainer

    _utf8(text)
    lines = _escape(text).split("\n")
    parts = [line[i : i + _TRAINING_LINE] for line in lines for i in range(0, len(line), _TRAINING_LINE)]
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(parts),
            model_writer=model,
            vocab_size=vocabulary_size,
            **_TRAINING_SETTINGS,
        )
    except (RuntimeError, ValueError, OverflowError, TypeError) as error:
        raise DataError(_size_message(len(text), vocabulary_size, str(error))) from None
    return SentencePieceTokenizer(model=model.getvalue())


def tokenizer_named(name: str, model: bytes | None = None) -> Tokenizer:
    """Tokenizer of a corpus by its name; DataError where it has none or its model is missing."""
    if name == "bytes":
        return ByteTokenizer()
    if name == "sentencepiece" and model is not None:
        return SentencePieceTokenizer(model=model)
    if name == "sentencepiece":
        raise DataError("tokenizer 'sentencepiece' comes without its model; restore tokenizer.model")
    if name == "none":
        raise DataError("tokenizer 'none' keeps no text: the corpus came as tokens; use its own tokenizer")
    raise DataError(f"unknown tokenizer {name!r}; known tokenizers: {', '.join(TOKENIZERS)}")


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        position = error.start
        message = f"text holds half of a surrogate pair at character {position}; give whole characters"
        raise DataError(message) from None


def _checked_tokens(tokens: Tokens, vocabulary_size: int) -> list[int]:
    values = [int(token) for token in tokens]
    for value in values:
        if not 0 <= value < vocabulary_size:
            what = f"token {value} is outside the vocabulary of {vocabulary_size}"
            raise DataError(f"{what}; decode with the tokenizer that made it")
    return values


def _escape(text: str) -> str:
    return text.replace(_ESCAPE, _ESCAPE + "0").replace(_SPACE_SIGN, _ESCAPE + "1")


def _unescape(text: str) -> str:
    return text.replace(_ESCAPE + "1", _SPACE_SIGN).replace(_ESCAPE + "0", _ESCAPE)


def _size_message(characters: int, vocabulary_size: int, reason: str) -> str:
    """One sentence for a failed training, with the bound where SentencePiece names one."""
    what = f"vocabulary_size {vocabulary_size} does not fit a text of {characters} characters"
    if largest := re.search(r"value <= (\d+)", reason):
        return f"{what}; choose at most {largest[1]} or give more text"
    if smallest := re.search(r"\d+ vs (\d+)", reason):
        return f"{what}; choose at least {smallest[1]}"
    return f"{what} under tokenizer 'sentencepiece'; choose another size or give more text"
