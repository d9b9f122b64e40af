"""SHA-256 of tensors, the same for every executor.

A tree of tensors is hashed in sorted name order: name, shape, little-endian float32 values in C order, layers
unstacked, every NaN as 0x7FC00000.  Values of an fp64 run are hashed as float64, NaN as 0x7FF8000000000000.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from precision.format import CANONICAL_NAN

BLOCKS = "blocks."
_NAN = {4: np.uint32(CANONICAL_NAN).view("<f4"), 8: np.uint64(0x7FF8 << 48).view("<f8")}


def unstack(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """Stacked blocks as one tensor a layer: ``blocks.qkv.weight`` (L, ...) -> ``layer.0.qkv.weight``, ..."""
    arrays = {name: np.asarray(value, dtype=_kept(value)) for name, value in tree.items()}
    rows = {name: x if name.startswith(BLOCKS) else x[None] for name, x in arrays.items()}
    return {key: row for name, x in rows.items() for key, row in by_layer(name, x)}


def by_layer(name: str, rows: Any) -> Iterator[tuple[str, Any]]:
    """Rows (L, ...) of stacked blocks under the names of their layers; of any other parameter its one row."""
    if not name.startswith(BLOCKS):
        yield name, rows[0]
        return
    rest = name.removeprefix(BLOCKS)
    yield from ((f"layer.{i}.{rest}", row) for i, row in enumerate(rows))


def stack(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of ``unstack``."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        if name.startswith("layer."):
            _, number, rest = name.split(".", 2)
            tree.setdefault(f"blocks.{rest}", {})[int(number)] = value
        else:
            tree[name] = value
    return {
        name: np.stack([value[i] for i in range(len(value))]) if isinstance(value, dict) else value
        for name, value in tree.items()
    }


def tree_hash(tree: dict[str, Any]) -> str:
    """Hash of named tensors, stacked blocks or not."""
    digest = hashlib.sha256()
    for name, array in sorted(unstack(tree).items()):
        digest.update(f"{name} {list(array.shape)}\n".encode())
        digest.update(canonical(array).tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scalar_hash(value: Any) -> str:
    """Hash of one number, the tensor ``loss`` of shape []."""
    return tree_hash({"loss": np.asarray(value, dtype=_kept(value))})


def _kept(value: Any) -> str:
    """Float64 arrays as they are, all else as float32."""
    return "<f8" if isinstance(value, np.ndarray | np.float64) and value.dtype == np.float64 else "<f4"


def step_hashes(step: int, results: dict[str, Any], state: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A row of hashes.jsonl, of the host arrays of a step (``qsim.step``) and of the state it left."""
    others = sorted(state.keys() - {"parameters"})
    moments = {f"{part}.{name}": w for part in others for name, w in unstack(state[part]).items()}
    row = {"step": step, "loss": scalar_hash(results["loss"]), "gradients": tree_hash(results["gradients"])}
    return row | {"parameters": tree_hash(state["parameters"]), "optimizer": tree_hash(moments)}


def canonical(array: np.ndarray) -> np.ndarray:
    """Bits of values as they are hashed, little-endian words, every NaN the same."""
    nan = np.isnan(array)
    plain = np.where(nan, _NAN[array.dtype.itemsize], array) if nan.any() else np.ascontiguousarray(array)
    return plain.view(f"<u{array.dtype.itemsize}")
