"""GGUF files, by the package ``gguf`` (the extra ``hf``): metadata, and tensors mapped into memory.

Blocks of Q8_0 and Q4_0 are d q and d (q - 8) with d in fp16, exact in float32; of Q4_1, d q + m, rounded once.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qsim.decoder_config import Shape
from qsim.importing.refusal import ModelError

_READ = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")


class GgufFile:
    """Tensors of one file by name; ``metadata`` holds its plain values.  ModelError for a file that is damaged."""

    def __init__(self, path: Path) -> None:
        self.path, self._gguf = path, _package(path)
        try:
            reader = self._gguf.GGUFReader(path)
            self._pages = reader.data._mmap
            self._tensors = {tensor.name: tensor for tensor in reader.tensors}
            # the reader keeps several arrays for each of a hundred thousand texts: none of them stays
            self._lists = {n: field.contents() for n, field in reader.fields.items() if len(field.types) > 1}
            self.metadata = {name: _plain(field) for name, field in reader.fields.items()}
        # the reader checks little: what a damaged file makes it do depends on where it is damaged
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, OSError, MemoryError) as error:
            raise ModelError(f"{path} is no whole GGUF file ({error}); restore it") from None
        # GGUF counts axes from the fastest one
        self._shapes = {name: tuple(map(int, reversed(t.shape))) for name, t in self._tensors.items()}

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return self._shapes

    def array(self, name: str) -> list[Any]:
        """A list in the metadata.  ModelError where there is none."""
        if name not in self._lists:
            raise ModelError(f"{self.path} has no list {name}; restore it")
        return self._lists[name]

    def where(self, name: str) -> Path:
        return self.path

    def check(self, name: str) -> None:
        kind = self._tensors[name].tensor_type.name
        if kind not in _READ:
            raise ModelError(f"{self.path} holds {name} as {kind}, which is not read; {', '.join(_READ)} are")

    def kind(self, name: str) -> tuple[str, int]:
        tensor = self._tensors[name]
        return str(tensor.tensor_type.name), int(tensor.n_bytes)

    def read(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        values = np.asarray(self._gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        if hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)  # what was read stays in the file system's cache alone
        return values.reshape(self._shapes[name])


def _package(path: Path) -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise ModelError(f"{path} is read by the package gguf; pip install 'qsim-precision[hf]'") from None
    return gguf


def _plain(field: Any) -> Any:
    """A number, text or truth value; None for an array, of which there are long ones."""
    return field.contents() if len(field.types) == 1 else None
