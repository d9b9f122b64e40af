"""A copy of an array: what memory allows, the yardstick of the benchmarks, on a stated number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np
from numba import prange

from precision.backends.numba_.compilation import Kernel, kernel


@kernel
def _copy(x, out):  # type: ignore[no-untyped-def]
    for i in prange(x.size):
        out[i] = x[i]


def copy(x: np.ndarray, out: np.ndarray, *, parallel: bool) -> None:
    """out = x, both flat and contiguous."""
    _copy(x, out, work=Kernel.PARALLEL_FROM if parallel else 0)


def most_threads() -> int:
    return numba.config.NUMBA_NUM_THREADS


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Parallel kernels on so many threads, all of them by default, for the time of the block."""
    before = numba.get_num_threads()
    numba.set_num_threads(most_threads() if count is None else count)
    try:
        yield
    finally:
        numba.set_num_threads(before)
