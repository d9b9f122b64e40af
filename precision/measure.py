"""``statistics`` and ``round_with_statistics``: rounding and everything counted about it, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.backends import choose_backend
from precision.format import Format
from precision.formats import parse_format
from precision.rounding import as_float32, check_out, refuse_nan, stream
from precision.rounding_modes import Mode, Overflow, Subnormals, rounding_of
from precision.statistics import Statistics


def statistics(
    x: Any,
    fmt: str | Format,
    *,
    rounding: Mode = "nearest_even",
    subnormals: Subnormals = "keep",
    overflow: Overflow = "ieee",
    key: Any = None,
    counter: Any = 0,
    random_bits: int = 24,
    backend: str | None = None,
) -> Statistics:
    """Statistics of rounding x to a format; arguments as in ``round_to``.

    Shapes: float32 carriers of any shape.  Exactness: counters, histogram and extremes are exact and equal on every
    back end; ``signal`` and ``noise`` are float64 sums (see ``Statistics``).
    Errors: as ``round_to``; TypeError for float64, and for a traced JAX array: use ``round_with_statistics`` eagerly.
    """
    return round_with_statistics(
        x, fmt, rounding=rounding, subnormals=subnormals, overflow=overflow, key=key, counter=counter,
        random_bits=random_bits, backend=backend,
    )[1]  # fmt: skip


def round_with_statistics(
    x: Any,
    fmt: str | Format,
    *,
    rounding: Mode = "nearest_even",
    subnormals: Subnormals = "keep",
    overflow: Overflow = "ieee",
    key: Any = None,
    counter: Any = 0,
    random_bits: int = 24,
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> tuple[Any, Statistics]:
    """``round_to(x, fmt, ...)`` and its ``Statistics``, in one pass over x.

    Shapes, domain, exactness, errors: as ``round_to`` and ``statistics``.
    """
    fmt = parse_format(fmt)
    how = rounding_of(rounding, overflow, subnormals, random_bits)
    module = choose_backend(x, backend=backend)
    x = as_float32(module, x)
    refuse_nan(x, fmt)
    if out is not None:
        check_out(out, x)
    rounded, tally = module.tally(x, fmt, how, stream(how, key, counter), *([] if out is None else [out]))
    return rounded, Statistics.from_tally(fmt, x.size, tally)
