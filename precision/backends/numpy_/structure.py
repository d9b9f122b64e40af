"""What moves values without changing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

array_module = np


def asarray(x: Any) -> np.ndarray:
    """x as a float32 array."""
    return np.asarray(x, dtype=np.float32)


def scan(body: Callable, carry: Any, xs: Any, *, reverse: bool = False) -> tuple[Any, Any]:
    """``lax.scan`` as a loop: carry, y = body(carry, x) over the leading axis of every leaf of the dict xs.

    Returns the last carry and the dict of stacked y.
    """
    length = next(iter(xs.values())).shape[0]
    order = range(length - 1, -1, -1) if reverse else range(length)
    results: list[Any] = [None] * length
    for i in order:
        carry, results[i] = body(carry, {name: leaf[i] for name, leaf in xs.items()})
    return carry, _stack(results)


def _stack(results: list[Any]) -> Any:
    first = results[0]
    if isinstance(first, dict):
        return {key: _stack([result[key] for result in results]) for key in first}
    if isinstance(first, tuple):
        return tuple(_stack(list(parts)) for parts in zip(*results, strict=True))
    return None if first is None else np.stack(results)
