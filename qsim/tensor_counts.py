"""What a step counts of its gradients and updates, where they lie: no tensor leaves its devices for it.

By parameter, blocks one row a layer (L, ...), everything else one row: integers that are of all devices.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from precision.formats import FP32
from precision.statistics import INFINITY, whole
from qsim.config import OptimizerConfig
from qsim.hashing import BLOCKS, by_layer
from qsim.sites import Calculator
from qsim.swallowed import Update, count_updates

Array = Any
Tree = dict[str, Array]


def count_tensors(ar: Calculator, config: OptimizerConfig, update: Update, gradients: Tree) -> dict[str, Tree]:
    """``binades``: table (L, 277, 24) of significands of a gradient, as in ``precision.binades``.  ``ends``: (L, 2),
    see ``_ends``.  ``updates``: see ``qsim.swallowed.count_updates``.

    ar: without a recorder.  Inside a computation on several devices, of their parts; counts as ``addable`` has them.
    """
    rows = {name: _rows(name, g) for name, g in gradients.items()}
    return {
        "binades": {name: ar.shards.total(name, _table(ar, g)) for name, g in rows.items()},
        "ends": {name: ar.shards.largest_word(name, _ends(ar.xp, g)) for name, g in rows.items()},
        "updates": {
            name: ar.shards.total(name, ar.backend.addable(counts))
            for name, counts in count_updates(ar, config, update, _rows).items()
        },
    }


def _rows(name: str, x: Array) -> Array:
    """(L, ...) of blocks, (1, ...) of what is no block."""
    return x if name.startswith(BLOCKS) else x[None]


def _table(ar: Calculator, rows: Array) -> Array:
    def body(carry: Any, row: Array) -> tuple[Any, Array]:
        return carry, ar.backend.statistics(row["row"], row["row"], FP32)[1]

    return ar.backend.addable(ar.backend.scan(body, (), {"row": rows})[1])


def _ends(xp: Any, rows: Array) -> Array:
    """(L, 2) uint32: pattern of the largest finite magnitude, and ~(p - 1) of the smallest nonzero one's p.

    Both are maxima of words.  Zero, less one, is the largest word, so that none but zeros give ~0xFFFFFFFF = 0.
    """
    magnitude, inside = rows.view(np.uint32) & np.uint32(0x7FFFFFFF), tuple(range(1, rows.ndim))
    finite = xp.where(magnitude < np.uint32(INFINITY), magnitude, np.uint32(0))
    return xp.stack([finite.max(axis=inside), (~(finite - np.uint32(1))).max(axis=inside)], axis=1)


# On the host


def sizes(tree: Tree) -> dict[str, int]:
    """Elements by tensor."""
    shapes = {name: x.shape if name.startswith(BLOCKS) else (1, *x.shape) for name, x in tree.items()}
    return {key: n for name, (rows, *rest) in shapes.items() for key, n in by_layer(name, [math.prod(rest)] * rows)}


def tables(counts: dict[str, Tree]) -> dict[str, np.ndarray]:
    """(277, 24) int64 by tensor."""
    return {key: table for name, x in counts["binades"].items() for key, table in by_layer(name, whole(x, 3))}


def ends(counts: dict[str, Tree]) -> dict[str, tuple[float, float] | None]:
    """Largest and smallest nonzero finite magnitude by tensor; None where there is none."""
    found = {key: pair for name, x in counts["ends"].items() for key, pair in by_layer(name, np.asarray(x))}
    return {key: _values(*pair) for key, pair in found.items()}


def _values(largest: np.uint32, below_smallest: np.uint32) -> tuple[float, float] | None:
    if largest == 0:
        return None
    smallest = np.bitwise_not(below_smallest) + np.uint32(1)
    return float(largest.view(np.float32)), float(smallest.view(np.float32))


def updates(counts: dict[str, Tree]) -> dict[str, np.ndarray]:
    """(7,) int64 by tensor, in the order of ``qsim.swallowed.COUNTED``."""
    return {key: row for name, x in counts["updates"].items() for key, row in by_layer(name, whole(x, 2))}
