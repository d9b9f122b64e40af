"""Quantized arrays on disk: safetensors with codes packed to their width, and the scheme as metadata."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from precision.quantization.array import QArray
from precision.quantization.packing import PACKED, pack_codes, unpack_codes
from precision.quantization.scheme import Clipping, QScheme
from precision.rounding import decode, encode

_KIND = "qarray"


def save_qarray(q: QArray, path: str | Path) -> None:
    """Writes codes (2 and 4 bits packed along the last axis), scales in their own format, zero points and the scheme.

    Atomic: the file is whole or not there.  ``load_qarray`` gives the same bits back.
    """
    from safetensors.numpy import save

    codes = np.asarray(q.codes)
    tensors = {
        "codes": pack_codes(codes, q.scheme.bits) if q.scheme.bits in PACKED else codes,
        "scale": encode(np.asarray(q.scale), q.scheme.stored_scale),
    }
    if q.zero_point is not None:
        tensors["zero_point"] = np.asarray(q.zero_point)
    facts = {"axis": q.axis, "tiles": q.own_tiles, "shape": q.shape, "scheme": dataclasses.asdict(q.scheme)}
    data = save({name: np.ascontiguousarray(x) for name, x in tensors.items()}, {_KIND: json.dumps(facts)})
    target = Path(path)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def load_qarray(path: str | Path) -> QArray:
    """The array that ``save_qarray`` wrote, on NumPy.

    Errors: FileNotFoundError; ValueError, naming the file, for one that is cut off or not a quantized array.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there; save_qarray writes such files")
    try:
        with safe_open(path, framework="numpy") as opened:
            facts = json.loads((opened.metadata() or {})[_KIND])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return _assembled(facts, tensors)
    except (SafetensorError, KeyError, TypeError, ValueError) as wrong:
        raise ValueError(f"{path} is no quantized array, or not all of one: {wrong}; save it again") from wrong


def _assembled(facts: dict[str, Any], tensors: dict[str, np.ndarray]) -> QArray:
    clipping = Clipping(**facts["scheme"].pop("clipping"))
    scheme = QScheme(**facts["scheme"], clipping=clipping)
    shape, codes = tuple(facts["shape"]), tensors["codes"]
    if scheme.bits in PACKED:
        codes = unpack_codes(codes, shape[-1], scheme.bits)
    if codes.shape != shape:
        raise ValueError(f"codes of shape {codes.shape} under a header of {shape}")
    return QArray(
        codes=codes,
        scale=decode(tensors["scale"], scheme.stored_scale),
        zero_point=tensors.get("zero_point"),
        axis=facts["axis"],
        tiles=tuple(facts["tiles"]),
        scheme=scheme,
    )
