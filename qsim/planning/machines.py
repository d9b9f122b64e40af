"""Accelerators by name, as their makers describe them: memory and bfloat16 operations a second of one device.

Sources: Google Cloud's pages on TPU v4, v5e, v5p and v6e, NVIDIA's data sheets of A100, H100 SXM, H200 and B200
(dense rates).  A device is what JAX calls one: a chip.  Of TPU v4 and v5p, whose chips have two cores that compute as
one, the names of machines count cores: v4-128 is 64 devices.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qsim.config import ConfigError
from qsim.memory import GIB


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One device.

    kind: a pattern of what JAX calls it.  memory: bytes.  tflops: 10^12 bfloat16 operations a second.  cores: by
    which machines are named.  of_host: most devices that one computer has.  shapes: of machines, in chips, as the
    compiler's names of topologies have them; none where it knows no machine.
    """

    name: str
    platform: Literal["tpu", "gpu"]
    kind: str
    memory: int
    tflops: float
    cores: int = 1
    of_host: int = 8
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Devices that machines of it have."""
        return tuple(range(1, 9)) if self.platform == "gpu" else tuple(map(math.prod, self.shapes))


_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16))
_SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4", platform="tpu", kind="TPU v4", memory=32 * GIB, tflops=275, cores=2, of_host=4, shapes=_CUBES
        ),
        Chip(name="v5e", platform="tpu", kind="TPU v5 ?(lite|e)", memory=16 * GIB, tflops=197, shapes=_SQUARES),
        Chip(
            name="v5p",
            platform="tpu",
            kind="TPU v5p?",
            memory=95 * 10**9,
            tflops=459,
            cores=2,
            of_host=4,
            shapes=_CUBES,
        ),
        Chip(name="v6e", platform="tpu", kind="TPU v6 ?(lite|e)", memory=32 * GIB, tflops=918, shapes=_SQUARES),
        Chip(name="a100", platform="gpu", kind="NVIDIA A100.*", memory=80 * 10**9, tflops=312),
        Chip(name="h100", platform="gpu", kind="NVIDIA H100.*", memory=80 * 10**9, tflops=989),
        Chip(name="h200", platform="gpu", kind="NVIDIA H200.*", memory=141 * 10**9, tflops=989),
        Chip(name="b200", platform="gpu", kind="NVIDIA B200.*", memory=180 * 10**9, tflops=2250),
    )
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """So many devices of a kind."""

    chip: Chip
    devices: int

    def __str__(self) -> str:
        return f"{self.chip.name}-{self.devices * self.chip.cores}"

    @property
    def topology(self) -> str | None:
        """``v4:4x4x4`` as the compiler's library names it, of GPUs computers by devices of each, ``h100:2x8``; None
        where there is no such machine."""
        if self.chip.platform == "gpu":
            computers = math.ceil(self.devices / self.chip.of_host)
            each, rest = divmod(self.devices, computers)
            return None if rest else f"{self.chip.name}:{computers}x{each}"
        for shape in self.chip.shapes:
            if math.prod(shape) == self.devices:
                return f"{self.chip.name}:{'x'.join(map(str, shape))}"
        return None


def check_present(machine: Machine, kinds: Sequence[str]) -> None:
    """ConfigError where the devices there are, by what JAX calls them, are not those of the machine."""
    chip = machine.chip
    if len(kinds) != machine.devices or not all(re.fullmatch(chip.kind, kind) for kind in kinds):
        found = ", ".join(f"{n} {kind}" for kind, n in Counter(kinds).items())
        raise ConfigError(
            f"machine {machine} is {machine.devices} of {chip.name} and JAX has {found}; start it "
            "there, or name the machine that this is"
        )


def parse_chip(name: str) -> Chip:
    """ConfigError, naming the known ones, for an unknown name."""
    if name not in CHIPS:
        raise ConfigError(f"unknown chip {name!r}; known: {', '.join(CHIPS)}")
    return CHIPS[name]


def parse_machine(text: str) -> Machine:
    """``v4-128``, 64 chips of TPU v4; ``h100-8``.  ConfigError for a machine that there is not."""
    found = re.fullmatch(r"([a-z]\w*)-([1-9]\d{0,5})", text)
    if found is None:
        raise ConfigError(f"machine {text!r} is none; name a chip and a number of devices, as in v4-128 or h100-8")
    chip = parse_chip(found[1])
    devices, rest = divmod(int(found[2]), chip.cores)
    if rest or devices not in chip.sizes:
        names = ", ".join(str(Machine(chip=chip, devices=n)) for n in chip.sizes)
        raise ConfigError(f"machine {text!r} is none; of {chip.name} there are {names}")
    return Machine(chip=chip, devices=devices)
