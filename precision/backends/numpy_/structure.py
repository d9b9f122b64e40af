"""What moves values without changing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

array_module = np


def asarray(x: Any) -> np.ndarray:
    """x as a float32 array."""
    return np.asarray(x, dtype=np.float32)


def jit(function: Callable, donated: tuple[int, ...] = ()) -> Callable:
    """The function itself: nothing is compiled ahead."""
    del donated
    return function


def without_derivative(x: Any, sentence: str) -> Any:
    """x: nothing differentiates NumPy arrays."""
    del sentence
    return x


def computed_once(x: Any) -> Any:
    """x, which nothing computes again here."""
    return x


def join(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Two observations of one name as one: counts add."""
    return tuple(p + q for p, q in zip(a, b, strict=True))


def join_all(stacked: tuple[Any, ...]) -> tuple[Any, ...]:
    """Observations along a first axis, or stacks of them, as one."""
    return tuple(part.sum(axis=0) for part in stacked)


def addable(counts: Any) -> Any:
    """Counts as they are: of 64 bits, they add."""
    return counts


def count(observed: dict[str, Any], formats: dict[str, Any]) -> dict[str, Any]:
    """(number of values, event counts, exponent histogram) by name: what ``observe`` has counted already."""
    del formats
    return observed


def differentiable(name: str, function: Callable) -> Callable:
    """The function itself: NumPy arrays have no derivatives."""
    del name
    return function


def scan(body: Callable, carry: Any, xs: Any, *, reverse: bool = False) -> tuple[Any, Any]:
    """``lax.scan`` as a loop: carry, y = body(carry, x) over the leading axis of every leaf of the nested dict xs.

    Returns the last carry and the y, stacked leaf by leaf.
    """
    length = _first_leaf(xs).shape[0]
    order = range(length - 1, -1, -1) if reverse else range(length)
    results: list[Any] = [None] * length
    for i in order:
        carry, results[i] = body(carry, _slice(xs, i))
    return carry, _stack(results)


def _first_leaf(tree: Any) -> Any:
    while isinstance(tree, dict):
        tree = next(iter(tree.values()))
    return tree


def _slice(tree: Any, i: int) -> Any:
    return {key: _slice(leaf, i) for key, leaf in tree.items()} if isinstance(tree, dict) else tree[i]


def _stack(results: list[Any]) -> Any:
    first = results[0]
    if isinstance(first, dict):
        return {key: _stack([result[key] for result in results]) for key in first}
    if isinstance(first, tuple):
        return tuple(_stack(list(parts)) for parts in zip(*results, strict=True))
    if first is None:
        return None
    return np.asarray(first)[None] if len(results) == 1 else np.stack(results)


def repeat(count: int, body: Callable, state: Any) -> Any:
    """state = body(i, state) for i in 0 ... count - 1."""
    for i in range(int(count)):
        state = body(i, state)
    return state


def branch(condition: Any, yes: Callable, no: Callable, *operands: Any) -> Any:
    """yes(*operands) where the condition holds, else no(*operands)."""
    return yes(*operands) if condition else no(*operands)


def fused_quantizer(scheme: Any, tiles: Any) -> None:
    """A function of x that gives codes and scales in one pass, where there is one: here the steps are composed."""
    del scheme, tiles


def fused_dequantizer(tiles: Any) -> None:
    """A function of codes and scales that multiplies them in one pass, where there is one."""
    del tiles


def fused_scaler() -> None:
    """A function of sums and both scales that multiplies them in one pass, in place, where there is one."""


def fused_layer(name: str) -> None:
    """A function of (words, composed, *operands, sizes): the results of composed(*operands) by one kernel."""
    del name
