"""Stacked layers cut and joined along their leading axis, leaf by leaf of nested dicts and tuples."""

from __future__ import annotations

from itertools import pairwise
from typing import Any


def length_of(tree: Any) -> int:
    """Length of the leading axis that all leaves share."""
    while isinstance(tree, dict):
        tree = next(iter(tree.values()))
    return tree.shape[0]


def sliced(tree: Any, first: int, last: int) -> Any:
    """Layers first ... last - 1 of every leaf."""
    if isinstance(tree, dict):
        return {key: sliced(leaf, first, last) for key, leaf in tree.items()}
    return tree[first:last]


def with_axis(tree: Any) -> Any:
    """Every leaf as one layer."""
    return {key: with_axis(leaf) for key, leaf in tree.items()} if isinstance(tree, dict) else tree[None]


def joined(xp: Any, parts: list[Any]) -> Any:
    """The trees laid end to end; None stays None."""
    first = parts[0]
    if isinstance(first, dict):
        return {key: joined(xp, [part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(joined(xp, list(leaves)) for leaves in zip(*parts, strict=True))
    return None if first is None else xp.concatenate(parts)


def apart(segments: list[tuple[int, int]], single: set[int]) -> list[tuple[int, int]]:
    """The segments (first, last + 1) cut so that each of the layers in ``single`` is one by itself."""
    cuts = sorted({edge for segment in segments for edge in segment} | single | {layer + 1 for layer in single})
    bounds = [cut for cut in cuts if segments[0][0] <= cut <= segments[-1][1]]
    return list(pairwise(bounds))
