"""The order of a sum, from its outputs alone (FPRev, arXiv 2411.00442).

All terms are one unit, but +M at i and -M at j, M so large that units added to it are lost.  What is left counts the
units that met neither: leaves - count = l(i, j), the leaves below the addition where i and j meet.  From l the tree
follows.  An addition of many terms that aligns them to the largest loses the units beside M, and is one node of many
children; one that is exact keeps them, so that l(i, j) there counts the two children of i and j alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

START = -1  # the leaf that is c; products are 0, 1, 2 ...


class Node(NamedTuple):
    """One addition."""

    children: frozenset
    exact: bool = False  # of more than two terms, none lost


Tree = int | Node
Lost = dict[frozenset, int]


def node(children: Iterable[Tree], exact: bool = False) -> Tree:
    """One child alone is itself; two are added exactly in any case."""
    children = frozenset(children)
    return next(iter(children)) if len(children) == 1 else Node(children, exact and len(children) > 2)


class Scale(NamedTuple):
    """Factors of M and of a unit."""

    large: tuple[float, float]
    unit: tuple[float, float]

    @property
    def ratio(self) -> float:
        return self.large[0] * self.large[1] / (self.unit[0] * self.unit[1])


def probes(count: int, scale: Scale, kind: type) -> tuple[list[frozenset], np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of leaves; a (pairs, 1, count), b (pairs, count, 1), c (pairs, 1, 1)."""
    pairs = list(combinations(range(START, count), 2))
    leaves = np.arange(START, count)
    first, second = (leaves == np.array(chosen)[:, None] for chosen in zip(*pairs, strict=True))
    sign = np.where(second, -1, 1)
    large = first | second
    a = np.where(large, scale.large[0], scale.unit[0]) * sign
    b = np.where(large, scale.large[1], scale.unit[1])
    c = a[:, :1] * b[:, :1]
    start = np.int32 if kind is np.int8 else kind
    return (
        list(map(frozenset, pairs)),
        a[:, None, 1:].astype(kind),
        b[:, 1:, None].astype(kind),
        c[:, :, None].astype(start),
    )


def lost(
    matmul: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], count: int, scale: Scale, kind: type
) -> Lost:
    """l(i, j) of all pairs.  What rounding to odd leaves of M is a multiple of its last place, far above units."""
    pairs, *operands = probes(count, scale, kind)
    result = matmul(*operands).astype(np.float64).ravel() / (scale.unit[0] * scale.unit[1])
    units = np.mod(result, scale.ratio * 2.0**-24) if scale.ratio > 2.0**30 else result
    return {pair: count + 1 - int(left) for pair, left in zip(pairs, units.tolist(), strict=True)}


def tree(leaves: Sequence[int], between: Lost) -> Tree:
    """From the first leaf upwards: those that meet it at one place join it there."""
    first, *others = leaves
    size = {other: between[frozenset((first, other))] for other in others}
    found, reached = first, 1
    for place in sorted(set(size.values())):
        joining = [other for other in others if size[other] == place]
        exact = place == reached + 1
        parts = [[x] for x in joining] if exact else apart(joining, place, between)
        found = node([found, *(tree(part, between) for part in parts)], exact)
        reached += len(joining)
    return found


def apart(leaves: Sequence[int], place: int, between: Lost) -> list[list[int]]:
    """Leaves in one child of a node meet below it."""
    parts: list[list[int]] = []
    for leaf in leaves:
        home = next((part for part in parts if between[frozenset((leaf, part[0]))] < place), None)
        if home is None:
            parts.append([leaf])
        else:
            home.append(leaf)
    return parts


# Trees as definitions have them


def chain(blocks: Iterable[Sequence[Tree]], start: Tree | None = START, exact: bool = False) -> Tree:
    """s with each block in turn, one addition a block."""
    found = start
    for block in blocks:
        found = node([*([] if found is None else [found]), *block], exact)
    return found


def runs(leaves: Sequence[int], length: int) -> list[list[int]]:
    return [list(leaves[k : k + length]) for k in range(0, len(leaves), length)]


def neighbours(trees: Sequence[Tree]) -> Tree:
    """2i with 2i + 1 until one is left."""
    while len(trees) > 1:
        trees = [node(pair) for pair in runs(trees, 2)]
    return trees[0]
