"""Files of raw tokens (``.bin``, as nanoGPT writes them), mapped into memory and never read whole.

A file is one little-endian array without a header.  Its width is ``token_dtype``: "uint16", "uint32", or "auto",
which takes uint16 where the vocabulary is at most 65,536 or not stated, else uint32.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qsim.text_sources import DataError
from qsim.tokenizers import token_dtype

TOKEN_DTYPES = ("auto", "uint16", "uint32")
# Of so many tokens of 16 bits not one odd one is nonzero: they are the halves of uint32.
_LOOKED_AT = 1 << 20


def read_token_files(paths: Sequence[Path], width: str, vocabulary_size: int | None) -> np.ndarray:
    """(N,) uint16 or uint32 of the files one after another, a view of the disk.

    Several files are joined in a temporary file without a name, which the system removes with the array.
    Raises DataError on a missing, empty or cut-off file, an unknown width, and, where the width is not stated,
    on uint16 whose every second token is zero.
    """
    if width not in TOKEN_DTYPES:
        raise DataError(f"unknown token_dtype {width!r}; choose one of {', '.join(TOKEN_DTYPES)}")
    dtype = token_dtype(vocabulary_size or 1) if width == "auto" else np.dtype(width).newbyteorder("<")
    for path in paths:
        _check_size(path, dtype)
    tokens = map_tokens(paths[0], dtype) if len(paths) == 1 else _joined(paths, dtype)
    if width == "auto" and dtype.itemsize == 2:
        _check_width(paths, tokens)
    return tokens


def map_tokens(path: Path, dtype: np.dtype) -> np.ndarray:
    """(N,) read-only map of a file that is not empty."""
    return np.memmap(path, dtype=dtype, mode="r")


def _check_size(path: Path, dtype: np.dtype) -> None:
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        with path.open("rb"):
            size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"no file or folder {str(path)!r}; give --text an existing one") from None
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r} ({error.strerror}); give a readable file") from None
    if not size:
        raise DataError(f"file {str(path)!r} is empty; give a file with text")
    if size % dtype.itemsize:
        what = f"token file {str(path)!r} has {size} bytes, no multiple of {dtype.itemsize}"
        raise DataError(f"{what}; give raw {dtype.name} tokens")


def _joined(paths: Sequence[Path], dtype: np.dtype) -> np.ndarray:
    with tempfile.TemporaryFile() as file:
        for path in paths:
            file.write(map_tokens(path, dtype).data)
        file.flush()
        return np.memmap(file, dtype=dtype, mode="r")


def _check_width(paths: Sequence[Path], tokens: np.ndarray) -> None:
    first = tokens[: min(len(tokens), _LOOKED_AT)]
    if len(first) >= 4 and len(first) % 2 == 0 and not first[1::2].any():
        what = f"every second uint16 of {str(paths[0])!r} is 0, so the tokens look like uint32"
        raise DataError(f"{what}; state data.token_dtype uint32, or uint16 if they are meant so")
