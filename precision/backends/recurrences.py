"""Sums one term after another, over an executor's rounded operations and its ``structure``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Operation = Callable[[Any, Any], Any]


def sequential(structure: Any, add: Operation, sub: Operation, terms: Any) -> Any:
    """s = x_0, then s + x_i for i ascending, over the first axis of at least one term."""
    del sub

    def step(total: Any, term: Any) -> tuple[Any, None]:
        return add(total, term), None

    return terms[0] if len(terms) == 1 else structure.scan(step, terms[0], terms[1:])[0]


def kahan(structure: Any, add: Operation, sub: Operation, terms: Any) -> Any:
    """As ``sequential``, each term less what the addition before it lost: y = x_i - c, t = s + y, c = (t - s) - y."""

    def step(carry: tuple[Any, Any], term: Any) -> tuple[tuple[Any, Any], None]:
        total, lost = carry
        corrected = sub(term, lost)
        following = add(total, corrected)
        return (following, sub(sub(following, total), corrected)), None

    start = (terms[0], structure.array_module.zeros_like(terms[0]))
    return terms[0] if len(terms) == 1 else structure.scan(step, start, terms[1:])[0][0]


RECURRENCES = {"sequential": sequential, "kahan": kahan}
