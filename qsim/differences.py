"""Two tensors that should be equal: where they part first, by how much, in how many places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from precision.format import Format
from precision.formats import FP32
from precision.ulps import codes, ulps_apart
from qsim.capture import Tensor
from qsim.hashing import canonical

Stage = Literal["before rounding", "output", "result"]


@dataclass(frozen=True, kw_only=True)
class Element:
    """One place of two tensors.

    index: in the tensor's own shape; flat: row-major.  codes: hexadecimal, in ``format``.  ulps: how many values of
    that format lie from one to the other, -0 and +0 one apart; None where either is NaN.
    """

    index: tuple[int, ...]
    flat: int
    a: float
    b: float
    format: str
    code_a: str
    code_b: str
    ulps: int | None


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """How two tensors of one name differ.

    stage: ``before rounding`` where the values that the site rounded differ already, ``output`` where only the
    rounded ones do, ``result`` of what no site gave out.  part, parts: as in ``Tensor``.
    size, different: numbers of elements.  ulps: the largest, None with NaN alone.  relative: sqrt(sum (a - b)^2 /
    sum a^2) over the places where both are finite, in float64; None where a is zero there.
    """

    key: str
    part: int
    parts: int
    stage: Stage
    size: int
    different: int
    first: Element
    ulps: int | None
    relative: float | None

    @property
    def label(self) -> str:
        return self.key if self.parts == 1 else f"{self.key} [{self.part + 1} of {self.parts}]"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"tensor": self.label}


def compare(a: Tensor, b: Tensor) -> TensorDifference | None:
    """None where the two have equal bits, NaN canonical.  ValueError where their shapes differ."""
    if a.after.shape != b.after.shape:
        raise ValueError(
            f"{a.label} has shape {list(a.after.shape)} in one run and {list(b.after.shape)} in the other"
        )
    if a.before is not None and b.before is not None:
        earlier = _compare(a, a.before, b.before, FP32, "before rounding")
        if earlier is not None:
            return earlier
    fmt = a.format if a.format is not None and a.format is b.format else FP32
    return _compare(a, a.after, b.after, fmt, "result" if a.format is None else "output")


def in_order(a: Sequence[Tensor], b: Sequence[Tensor]) -> Iterator[TensorDifference]:
    """Of tensors that both have, those that differ, in the order of the first."""
    others = {(tensor.key, tensor.part): tensor for tensor in b}
    for tensor in a:
        other = others.get((tensor.key, tensor.part))
        found = None if other is None else compare(tensor, other)
        if found is not None:
            yield found


def _compare(named: Tensor, a: np.ndarray, b: np.ndarray, fmt: Format, stage: Stage) -> TensorDifference | None:
    flat_a, flat_b = (np.ascontiguousarray(x, np.float32).reshape(-1) for x in (a, b))
    places = np.flatnonzero(canonical(flat_a) != canonical(flat_b))
    if not places.size:
        return None
    distances = ulps_apart(flat_a[places], flat_b[places], fmt)
    known = [int(d) for d in distances if d >= 0]
    return TensorDifference(
        key=named.key,
        part=named.part,
        parts=named.parts,
        stage=stage,
        size=flat_a.size,
        different=int(places.size),
        first=_element(a.shape, int(places[0]), flat_a, flat_b, fmt),
        ulps=max(known, default=None),
        relative=relative_distance(flat_a, flat_b),
    )


def _element(shape: tuple[int, ...], flat: int, a: np.ndarray, b: np.ndarray, fmt: Format) -> Element:
    one, other = a[flat : flat + 1], b[flat : flat + 1]
    distance = int(ulps_apart(one, other, fmt)[0])
    return Element(
        index=tuple(int(i) for i in np.unravel_index(flat, shape)),
        flat=flat,
        a=float(one[0]),
        b=float(other[0]),
        format=fmt.name,
        code_a=_hexadecimal(one, fmt),
        code_b=_hexadecimal(other, fmt),
        ulps=None if distance < 0 else distance,
    )


def _hexadecimal(x: np.ndarray, fmt: Format) -> str:
    return f"0x{int(codes(x, fmt)[0]):0{-(-fmt.bits // 4)}x}"


def relative_distance(a: np.ndarray, b: np.ndarray) -> float | None:
    """sqrt(sum (a - b)^2 / sum a^2) where both are finite; None where a is zero there."""
    finite = np.isfinite(a) & np.isfinite(b)
    x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
    norm = _norm(x)
    return _norm(x - y) / norm if norm else None


def _norm(x: np.ndarray) -> float:
    """sqrt(sum x^2) on one thread: those of BLAS would wait for cores that kernels' threads hold."""
    return float(np.sqrt(np.square(x).sum()))
