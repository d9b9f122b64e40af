"""The data of a run folder: tokens.bin, tokenizer.model and data.json, which names and hashes them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from qsim.atomic import write_atomically
from qsim.corpus import Corpus, corpus_hash, token_bytes
from qsim.text_sources import DataError
from qsim.token_files import map_tokens
from qsim.tokenizers import token_dtype

RECORD_FILE = "data.json"
TOKENS_FILE = "tokens.bin"
TOKENIZER_FILE = "tokenizer.model"


@dataclass(frozen=True, kw_only=True)
class _Record:
    """data.json; ``file`` is relative to its folder, and a tokenizer's model lies beside that file."""

    sha256: str
    dtype: str
    count: int
    vocabulary_size: int
    tokenizer: str
    tokenizer_sha256: str | None
    sources: list[str]
    held_out: int
    file: str


def save_data(folder: Path, corpus: Corpus) -> None:
    """Write the corpus into a run folder, each file whole or not at all, data.json last.

    Tokens that are a view of a user's file are not copied: data.json names that file and their hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if corpus.file is None:
        write_atomically(folder / TOKENS_FILE, token_bytes(corpus.tokens))
    if corpus.tokenizer_model is not None:
        write_atomically(folder / TOKENIZER_FILE, corpus.tokenizer_model)
    _write_record(folder, corpus, TOKENS_FILE if corpus.file is None else _relative(corpus.file, folder))


def reference_data(folder: Path, corpus: Corpus, data_folder: Path) -> None:
    """Write only data.json, which names the tokens of another run folder by relative path.

    Raises DataError where ``data_folder`` records another corpus.
    """
    found = _read_record(data_folder)
    if found.sha256 != corpus.sha256:
        what = f"run {str(data_folder)!r} records data {found.sha256[:12]}, not {corpus.sha256[:12]}"
        raise DataError(f"{what}; refer to a run on the same corpus")
    folder.mkdir(parents=True, exist_ok=True)
    _write_record(folder, corpus, _relative(data_folder / found.file, folder))


def load_data(folder: Path, data: Path | None = None) -> Corpus:
    """The corpus of a run folder, verified against the hash in its data.json.

    data: another folder or tokens file to read, where the tokens have moved; the hash must be the same.
    Raises DataError where data.json is missing or malformed, or tokens or tokenizer are missing or altered.
    """
    record = _read_record(folder)
    path = folder / record.file if data is None else _tokens_path(data)
    tokens = _read_tokens(path, record)
    model = _read_model(path.with_name(TOKENIZER_FILE), record.tokenizer_sha256)
    return Corpus(
        tokens=tokens,
        vocabulary_size=record.vocabulary_size,
        tokenizer=record.tokenizer,
        tokenizer_model=model,
        sources=tuple(record.sources),
        held_out=record.held_out,
    )


def tokenizer_file(folder: Path) -> Path | None:
    """The SentencePiece model of a run folder's tokens; None where they have none."""
    record = _read_record(folder)
    return None if record.tokenizer_sha256 is None else (folder / record.file).with_name(TOKENIZER_FILE)


def _relative(file: Path, folder: Path) -> str:
    """The file itself, however long the chain of references, as seen from the folder."""
    return Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix()


def _tokens_path(data: Path) -> Path:
    if not data.is_dir():
        return data
    return data / (_read_record(data).file if (data / RECORD_FILE).exists() else TOKENS_FILE)


def _write_record(folder: Path, corpus: Corpus, file: str) -> None:
    model = corpus.tokenizer_model
    record = _Record(
        sha256=corpus.sha256,
        dtype=corpus.tokens.dtype.name,
        count=len(corpus.tokens),
        vocabulary_size=corpus.vocabulary_size,
        tokenizer=corpus.tokenizer,
        tokenizer_sha256=None if model is None else hashlib.sha256(model).hexdigest(),
        sources=list(corpus.sources),
        held_out=corpus.held_out,
        file=file,
    )
    write_atomically(folder / RECORD_FILE, (json.dumps(asdict(record), indent=2) + "\n").encode("ascii"))


def _read_record(folder: Path) -> _Record:
    path = folder / RECORD_FILE
    data = _read(path)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise DataError(f"{str(path)!r} is not JSON; restore it from the run") from None
    if not _is_record(value):
        raise DataError(f"{str(path)!r} is not a data record; restore it from the run")
    return _Record(**value)


def _is_record(value: Any) -> bool:
    """Exactly the fields of a record, each of its type, and a dtype that follows from the vocabulary."""
    if not isinstance(value, dict) or set(value) != {field.name for field in fields(_Record)}:
        return False
    counts = [value[name] for name in ("count", "vocabulary_size", "held_out")]
    texts = [value[name] for name in ("sha256", "tokenizer", "file", "dtype")]
    sources, model_hash = value["sources"], value["tokenizer_sha256"]
    return (
        all(type(number) is int for number in counts)
        and all(isinstance(text, str) for text in texts)
        and isinstance(sources, list)
        and all(isinstance(source, str) for source in sources)
        and isinstance(model_hash, str if value["tokenizer"] == "sentencepiece" else NoneType)
        and value["dtype"] in (token_dtype(value["vocabulary_size"]).name, *_wide(value["tokenizer"]))
    )


def _wide(tokenizer: str) -> tuple[str, ...]:
    """Tokens that came as such may be wider than they need be."""
    return ("uint32",) if tokenizer == "none" else ()


def _read_tokens(path: Path, record: _Record) -> np.ndarray:
    """A map of the file, read through once for its hash."""
    dtype = np.dtype(record.dtype).newbyteorder("<")
    size = _size(path)
    if size != record.count * dtype.itemsize:
        what = f"tokens {str(path)!r} have {size} bytes where {record.count * dtype.itemsize} are recorded"
        raise DataError(f"{what}; restore the file or name it with --data")
    tokens = map_tokens(path, dtype) if size else np.empty(0, dtype)
    found = corpus_hash(
        tokens,
        held_out=record.held_out,
        vocabulary_size=record.vocabulary_size,
        tokenizer=record.tokenizer,
    )
    if found != record.sha256:
        hashes = f"SHA-256 {found[:12]}, not {record.sha256[:12]}"
        what = f"tokens {str(path)!r} or their record were altered ({hashes})"
        raise DataError(f"{what}; restore the file or name it with --data")
    return tokens


def _read_model(path: Path, sha256: str | None) -> bytes | None:
    if sha256 is None:
        return None
    model = _read(path)
    if hashlib.sha256(model).hexdigest() != sha256:
        raise DataError(f"tokenizer model {str(path)!r} was altered; restore it or name a copy with --data")
    return model


def _size(path: Path) -> int:
    with _told(path), path.open("rb") as file:
        return os.fstat(file.fileno()).st_size


def _read(path: Path) -> bytes:
    with _told(path):
        return path.read_bytes()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system says about a data file, as a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"data file {str(path)!r} is missing; restore it or name it with --data") from None
    except OSError as error:
        raise DataError(f"cannot read data file {str(path)!r} ({error.strerror}); make it readable") from None
