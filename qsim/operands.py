"""Operands of a step's matrix products, kept, and multiplied again under other formats, accumulators, quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import precision as pr
from qsim.arithmetic import Arithmetic
from qsim.config import ConfigError
from qsim.differences import relative_distance
from qsim.faults import Fault
from qsim.policies import parse_policy
from qsim.position import Position
from qsim.rerun import Rerun
from qsim.site import Site
from qsim.site_policy import Pass, SitePolicy
from qsim.sites import Calculator
from qsim.step import training_step

Array = Any


@dataclass(frozen=True, kw_only=True)
class Operands:
    """a (B, m, k) and b (B, k, n) of one product, before they are rounded to the formats in which it is made.

    call: which product of its site, pass and layer, from 0: scores and values have two in dgrad.
    """

    layer: int | None
    site: str
    direction: Pass
    call: int
    a: np.ndarray
    b: np.ndarray

    @property
    def name(self) -> str:
        where = self.site if self.layer is None else f"layer.{self.layer}.{self.site}"
        return f"{where}.{self.direction}" + (f".{self.call}" if self.call else "")


@dataclass(frozen=True, kw_only=True)
class Remultiplied:
    """One product under one policy, beside the float64 product of the operands as they were.

    Relative distances, sqrt(sum (y - y_ref)^2 / sum y_ref^2) over what is finite in both; None where the product is
    zero or a part cannot be told (quantized and scaled operands):
        inputs: the float64 product of the rounded operands, from the reference.
        accumulation: the product as it is summed, from the float64 product of the rounded operands.
        output: the product as it is given out, from the one before its last rounding.
        error: the product as it is given out, from the reference.
    underflowed, overflowed: values of both operands that their rounding to the site's formats made zero, or put
        beyond the largest finite value; quantizing comes after it.
    not_finite: elements of the product, as it is given out, that are infinite or NaN.
    """

    name: str
    policy: str
    shape: tuple[int, int, int, int]
    inputs: float | None
    accumulation: float | None
    output: float | None
    error: float | None
    underflowed: int
    overflowed: int
    not_finite: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _KeepingSite(Site):
    """A site that keeps the operands of its products."""

    def matmul(self, a: Array, b: Array, key: Array | None = None) -> Array:
        if a.ndim == 3:
            self._calculator.keep(self._key, a, b)  # type: ignore[attr-defined]
        return super().matmul(a, b, key)


class _Keeping(Calculator):
    """A calculator on the host that keeps the operands of every product, call after call."""

    site_type = _KeepingSite

    def __init__(self, policy: Arithmetic, backend: str, *, faults: Sequence[Fault]) -> None:
        super().__init__(policy, backend, faults=faults)
        self.kept: dict[str, list[tuple[Array, Array]]] = {}

    def keep(self, key: str, a: Array, b: Array) -> None:
        self.kept.setdefault(key, []).append((np.array(a), np.array(b)))


def captured(again: Rerun, position: Position, pattern: str = "*") -> list[Operands]:
    """Operands of the products of the step after a position, those whose name the pattern matches.

    pattern: as in ``fnmatch``, of ``layer.N.site.pass`` or ``site.pass``, as in ``*.mlp_up.*``.
    Domain: executors numpy and numba.  Errors: ConfigError where nothing matches.
    """
    if again.executor == "jax":
        raise ConfigError("operands are captured on numpy or numba, not on jax; give one of them by --executor")
    planted = [fault for fault in again.faults if fault.step == position.step + 1]
    ar = _Keeping(again.policy, again.executor, faults=planted)
    inputs = again.inputs(position)
    training_step(ar, again.config, position.state, inputs.batch, inputs.scalars, inputs.keys)
    found = [one for key, calls in ar.kept.items() for one in _of_site(key, calls, again.config.model.layers)]
    chosen = [one for one in found if fnmatchcase(one.name, pattern)]
    if not chosen:
        raise ConfigError(f"--sites {pattern!r} matches no product; names are like {found[0].name}, {found[-1].name}")
    return chosen


def _of_site(key: str, calls: list[tuple[Array, Array]], layers: int) -> list[Operands]:
    """A scan backward calls the last layer first."""
    site, _, name = key.partition(".")
    direction: Pass = "fprop" if name == "fprop" else "dgrad" if name == "dgrad" else "wgrad"
    per_layer = len(calls) // layers if site != "logits" else len(calls)
    found = []
    for i, (a, b) in enumerate(calls):
        layer = None if site == "logits" else i // per_layer
        if layer is not None and direction != "fprop":
            layer = layers - 1 - layer
        found.append(Operands(layer=layer, site=site, direction=direction, call=i % per_layer, a=a, b=b))
    return found


def parse_way(name: str, base: Arithmetic) -> Arithmetic:
    """A policy by name, or a scheme of ``precision.SCHEMES``, which quantizes every product of the base policy."""
    if name in pr.SCHEMES:
        passes: tuple[Pass, ...] = ("fprop", "dgrad", "wgrad")
        return base.quantized(name, passes=passes, name=name)
    return parse_policy(name)


def remultiplied(
    operands: Operands, policy: Arithmetic, executor: str, keys: dict[str, np.ndarray] | None = None
) -> Remultiplied:
    """The product of captured operands as a policy makes it; keys: of its step (``qsim.model.step_keys``)."""
    ar = Calculator(policy, executor)
    row = policy.site(operands.site, operands.direction, operands.layer)
    site = Site(ar, operands.site, operands.direction, row)
    own = {name: key if key.ndim == 1 else key[operands.layer] for name, key in (keys or {}).items()}
    ar.draw_from(own)
    rounded, events = _rounded(operands, row)
    product = np.asarray(site.matmul(rounded[0], rounded[1], own.get(f"{operands.site}.{operands.direction}")))
    given = np.asarray(site.output(product))
    reference = _float64(operands.a, operands.b)
    between = _float64(*rounded) if row.scaling == "none" and row.quantization is None else None
    return Remultiplied(
        name=operands.name,
        policy=policy.name,
        shape=(*operands.a.shape, operands.b.shape[-1]),
        inputs=None if between is None else relative_distance(reference, between),
        accumulation=None if between is None else relative_distance(between, product),
        output=relative_distance(product, given),
        error=relative_distance(reference, given),
        underflowed=sum(one.underflowed for one in events),
        overflowed=sum(one.overflowed for one in events),
        not_finite=int(np.count_nonzero(~np.isfinite(given))),
    )


def _rounded(operands: Operands, row: SitePolicy) -> tuple[list[np.ndarray], list[pr.Statistics]]:
    """Both operands as values of the formats that the site multiplies or quantizes; as they are where it scales."""
    if row.scaling != "none":
        return [operands.a, operands.b], []
    pairs = list(zip((operands.a, operands.b), map(pr.parse_format, row.operands(operands.direction)), strict=True))
    return [pr.round_to(x, fmt) for x, fmt in pairs], [pr.statistics(x, fmt) for x, fmt in pairs]


def _float64(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) @ b.astype(np.float64)


def save_operands(path: Path, operands: Sequence[Operands]) -> None:
    """``NAME.a`` and ``NAME.b`` of each, float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{one.name}.{part}": getattr(one, part) for one in operands for part in ("a", "b")}, path)
