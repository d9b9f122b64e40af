"""Functions that a traced program spells out and the project has whole: GELU."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
from jax.extend.core import Jaxpr, Literal

GELU = "erfc"  # by which it is found


@cache
def _gelu(shape: tuple[int, ...], dtype: Any) -> Jaxpr:
    """What jax.nn.gelu(x, approximate=False) traces to."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    return jax.make_jaxpr(partial(jax.nn.gelu, approximate=False))(x).jaxpr


def find_gelus(jaxpr: Jaxpr) -> dict[int, tuple[Any, Any, int]]:
    """Where jax.nn.gelu(x, approximate=False) stands in a jaxpr: first equation -> (x, result, how many).

    Its equations must follow one another in one scope, and nothing else may read what lies between.
    """
    found = {}
    for i, eqn in enumerate(jaxpr.eqns):
        if eqn.primitive.name != GELU:
            continue
        pattern = _gelu(eqn.outvars[0].aval.shape, eqn.outvars[0].aval.dtype)
        start = i - [e.primitive.name for e in pattern.eqns].index(GELU)
        window = jaxpr.eqns[max(start, 0) : start + len(pattern.eqns)]
        pairs = _matched(pattern, window)
        if pairs is not None and not _read_elsewhere(jaxpr, window, start):
            found[start] = (pairs[pattern.invars[0]], window[-1].outvars[0], len(window))
    return found


def _matched(pattern: Jaxpr, window: list[Any]) -> dict[Any, Any] | None:
    """Variables of the pattern -> of the window, where these are the same equations."""
    if len(window) != len(pattern.eqns) or len({str(e.source_info.name_stack) for e in window}) != 1:
        return None
    pairs: dict[Any, Any] = {}
    for ours, theirs in zip(pattern.eqns, window, strict=True):
        if ours.primitive is not theirs.primitive or ours.params != theirs.params:
            return None
        for a, b in zip([*ours.invars, *ours.outvars], [*theirs.invars, *theirs.outvars], strict=True):
            literals = isinstance(a, Literal) + isinstance(b, Literal)
            if literals == 1 or (a.val != b.val if literals else pairs.setdefault(a, b) is not b):
                return None
    return pairs


def _read_elsewhere(jaxpr: Jaxpr, window: list[Any], start: int) -> bool:
    """Whether a result of the window but the last is read outside it."""
    between = {v for e in window[:-1] for v in e.outvars}
    after = [v for e in jaxpr.eqns[start + len(window) :] for v in e.invars]
    return any(v in between for v in [*after, *jaxpr.outvars] if not isinstance(v, Literal))
