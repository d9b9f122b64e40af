"""The project's emulation of each recorded instruction, and models that are wrong in one respect."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
from recorded.operands import CHAIN, DISTRIBUTIONS, KINDS, Kind, has_floor, kept, operands

import precision as pr
from precision.accumulators import ACCUMULATORS

_DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
_KEPT_BITS = {"tf32": 0xFFFFE000, "e8m13": 0xFFFFFC00}  # what the unit reads of a float32
_H100, _H100_FP16 = ACCUMULATORS["h100"], ACCUMULATORS["h100_fp16"]
_MMA_FP8, _WGMMA_FP8 = ACCUMULATORS["h100_fp8_mma"], ACCUMULATORS["h100_fp8_wgmma"]
_FP16_SUM = {"sum": _H100_FP16.sum, "rounding": "nearest_even", "floor": _H100_FP16.floor}


def _short(record: pr.Accumulator, block: int) -> pr.Accumulator:
    """The same unit adding fewer products at once."""
    blocks = tuple((fmt, block) for fmt in record.inputs)
    return dataclasses.replace(record, name=f"{record.name} by {block}", block=block, blocks=blocks)


def _into_fp16(record: pr.Accumulator) -> pr.Accumulator:
    return dataclasses.replace(record, name=f"{record.name} into fp16", **_FP16_SUM)


def model(name: str) -> pr.Accumulator:
    """The accumulator that describes a kind: an instruction adds all its k at once, or as many as the unit takes."""
    kind = KINDS[name]
    if kind.a in ("e4m3fn", "e5m2"):
        record = _WGMMA_FP8 if kind.is_wgmma else _MMA_FP8
        return _into_fp16(record) if kind.sum == "fp16" else record
    record = _H100_FP16 if kind.sum == "fp16" else _H100
    if name == "wmma tf32":
        return _short(record, 4)  # compiled into instructions of four k
    block = dict(record.blocks)[kind.a]
    return _short(record, kind.k) if kind.k < block else record


def wrong_models(name: str) -> dict[str, pr.Accumulator]:
    """Models that the recordings must tell from the right one, by what is wrong in them."""
    record, kind = model(name), KINDS[name]
    change = dataclasses.replace
    bits = record.alignment
    assert bits is not None
    ordinary = {
        "a bit less": change(record, alignment=bits - 1),
        "a bit more": change(record, alignment=bits + 1),
        "exact sums": change(record, alignment=None, floor=None),
        "another last rounding": change(
            record, rounding="toward_zero" if record.rounding == "nearest_even" else "nearest_even"
        ),
    }
    if record.order == "ascending" and kind.k > 4:
        half = record.block_for(pr.parse_format(kind.a))
        assert half is not None
        ordinary["half as many at once"] = _short(record, half // 2)
    if record.order != "ascending":
        ordinary["contiguous order"] = change(record, order="ascending")
    if has_floor(kind):
        assert record.floor is not None
        ordinary["zeros with a sign"] = change(record, zero="ieee")
        ordinary["no floor"] = change(record, floor=None)
        ordinary["a floor higher by one"] = change(record, floor=record.floor + 1)
        ordinary["a floor lower by one"] = change(record, floor=record.floor - 1)
    if kind.sum == "fp32" and not kind.start:
        ordinary["a chain in float32"] = ACCUMULATORS["fp32_sequential"]
    return ordinary


# Operands as the project takes them


def carrier(words: np.ndarray, fmt: str) -> np.ndarray:
    """float32 of patterns of a format; of tf32 and of a narrower start, what the unit reads."""
    if fmt in _DTYPES:
        with np.errstate(invalid="ignore"):
            return words.view(_DTYPES[fmt]).astype(np.float32)
    return (words & np.uint32(_KEPT_BITS.get(fmt, 0xFFFFFFFF))).view(np.float32)


def multiply(
    kind: Kind, record: pr.Accumulator, a: np.ndarray, b: np.ndarray, c: np.ndarray, backend: str
) -> np.ndarray:
    """(P, steps, M, K) and (P, steps, N, K) onto (P, M, N), patterns in and float32 patterns out."""
    count, steps = a.shape[:2]
    left = carrier(a, kind.a).transpose(0, 2, 1, 3).reshape(count, kind.m, steps * kind.k)
    right = carrier(b, kind.b).transpose(0, 2, 1, 3).reshape(count, kind.n, steps * kind.k)
    total = pr.matmul(
        left,
        right,
        c=carrier(c, kind.start or kind.sum),
        transpose_b=True,
        inputs=(kind.a, kind.b),
        accumulator=record,
        backend=backend,
    )
    return np.asarray(total).view(np.uint32)


def emulated(name: str, record: pr.Accumulator | None = None, backend: str = "numba") -> np.ndarray:
    """Float32 patterns (P, rows, N) of all recorded results: single instructions, then chains."""
    kind = KINDS[name]
    record = model(name) if record is None else record
    return np.concatenate([kept(multiply(kind, record, *operands(name, steps), backend)) for steps in (1, CHAIN)])


def recorded_words(name: str, results: np.ndarray) -> np.ndarray:
    """Recorded patterns as float32 patterns, as ``emulated`` gives them."""
    return carrier(results, "fp16").view(np.uint32) if KINDS[name].sum == "fp16" else results


def by_distribution(name: str, differ: np.ndarray) -> dict[str, int]:
    """How many results differ, of (P, ...) booleans in the order of ``emulated``, where any does."""
    counts = dict.fromkeys(DISTRIBUTIONS, 0)
    for products, first in zip(KINDS[name].products, (0, KINDS[name].products[0] * len(DISTRIBUTIONS)), strict=True):
        for i, distribution in enumerate(DISTRIBUTIONS):
            begin = first + i * products
            counts[distribution] += int(differ[begin : begin + products].sum())
    return {distribution: count for distribution, count in counts.items() if count}
