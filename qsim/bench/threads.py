"""How many threads Numba and NumPy's BLAS take, set to the same number, and which BLAS that is."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

BLAS_FACTS = ("internal_api", "version", "architecture")


def bandwidth() -> Any:
    """The module with the copy and the number of threads; importing it loads Numba."""
    return importlib.import_module("precision.backends.numba_.bandwidth")


def blas() -> dict[str, Any] | None:
    """Name, version and architecture of NumPy's BLAS; None where threadpoolctl is absent or does not know it."""
    control = _control()
    found = [] if control is None else [pool for pool in control.threadpool_info() if pool["user_api"] == "blas"]
    found.sort(key=lambda pool: "numpy" not in pool["filepath"])  # SciPy may bring another one
    return {fact: found[0].get(fact) for fact in BLAS_FACTS} if found else None


@contextmanager
def limited(count: int) -> Iterator[None]:
    """Numba's kernels and BLAS on so many threads for the time of the block; BLAS as it is where ``blas`` is None."""
    with ExitStack() as stack:
        stack.enter_context(bandwidth().threads(count))
        control = _control()
        if control is not None:
            stack.enter_context(control.threadpool_limits(count, user_api="blas"))
        yield


def _control() -> Any:
    np.ones((1, 1), np.float32) @ np.ones((1, 1), np.float32)  # a library not yet loaded is not found
    try:
        return importlib.import_module("threadpoolctl")
    except ImportError:
        return None
