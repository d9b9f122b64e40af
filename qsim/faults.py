"""Planted faults: one bit of one value of one site, flipped in one step, so that finding it can be tested."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precision.format import Format
from qsim.arithmetic import Arithmetic
from qsim.config import ConfigError, RunConfig
from qsim.site_policy import PASSES, SITES, WHOLE_MODEL_SITES, Pass

Array = Any
FORM = "step:site:pass:element:bit, as in 3:layer.0.mlp_up:fprop:17:12"
_PATTERN = re.compile(r"(\d+):(?:layer\.(\d+)\.)?(\w+):(\w+):(\d+):(\d+|zero)")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One value as a site gives it out, after its rounding, changed in one step.

    layer: None of a site that the model has once.  element: counted through all that the site gives out in that pass,
    in order, each array row-major; with recomputation the values are those of the first forward pass.
    bit: of the code in the site's output format, 0 the lowest; None makes the value +0.
    """

    step: int
    layer: int | None
    site: str
    direction: Pass
    element: int
    bit: int | None

    def __str__(self) -> str:
        return f"{self.step}:{self.place}:{self.direction}:{self.element}:{'zero' if self.bit is None else self.bit}"

    @property
    def place(self) -> str:
        """``layer.3.qkv``, or the site."""
        return self.site if self.layer is None else f"layer.{self.layer}.{self.site}"

    def planted(self, backend: Any, x: Array, index: int, fmt: Format) -> Array:
        """x, values of a format, with its element of that row-major index changed.  ValueError for too high a bit."""
        xp = backend.array_module
        hit = xp.arange(x.size).reshape(x.shape) == index
        return xp.where(hit, self._changed(backend, x, fmt), x)

    def _changed(self, backend: Any, x: Array, fmt: Format) -> Array:
        if self.bit is None:
            return backend.array_module.zeros_like(x)
        if self.bit >= fmt.bits:
            raise ConfigError(f"fault {self} flips bit {self.bit} of {fmt.name}, whose highest is {fmt.bits - 1}")
        unsigned = np.dtype(f"u{fmt.code_dtype.itemsize}")
        codes = backend.encode(x, fmt).view(unsigned) ^ unsigned.type(1 << self.bit)
        return backend.decode(codes.view(fmt.code_dtype), fmt)


def parse_fault(text: str) -> Fault:
    """What ``str`` of a fault gives.  ConfigError for anything else, for an unknown site or pass."""
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise ConfigError(f"fault {text!r} is not of the form {FORM}; bit may be zero")
    step, layer, site, direction, element, bit = found.groups()
    if site not in SITES:
        raise ConfigError(f"fault {text!r} names unknown site {site!r}; known: {', '.join(SITES)}")
    if direction not in PASSES:
        raise ConfigError(f"fault {text!r} names unknown pass {direction!r}; known: {', '.join(PASSES)}")
    if (layer is None) != (site in WHOLE_MODEL_SITES):
        remedy = f"write {site} alone" if layer is not None else f"write layer.N.{site}"
        raise ConfigError(f"fault {text!r}: {site} is {'once in the model' if layer else 'in every layer'}; {remedy}")
    return Fault(
        step=int(step),
        layer=None if layer is None else int(layer),
        site=site,
        direction=next(one for one in PASSES if one == direction),
        element=int(element),
        bit=None if bit == "zero" else int(bit),
    )


def check_faults(faults: Iterable[Fault], config: RunConfig, policy: Arithmetic, devices: int) -> None:
    """ConfigError for faults that a run cannot have."""
    for fault in faults:
        if not 1 <= fault.step <= config.steps:
            raise ConfigError(f"fault {fault} is of step {fault.step}; the run has steps 1 to {config.steps}")
        if fault.layer is not None and fault.layer >= config.model.layers:
            raise ConfigError(f"fault {fault} is of layer {fault.layer}; the last one is {config.model.layers - 1}")
        if (fault.site, fault.direction) not in {(site, p) for site, p, _ in policy.sites}:
            raise ConfigError(f"fault {fault}: {fault.site} has no pass {fault.direction}; see qsim policy")
        if devices > 1 or config.data.accumulation > 1:
            raise ConfigError(f"fault {fault} is planted on one device, with data.accumulation 1; set both so")


class Planter:
    """Plants the faults of one step while it is computed."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = list(faults)
        self._given_out: dict[tuple[int | None, str], int] = {}
        self._planted: set[Fault] = set()

    def layers(self) -> set[int]:
        return {fault.layer for fault in self._faults if fault.layer is not None}

    def __call__(self, backend: Any, layer: int | None, key: str, x: Array, fmt: Format) -> Array:
        """x, the next values that ``site.pass`` of a layer gives out, with what is to be planted in them."""
        first = self._given_out.get((layer, key), 0)
        self._given_out[layer, key] = first + x.size
        for fault in self._faults:
            own = (fault.layer, f"{fault.site}.{fault.direction}") == (layer, key)
            if own and first <= fault.element < first + x.size:
                x = fault.planted(backend, x, fault.element - first, fmt)
                self._planted.add(fault)
        return x

    def check(self) -> None:
        """ConfigError for a fault whose element the step never came to."""
        for fault in self._faults:
            if fault not in self._planted:
                size = self._given_out.get((fault.layer, f"{fault.site}.{fault.direction}"), 0)
                raise ConfigError(f"fault {fault} is of element {fault.element}; {fault.place} gives out {size:,}")
