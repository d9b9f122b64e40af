"""A mesh of devices, as one is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qsim.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Devices along the axes ``data`` and ``model``."""

    data: int = 1
    model: int = 1

    @property
    def count(self) -> int:
        return self.data * self.model

    def __str__(self) -> str:
        return f"data={self.data},model={self.model}"


def parse_mesh(text: str) -> Mesh:
    """``data=4,model=2``, either one left out being 1.  ConfigError for anything else."""
    parts = [re.fullmatch(r"(data|model)=([1-9]\d{0,5})", part) for part in text.split(",")]
    found = {part[1]: int(part[2]) for part in parts if part}
    if len(found) != len(parts):
        raise ConfigError(f"mesh {text!r} is none; name numbers of devices, as in data=4,model=2")
    return Mesh(**found)
