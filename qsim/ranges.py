"""What values would lose in any format at any power-of-two scale, from counts per binade, without running again.

Underflow: nonzero and rounded, to nearest even, to zero.  Overflow: rounded as if exponents had no end, beyond the
largest finite value.  Both are exact (``precision.binades``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

import precision as pr
from precision.binades import Binades, tells
from precision.format import Format
from precision.statistics import Statistics
from qsim import strict_json
from qsim.config import ConfigError
from qsim.report.recorded import parse_site
from qsim.runs import RunError, RunFolder

GRADIENTS = ("dgrad", "wgrad")


@dataclass(frozen=True, kw_only=True)
class Window:
    """Scales 2^k at which nothing is lost: low <= k <= high, both None where there is none.

    best: the k that loses the fewest values, the smallest of those; lost: how many it loses.
    """

    low: int | None
    high: int | None
    best: int
    lost: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """Values of one place.

    name: of a site and pass, or of a tensor.  scaled: whether a loss scale multiplies them.  tables: their counts,
    each with the k of the loss scale 2^k they were recorded under.
    """

    name: str
    scaled: bool
    tables: tuple[tuple[Binades, int], ...]

    @cached_property
    def finite(self) -> int:
        """Nonzero finite values."""
        return sum(int(binades.total.sum()) for binades, _ in self.tables)

    def underflowed(self, fmt: Format, scales: np.ndarray) -> np.ndarray:
        """Counts by k, (K,) -> (K,), under a loss scale 2^k in place of the recorded one."""
        return np.asarray(sum(binades.underflowed(fmt, scales - own) for binades, own in self.tables))

    def overflowed(self, fmt: Format, scales: np.ndarray) -> np.ndarray:
        return np.asarray(sum(binades.overflowed(fmt, scales - own) for binades, own in self.tables))

    def window(self, fmt: Format, scales: np.ndarray) -> Window:
        """Within these k, ascending."""
        lost = self.underflowed(fmt, scales) + self.overflowed(fmt, scales)
        free = scales[lost == 0]
        best = int(np.argmin(lost))
        return Window(
            low=int(free[0]) if free.size else None,
            high=int(free[-1]) if free.size else None,
            best=int(scales[best]),
            lost=int(lost[best]),
        )


def joined(name: str, sources: Sequence[Source]) -> Source:
    """All values of several places."""
    tables = tuple(table for source in sources for table in source.tables)
    return Source(name=name, scaled=any(source.scaled for source in sources), tables=tables)


def offered() -> dict[str, Format]:
    """The registered formats of which counts per binade tell all."""
    return {name: fmt for name, fmt in pr.FORMATS.items() if tells(fmt)}


def read_sources(path: Path, *, step: int | None = None, pattern: str = "*") -> list[Source]:
    """Of a run folder (every step of which it kept statistics, or one), a .safetensors or an .npy file.

    pattern: as in ``fnmatch``, of ``layer.N.site.pass``, ``site.pass`` or the tensor's name.
    Errors: RunError for a file that cannot be read, ConfigError where nothing matches.
    """
    if path.is_dir():
        found = _of_run(RunFolder.open(path), step)
    elif step is not None:
        raise ConfigError(f"--step is of a run, and {str(path)!r} is a file; leave it out")
    else:
        found = [_of_array(name, array) for name, array in _arrays(path)]
    chosen = [source for source in found if fnmatchcase(source.name, pattern)]
    if not chosen:
        known = f"; names are like {found[0].name}" if found else ""
        raise ConfigError(f"{pattern!r} matches nothing of {str(path)!r}{known}")
    return chosen


# A run


def _of_run(run: RunFolder, step: int | None) -> list[Source]:
    scales = {row["step"]: row["loss_scale"] for row in run.rows("metrics.jsonl") if "loss_scale" in row}
    tables: dict[str, list[tuple[Binades, int]]] = {}
    steps = []
    for path in sorted((run.path / "statistics").glob("step_*.json")):
        file = _read(path)
        steps.append(file["step"])
        if step in (None, file["step"]):
            for key, record in file["sites"].items():
                tables.setdefault(key, []).append((_binades(path, record), _exponent(key, scales, file["step"])))
    if not tables:
        kept = f"it kept those of steps {steps}" if steps else "train with --record.statistics_every 10"
        raise RunError(f"run {str(run.path)!r} has no statistics of {_what(step)}; {kept}")
    return [Source(name=key, scaled=_scaled(key), tables=tuple(found)) for key, found in tables.items()]


def _what(step: int | None) -> str:
    return "any step" if step is None else f"step {step}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return strict_json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RunError(f"{str(path)!r} is damaged ({error}); restore it or delete it") from None


def _binades(path: Path, record: Mapping[str, Any]) -> Binades:
    if "significands" not in record:
        raise RunError(f"{str(path)!r} was written before significands were counted; train the run again")
    return Binades(significands=Statistics.from_json(record).significands)


def _scaled(key: str) -> bool:
    return parse_site(key)[2] in GRADIENTS


def _exponent(key: str, scales: Mapping[int, float], step: int) -> int:
    """log2 of the loss scale that was in these values."""
    return round(math.log2(scales.get(step, 1.0))) if _scaled(key) else 0


# Files


def _of_array(name: str, array: np.ndarray) -> Source:
    return Source(name=name, scaled=True, tables=((Binades.of(array), 0),))


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Float tensors as float32, which holds those of 16 bits and fewer exactly."""
    if path.suffix not in (".npy", ".safetensors"):
        raise RunError(f"{str(path)!r} is no run folder, .npy or .safetensors file; name one of these")
    try:
        if path.suffix == ".npy":
            yield path.stem, _float32(path.stem, np.load(path, allow_pickle=False))
            return
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, _float32(name, file.get_tensor(name))
    except (OSError, EOFError, SafetensorError) as error:
        raise RunError(f"{str(path)!r} cannot be read ({error}); restore it") from None
    except ValueError as error:
        raise RunError(f"{str(path)!r}: {error}") from None


def _float32(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype == np.float32:
        return array
    fmt = pr.parse_format(array.dtype)  # ValueError for what is no number format
    if fmt.bits > 32 or fmt.is_integer:
        raise ValueError(f"tensor {name!r} is of {array.dtype}; give floats of at most 32 bits")
    return array.astype(np.float32)
