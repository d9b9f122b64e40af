"""Tensors of .safetensors files, mapped into memory: one file, or the shards that an index names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (NumPy knows bfloat16 by it)
import numpy as np
from safetensors import SafetensorError, safe_open

from qsim.decoder_config import Shape
from qsim.importing.json_file import read_json
from qsim.importing.refusal import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_READ = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of a value


class SafetensorsFiles:
    """Tensors by name, over all of these files.  ModelError for a file that is damaged."""

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self._of: dict[str, tuple[Path, Any]] = {}
        for file in files:
            opened = _opened(file)
            self._of |= dict.fromkeys(opened.keys(), (file, opened))
        self._shapes = {name: tuple(one.get_slice(name).get_shape()) for name, (_, one) in self._of.items()}

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return self._shapes

    def where(self, name: str) -> Path:
        return self._of[name][0]

    def check(self, name: str) -> None:
        file, opened = self._of[name]
        dtype = opened.get_slice(name).get_dtype()
        if dtype not in _READ:
            raise ModelError(f"{file} holds {name} as {dtype}, which is not read; {', '.join(_READ)} are")

    def kind(self, name: str) -> tuple[str, int]:
        dtype = str(self._of[name][1].get_slice(name).get_dtype())
        return dtype, math.prod(self._shapes[name]) * _READ[dtype]

    def read(self, name: str) -> np.ndarray:
        file, opened = self._of[name]
        try:
            return opened.get_tensor(name).astype(np.float32)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{file} cannot be read at {name} ({error}); restore it") from None


def _opened(file: Path) -> Any:
    try:
        return safe_open(str(file), framework="numpy")
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} is no whole safetensors file ({error}); restore it") from None


def open_safetensors(folder: Path) -> SafetensorsFiles:
    """The weights of a Hugging Face folder.  ModelError for a missing or damaged file, and where all is pickled."""
    if (folder / SINGLE).is_file():
        return SafetensorsFiles(folder / SINGLE, [folder / SINGLE])
    index = folder / INDEX
    if index.is_file():
        return _sharded(index)
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickles:
        raise pickled(folder / pickles[0])
    raise ModelError(f"{folder} has neither {SINGLE} nor {INDEX}; name the folder of a whole checkpoint")


def pickled(file: Path) -> ModelError:
    return ModelError(
        f"{file} is a pickle, which may run any code and is never loaded; use the checkpoint's .safetensors"
    )


def _sharded(index: Path) -> SafetensorsFiles:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{index} has no weight_map of tensors to files; restore it")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index} names shard {name!r}, which is no .safetensors file beside it; restore it")
        if not (index.parent / name).is_file():
            raise ModelError(
                f"{index.parent / name} is missing, one of {len(names)} shards of {index.name}; fetch it"
            )
    files = SafetensorsFiles(index, [index.parent / name for name in names])
    for tensor, name in places.items():
        if tensor not in files.shapes or files.where(tensor).name != name:
            raise ModelError(
                f"{index.parent / name} has no tensor {tensor}, which {index.name} says it has; fetch it"
            )
    return files
