"""Text to train on: the embedded corpus, and files and folders named by the user.

The embedded corpus is text that an installation already holds: the reference pages of
``pydoc_data.topics`` and the docstrings of NumPy and SciPy, read from source without running it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from qsim.hub_datasets import hub_texts, is_hub_dataset

# Folders with much prose for little source: 1.8 MB of docstrings are parsed in half a second.
DOCSTRING_FOLDERS = (
    "numpy/fft",
    "numpy/lib",
    "numpy/linalg",
    "numpy/ma",
    "scipy/cluster",
    "scipy/fft",
    "scipy/ndimage",
    "scipy/signal",
)
FOLDER_SUFFIXES = (".txt", ".md")
SEPARATOR = "\n\n"

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class DataError(ValueError):
    """A corpus that cannot be read, built or used; the message is one sentence with the remedy."""


@cache
def embedded_text() -> str:
    """The default corpus: reference pages by name, then docstrings by module path, each text once.

    A function of the Python, NumPy and SciPy versions, about 2.2 million characters.
    Raises DataError where this Python or installation lacks one of the sources.
    """
    texts = [*_reference_pages(), *_docstrings()]
    return SEPARATOR.join(dict.fromkeys(texts))  # a dict keeps the order and drops repetitions


def _reference_pages() -> list[str]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise DataError("this Python lacks pydoc_data.topics of the embedded corpus; give --text") from None
    return [topics[name].strip() for name in sorted(topics)]


def _docstrings() -> Iterator[str]:
    for folder in DOCSTRING_FOLDERS:
        for path in _modules(folder):
            yield from _docstrings_of(path)


def _modules(folder: str) -> list[Path]:
    """Python sources below ``package/folder``, tests excluded, sorted by module path."""
    package, _, inner = folder.partition("/")
    spec = importlib.util.find_spec(package)
    roots = spec.submodule_search_locations if spec else None
    root = Path(roots[0], inner) if roots else Path(folder)
    paths = (path for path in root.rglob("*.py") if "tests" not in path.relative_to(root).parts)
    modules = sorted(paths, key=lambda path: path.relative_to(root).as_posix())
    if not modules:
        raise DataError(f"the embedded corpus needs the sources of {folder}, not installed here; give --text")
    return modules


def _docstrings_of(path: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a stray escape in another project's source is no concern here
        tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, _Documented) else None
        if text and text.strip():
            yield text.strip()


def read_text(paths: Sequence[Path]) -> str:
    """All documents of the files and folders, in the given order, separated by one empty line.

    ``hf:NAME[:SPLIT]`` and a folder of ``save_to_disk`` are Hugging Face datasets (``qsim.hub_datasets``); any other
    folder stands for its ``*.txt`` and ``*.md`` files at any depth, sorted by relative path; ``.jsonl`` and
    ``.jsonl.zst`` hold one object with a "text" per line; any other file is UTF-8 text, taken as it is.
    Raises DataError on a missing, empty, undecodable or malformed file.
    """
    return SEPARATOR.join(document for path in paths for document in _documents(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; DataError where it is missing, unreadable or empty."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"no file or folder {str(path)!r}; give --text an existing one") from None
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r} ({error.strerror}); give a readable file") from None
    if not data:
        raise DataError(f"file {str(path)!r} is empty; give a file with text")
    return data


def _documents(path: Path) -> list[str]:
    if is_hub_dataset(path):
        return _hub_documents(path)
    if path.is_dir():
        return _folder_documents(path)
    name, data = path.name.lower(), read_bytes(path)
    if name.endswith(".jsonl.zst"):
        return _json_documents(path, _decode(path, _decompress(path, data)))
    text = _decode(path, data)
    return _json_documents(path, text) if name.endswith(".jsonl") else [text]


def _hub_documents(path: Path) -> list[str]:
    try:
        return hub_texts(path)
    except ValueError as error:
        raise DataError(str(error)) from None


def _folder_documents(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in FOLDER_SUFFIXES and path.is_file())
    ordered = sorted(paths, key=lambda path: path.relative_to(folder).as_posix())
    if not ordered:
        raise DataError(f"folder {str(folder)!r} holds no .txt or .md file; give a folder that does")
    return [_decode(path, read_bytes(path)) for path in ordered]


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"file {str(path)!r} is not UTF-8 at byte {error.start}; convert it") from None


def _decompress(path: Path, data: bytes) -> bytes:
    """All frames of a Zstandard file; a cut-off frame is an error, not a shorter text."""
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError:
        message = f"reading {str(path)!r} needs the package zstandard; install it or decompress the file"
        raise DataError(message) from None
    parts, complete = [], True
    try:
        while data and complete:
            frame = zstandard.ZstdDecompressor().decompressobj()
            parts.append(frame.decompress(data))
            data, complete = frame.unused_data, frame.eof
    except zstandard.ZstdError:
        complete = False
    if not complete:
        raise DataError(f"file {str(path)!r} is cut off or not Zstandard data; compress it again")
    return b"".join(parts)


def _json_documents(path: Path, text: str) -> list[str]:
    lines = enumerate(text.split("\n"), start=1)
    documents = [_json_text(path, number, line) for number, line in lines if line.strip()]
    if not any(documents):
        raise DataError(f"file {str(path)!r} holds no text; give lines with a non-empty 'text' field")
    return documents


def _json_text(path: Path, number: int, line: str) -> str:
    where = f"line {number} of {str(path)!r}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where} is not JSON; give one JSON object per line") from None
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{where} has no text; give each line an object with a string field 'text'")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"{where} holds half of a surrogate pair; write whole characters")
    return text
