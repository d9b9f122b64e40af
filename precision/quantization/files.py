"""Quantized arrays on disk: safetensors with codes packed to their width, and the scheme as metadata."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from precision.formats import E8M0
from precision.quantization import tiles as tiling
from precision.quantization.array import QArray
from precision.quantization.packing import PACKED, pack_codes, unpack_codes
from precision.quantization.scheme import Clipping, QScheme
from precision.rounding import decode, encode

_KIND = "qarray"


def save_qarray(q: QArray, path: str | Path) -> None:
    """Writes codes (2 and 4 bits packed along the last axis), scales in their own format, zero points and the scheme.

    Atomic: a crash or an error at any point leaves the old file, or none, as it was.  ``load_qarray`` gives the same
    bits back.  Errors: TypeError for anything but a ``QArray``.
    """
    from safetensors.numpy import save

    if not isinstance(q, QArray):
        raise TypeError(
            f"save_qarray writes quantized arrays, not {type(q).__name__}; quantize under a QScheme first"
        )
    codes = np.asarray(q.codes)
    tensors = {
        "codes": pack_codes(codes, q.scheme.bits) if q.scheme.bits in PACKED else codes,
        "scale": _stored(np.asarray(q.scale), q.scheme),
    }
    if q.zero_point is not None:
        tensors["zero_point"] = np.asarray(q.zero_point)
    facts = {"axis": q.axis, "tiles": q.own_tiles, "shape": q.shape, "scheme": dataclasses.asdict(q.scheme)}
    data = save({name: np.ascontiguousarray(x) for name, x in tensors.items()}, {_KIND: json.dumps(facts)})
    target = Path(path)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
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
            facts = (opened.metadata() or {}).get(_KIND)
            if facts is None:
                raise ValueError(f"its header has no {_KIND}")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  it is no mapping
        return _assembled(json.loads(facts), tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as wrong:
        reason = f"no {wrong}" if isinstance(wrong, KeyError) else wrong
        raise ValueError(f"{path} is no quantized array, or not all of one: {reason}; save it again") from wrong


def _assembled(facts: dict[str, Any], tensors: dict[str, np.ndarray]) -> QArray:
    clipping = Clipping(**facts["scheme"].pop("clipping"))
    scheme = QScheme(**facts["scheme"], clipping=clipping)
    shape, tiles, codes = tuple(facts["shape"]), tuple(facts["tiles"]), tensors["codes"]
    if scheme.bits in PACKED:
        codes = unpack_codes(codes, shape[-1], scheme.bits)
    if codes.shape != shape or codes.dtype != scheme.code_dtype:
        raise ValueError(f"{codes.dtype} codes of shape {codes.shape} under a header of {shape}")
    if not -len(shape) <= facts["axis"] < 0:
        raise ValueError(f"axis {facts['axis']} of shape {shape}")
    q = QArray(
        codes=codes,
        scale=_scales(tensors["scale"], scheme),
        zero_point=tensors.get("zero_point"),
        axis=facts["axis"],
        tiles=tiles,
        scheme=scheme,
    )
    _check_tiles(q)
    return q


def _check_tiles(q: QArray) -> None:
    if len(q.tiles) != q.ndim or not all(edge is None or (isinstance(edge, int) and edge > 0) for edge in q.tiles):
        raise ValueError(f"tiles {q.tiles} of shape {q.shape}")
    count = tiling.counts(q.shape, q.tiles)
    if q.scale.shape != count:
        raise ValueError(f"scales of shape {q.scale.shape} where tiles are {count}")
    if (q.zero_point is None) != q.scheme.symmetric:
        raise ValueError(f"zero points {'missing' if q.zero_point is None else 'there'} in scheme {q.scheme.name}")
    if q.zero_point is not None and (q.zero_point.shape, q.zero_point.dtype) != (count, np.int32):
        raise ValueError(f"{q.zero_point.dtype} zero points of shape {q.zero_point.shape} where tiles are {count}")


# Scales in their own format.  E8M0 has no zero: its least value, which is no scale, stands for that of a zero tile.


def _stored(scale: np.ndarray, scheme: QScheme) -> np.ndarray:
    if scheme.stored_scale == E8M0:
        scale = np.where(scale == 0, np.float32(E8M0.minimum), scale)
    return encode(scale, scheme.stored_scale)


def _scales(words: np.ndarray, scheme: QScheme) -> np.ndarray:
    scale = decode(words, scheme.stored_scale)
    return np.where(words == 0, np.float32(0), scale) if scheme.stored_scale == E8M0 else scale
