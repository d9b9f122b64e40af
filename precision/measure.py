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
    """What rounding x to a format does to its values, counted; arguments as in ``round_to``.

    Equation: each counter is the number of elements of x for which its sentence in ``Statistics`` holds of x and
    round_to(x, fmt, ...).
    Shapes: any, 0-d and empty among them.
    Domain: every pattern of float32 and of the narrower floats; not float64.
    Exactness: counters, histogram and extremes are exact and equal on every back end; ``signal`` and ``noise`` are
    float64 sums (see ``Statistics``).  Stochastic rounding takes the random words that ``round_to`` takes.
    Errors: as ``round_to``; TypeError for float64, and for a traced JAX array, whose values are not there to count;
    ValueError for 2^31 values and more in one JAX array.
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
    """``round_to(x, fmt, ...)``, bit for bit, and its ``Statistics``; Numba does both in one pass over x.

    Shapes: the array is as ``round_to`` returns it; ``out``, x itself or a view of it, takes it where given.
    Domain, exactness, errors: as ``round_to`` and ``statistics``.
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
