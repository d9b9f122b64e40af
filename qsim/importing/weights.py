"""Parameters of a decoder out of a file, one layer at a time, as its layout says.

Whether every tensor is there, of the shape the configuration asks for, and none besides, is checked when the file is
opened; values are read when they are asked for, and kept by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import numpy as np

from qsim.decoder_config import DecoderConfig, Shape, layer_shapes, outer_shapes
from qsim.importing.architectures import Row, Source, TensorNames
from qsim.importing.refusal import ModelError


class TensorFile(Protocol):
    """A file, or several, of named tensors."""

    path: Path

    @property
    def shapes(self) -> Mapping[str, Shape]: ...

    def where(self, name: str) -> Path:
        """The file that holds a tensor."""
        ...

    def check(self, name: str) -> None:
        """ModelError where the tensor's type is not read."""
        ...

    def kind(self, name: str) -> tuple[str, int]:
        """The tensor's type, and its bytes in the file."""
        ...

    def read(self, name: str) -> np.ndarray:
        """The tensor in float32, every value as it is in the file."""
        ...


class FileWeights:
    """``qsim.decoder.Weights`` of a checkpoint."""

    def __init__(self, config: DecoderConfig, names: TensorNames, file: TensorFile) -> None:
        self.config, self._names, self._file = config, names, file
        self._outer = [row for row in names.rows if row.ours in outer_shapes(config)]
        self._layers = [row for row in names.layers if row.ours in layer_shapes(config)]
        self._prefix = self._found_prefix()
        self._check()

    def outer(self) -> dict[str, np.ndarray]:
        """Parameters outside the layers, float32."""
        return {row.ours: self._read(row) for row in self._outer}

    def layer(self, number: int) -> dict[str, np.ndarray]:
        """Parameters of one layer, float32, read now.  IndexError for one that the model does not have."""
        if not 0 <= number < self.config.layers:
            raise IndexError(f"layer {number} of a model of {self.config.layers} layers; they count from 0")
        return {row.ours: self._read(row, number) for row in self._layers}

    def types(self) -> list[tuple[str, int]]:
        """(type, bytes) of each tensor of the file that is read."""
        return [self._file.kind(name) for name, _ in self._wanted()]

    def _found_prefix(self) -> str:
        """Of the names in this file, by the table of tokens, which every model has."""
        first = self._outer[0].sources[0].name
        for prefix in self._names.prefixes:
            if prefix + first in self._file.shapes:
                return prefix
        raise ModelError(f"{self._file.path} has no tensor {self._names.prefixes[0]}{first}; restore it")

    def _full_name(self, source: Source, layer: int | None) -> str:
        name = source.name if layer is None else source.name.format(i=layer)
        return name if source.name in self._names.bare else self._prefix + name

    def _wanted(self) -> Iterator[tuple[str, Source]]:
        for row in self._outer:
            yield from ((self._full_name(source, None), source) for source in row.sources)
        for layer in range(self.config.layers):
            for row in self._layers:
                yield from ((self._full_name(source, layer), source) for source in row.sources)

    def _check(self) -> None:
        file, wanted = self._file, set()
        for name, source in self._wanted():  # ends at the first that is missing, however many layers are said
            expected = tuple(self.config.sizes[axis] for axis in source.axes)
            if name not in file.shapes:
                raise ModelError(f"{file.path} has no tensor {name}; restore it")
            if file.shapes[name] != expected:
                raise ModelError(
                    f"{file.where(name)} holds {name} of shape {list(file.shapes[name])}, and the configuration "
                    f"asks for {list(expected)}; restore the one or the other"
                )
            file.check(name)
            wanted.add(name)
        for name in sorted(file.shapes.keys() - wanted):
            own = name.removeprefix(self._prefix)
            if not any(fnmatchcase(own, pattern) for pattern in self._names.ignored):
                raise ModelError(
                    f"{file.where(name)} holds {name}, which no such model has; the configuration is another one's"
                )

    def _read(self, row: Row, layer: int | None = None) -> np.ndarray:
        parts = []
        for source in row.sources:
            tensor = self._file.read(self._full_name(source, layer))
            tensor = self._in_our_order(tensor, source)
            parts.append(tensor.T if row.turned else tensor)
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1))

    def _in_our_order(self, tensor: np.ndarray, source: Source) -> np.ndarray:
        """Rows (out, ...) of a file as ours."""
        size, rest = self.config.head_size, tensor.shape[1:]
        if source.order == "by_head":  # (H, 3, d) -> (3, H, d)
            return tensor.reshape(-1, 3, size, *rest).swapaxes(0, 1).reshape(tensor.shape)
        if source.order == "pairs":  # (H, d / 2, 2) -> (H, 2, d / 2)
            return tensor.reshape(-1, size // 2, 2, *rest).swapaxes(1, 2).reshape(tensor.shape)
        return tensor
