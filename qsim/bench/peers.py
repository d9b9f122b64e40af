"""Other libraries that round float32 arrays, as contenders: at their best settings, where they are installed."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata

import numpy as np

from precision import parse_format
from qsim.bench.measurement import Comparison, Contender

GFLOAT_NAMES = {"fp16": "binary16", "bf16": "bfloat16", "e4m3fn": "ocp_e4m3"}
PYCHOP_CHUNK = 1 << 17  # on two cores the fastest of its chunk sizes, from 800 (its default) to 2^20

Rounding = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A library by the name of its package, and how it rounds to a format to nearest even.

    Fields
        formats: those of the benchmark that it has (pychop knows only formats with infinities).
        most_values: what it is given of a longer array, so that it is done in a second; rates per value are compared.
    """

    package: str
    function: str
    formats: tuple[str, ...]
    rounding: Callable[[str], Rounding]
    most_values: int

    def version(self) -> str | None:
        """None where it is not installed."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None

    def contenders(self, x: np.ndarray, reference: str) -> Iterator[Contender]:
        """One a format, its speed compared with the contender ``reference``."""
        given = x[: self.most_values]
        for name in self.formats:
            yield Contender(
                name=f"{self.function} ({self.package})",
                call=partial(_quietly, self.rounding(name), given),
                values=given.size,
                format=name,
                comparison=Comparison(quantity="speed", other=reference),
                claims_nearest=True,
            )


def _quietly(rounding: Rounding, values: np.ndarray) -> np.ndarray:
    """Overflow to infinity is what is asked for, not something to warn of."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return rounding(values)


def _ml_dtypes(name: str) -> Rounding:
    dtype = parse_format(name).dtype
    return lambda x: x.astype(dtype).astype(np.float32)


def _gfloat(name: str) -> Rounding:
    format_info = getattr(importlib.import_module("gfloat.formats"), f"format_info_{GFLOAT_NAMES[name]}")
    return partial(importlib.import_module("gfloat").round_ndarray, format_info)


def _pychop(name: str) -> Rounding:
    fmt, pychop = parse_format(name), importlib.import_module("pychop")
    return pychop.Chop(exp_bits=fmt.exponent_bits, sig_bits=fmt.significand_bits, chunk_size=PYCHOP_CHUNK)


PEERS = (
    Peer(
        package="ml_dtypes",
        function="astype",
        formats=("fp16", "bf16", "e4m3fn"),
        rounding=_ml_dtypes,
        most_values=1 << 24,
    ),
    Peer(
        package="gfloat",
        function="round_ndarray",
        formats=tuple(GFLOAT_NAMES),
        rounding=_gfloat,
        most_values=1 << 20,
    ),
    Peer(package="pychop", function="Chop", formats=("fp16", "bf16"), rounding=_pychop, most_values=1 << 20),
)
