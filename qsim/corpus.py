"""A corpus: one array of tokens whose tail is held out, and how it is built from text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from qsim.text_sources import DataError, embedded_text, read_bytes, read_text
from qsim.token_files import read_token_files
from qsim.tokenizers import (
    BYTE_VALUES,
    TOKENIZERS,
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    token_dtype,
    tokenizer_named,
    train_sentencepiece,
)

EMBEDDED = "embedded"
# Batches are int32, the index type that every back end takes.
LARGEST_VOCABULARY = 1 << 31


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Tokens with a contiguous held-out tail, checked on creation; two corpora are equal by ``sha256``.

    Fields
        tokens: (N,) little-endian uint16, or uint32 where the vocabulary exceeds 65,536 or the tokens came so; a
            read-only view, of memory or of a file.
        vocabulary_size: every token is below it.
        tokenizer: "bytes", "sentencepiece", or "none" where the corpus came as tokens.
        tokenizer_model: the serialized SentencePiece model, else None.
        sources: the paths as the user gave them, or ("embedded",).
        held_out: number of trailing tokens never trained on.
        file: the user's file that ``tokens`` is a view of, which a run folder refers to; else None.
    """

    tokens: np.ndarray
    vocabulary_size: int
    tokenizer: str
    tokenizer_model: bytes | None = None
    sources: tuple[str, ...]
    held_out: int
    file: Path | None = None

    def __post_init__(self) -> None:
        _check_fields(self)
        check_tokens(self.tokens, self.vocabulary_size, "its vocabulary", "give a larger vocabulary_size")
        view = self.tokens.view()
        view.flags.writeable = False
        object.__setattr__(self, "tokens", view)

    @cached_property
    def sha256(self) -> str:
        """The corpus' identity, see ``corpus_hash``; it leaves out sources and the tokenizer's model."""
        return corpus_hash(
            self.tokens,
            held_out=self.held_out,
            vocabulary_size=self.vocabulary_size,
            tokenizer=self.tokenizer,
        )

    @property
    def train(self) -> np.ndarray:
        """(N - held_out,) view of the tokens trained on."""
        return self.tokens[: len(self.tokens) - self.held_out]

    @property
    def validation(self) -> np.ndarray:
        """(held_out,) view of the tail."""
        return self.tokens[len(self.tokens) - self.held_out :]

    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens; DataError where the corpus came as tokens."""
        return tokenizer_named(self.tokenizer, self.tokenizer_model)


def corpus_hash(tokens: np.ndarray, *, held_out: int, vocabulary_size: int, tokenizer: str) -> str:
    """SHA-256, in hex, of the little-endian token bytes followed by the text

    "held_out=<int> vocabulary_size=<int> tokenizer=<name>"
    """
    digest = hashlib.sha256(token_bytes(tokens))
    facts = f"held_out={held_out} vocabulary_size={vocabulary_size} tokenizer={tokenizer}"
    digest.update(facts.encode())
    return digest.hexdigest()


def token_bytes(tokens: np.ndarray) -> memoryview:
    """The bytes of a token array as they lie in a file, without a copy where it is contiguous."""
    return np.ascontiguousarray(tokens).view(np.uint8).data


def build_corpus(
    paths: Sequence[Path] | None = None,
    *,
    tokenizer: str = "bytes",
    vocabulary_size: int | None = None,
    held_out_fraction: float = 0.1,
    tokenizer_model: Path | None = None,
    dtype: str = "auto",
) -> Corpus:
    """Read, tokenize and split a corpus; ``paths`` None or empty means the embedded text.

    vocabulary_size: 256 or None for "bytes"; for "sentencepiece" required to train one, an upper bound where a
    model is given; for "none" (``.bin`` files of raw tokens) None means the largest token + 1.
    tokenizer_model: a trained SentencePiece model to load instead of training one on the text.
    dtype: width of the raw tokens, see ``qsim.token_files``.
    held_out_fraction: in [0, 1); the tail holds ``int(fraction * N)`` tokens.
    Raises DataError on unreadable sources and on settings that do not go together.
    """
    if not 0 <= held_out_fraction < 1:
        raise DataError(f"held_out_fraction {held_out_fraction} is outside [0, 1); choose for example 0.1")
    paths = [Path(path) for path in paths or ()]
    _check_kinds(paths, tokenizer, tokenizer_model, dtype)
    if tokenizer == "none":
        tokens = read_token_files(paths, dtype, vocabulary_size)
        size = int(tokens.max()) + 1 if vocabulary_size is None else vocabulary_size
        model = None
    else:
        text = read_text(paths) if paths else embedded_text()
        chosen = _choose_tokenizer(text, tokenizer, vocabulary_size, tokenizer_model)
        tokens, size, model = chosen.encode(text), chosen.vocabulary_size, chosen.model
    return Corpus(
        tokens=tokens,
        vocabulary_size=size,
        tokenizer=tokenizer,
        tokenizer_model=model,
        sources=tuple(str(path) for path in paths) or (EMBEDDED,),
        held_out=int(held_out_fraction * len(tokens)),
        file=paths[0] if tokenizer == "none" and len(paths) == 1 else None,
    )


def _check_kinds(paths: Sequence[Path], tokenizer: str, model: Path | None, dtype: str) -> None:
    """Text goes with a text tokenizer, token files and their width with "none", a model with "sentencepiece"."""
    if tokenizer not in TOKENIZERS:
        raise DataError(f"unknown tokenizer {tokenizer!r}; known tokenizers: {', '.join(TOKENIZERS)}")
    if model is not None and tokenizer != "sentencepiece":
        raise DataError(f"tokenizer {tokenizer!r} takes no model; choose tokenizer 'sentencepiece'")
    if dtype != "auto" and tokenizer != "none":
        raise DataError(f"tokenizer {tokenizer!r} reads text, which has no token_dtype {dtype!r}; leave it out")
    if tokenizer == "none" and not paths:
        raise DataError("tokenizer 'none' needs a .bin file of tokens; give one with --text")
    for path in paths:
        is_tokens = path.suffix.lower() == ".bin"
        if tokenizer == "none" and not is_tokens:
            raise DataError(f"tokenizer 'none' takes .bin files, not {str(path)!r}; choose tokenizer 'bytes'")
        if tokenizer != "none" and is_tokens:
            raise DataError(f"{str(path)!r} holds tokens, not text; choose tokenizer 'none'")


def _choose_tokenizer(text: str, tokenizer: str, vocabulary_size: int | None, model: Path | None) -> Tokenizer:
    if model is not None:
        return _given_tokenizer(model, vocabulary_size)
    if tokenizer == "sentencepiece":
        if vocabulary_size is None:
            raise DataError("tokenizer 'sentencepiece' needs a vocabulary_size; give for example 1024")
        return train_sentencepiece(text, vocabulary_size)
    if vocabulary_size not in (None, BYTE_VALUES):
        raise DataError(f"tokenizer 'bytes' has vocabulary_size 256, not {vocabulary_size}; leave it out")
    return ByteTokenizer()


def _given_tokenizer(model: Path, vocabulary_size: int | None) -> Tokenizer:
    chosen = SentencePieceTokenizer(model=read_bytes(model))
    try:
        size = chosen.vocabulary_size
    except DataError:
        raise DataError(
            f"{str(model)!r} is not a SentencePiece model; give the file that its training wrote"
        ) from None
    if vocabulary_size is not None and size > vocabulary_size:
        what = f"tokenizer model {str(model)!r} has {size} pieces, more than vocabulary_size {vocabulary_size}"
        raise DataError(f"{what}; set model.vocabulary {size}")
    return chosen


def _check_fields(corpus: Corpus) -> None:
    size, tokens, held_out = corpus.vocabulary_size, corpus.tokens, corpus.held_out
    if not 1 <= size <= LARGEST_VOCABULARY:
        raise DataError(f"vocabulary_size {size} is outside 1 to 2^31; choose one in that range")
    if tokens.ndim != 1 or tokens.dtype not in (token_dtype(size), np.dtype("<u4")):
        found = f"{tokens.dtype.name} of shape {tokens.shape}"
        raise DataError(f"tokens are {found}; give 1-D little-endian {token_dtype(size).name}")
    if not 0 <= held_out < max(len(tokens), 1):
        raise DataError(f"held_out {held_out} leaves nothing of {len(tokens)} tokens; hold out fewer")
    if corpus.tokenizer not in TOKENIZERS:
        raise DataError(f"unknown tokenizer {corpus.tokenizer!r}; known tokenizers: {', '.join(TOKENIZERS)}")
    if (corpus.tokenizer == "sentencepiece") != (corpus.tokenizer_model is not None):
        raise DataError(f"tokenizer {corpus.tokenizer!r} and model do not match; 'sentencepiece' alone has one")


def check_tokens(tokens: np.ndarray, vocabulary_size: int, whose: str, remedy: str) -> None:
    """Refuse an empty array, and a token at or above the vocabulary of ``whose``."""
    if not len(tokens):
        raise DataError("the corpus holds no token; give more text")
    largest = int(tokens.max())
    if largest >= vocabulary_size:
        raise DataError(f"token {largest} of the corpus is outside {whose} of {vocabulary_size}; {remedy}")
