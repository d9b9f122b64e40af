"""Keys of the roundings that draw: outputs of sites, and parameters as they are written back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from precision.random_bits import as_key, fold_in, fold_name
from qsim.arithmetic import Arithmetic
from qsim.site_policy import WHOLE_MODEL_SITES

OUTPUT = ".output"
WRITE_BACK = "write_back."


def output_keys(policy: Arithmetic, layers: int, seed: int, step: int) -> dict[str, np.ndarray]:
    """By ``site.pass.output``: (layers, 2) uint32, or (2,) of sites that the model has once.

    fold_in(fold_in(fold_name(seed, "output.site.pass"), step), layer).  The n-th rounding of a site in a layer draws
    from the n-th child of its key, each element by its row-major index.
    """
    keys = {}
    drawing = {(site, p) for _, site, p, row in policy.rows() if row.rounding == "stochastic"}
    for site, direction in sorted(drawing):
        base = fold_in(fold_name(as_key(seed), f"output.{site}.{direction}"), step)
        once = site in WHOLE_MODEL_SITES
        words = base if once else [fold_in(base, layer) for layer in range(layers)]
        keys[f"{site}.{direction}{OUTPUT}"] = np.array(words, np.uint32)
    return keys


def write_back_keys(policy: Arithmetic, names: Iterable[str], seed: int, step: int) -> dict[str, np.ndarray]:
    """By ``write_back.NAME`` of a parameter, (2,) uint32.

    fold_in(fold_in(fold_name(seed, "write_back.NAME"), step), 0).
    Element i of the parameter, row-major over the whole of it, blocks stacked, draws word i of the stream.
    """
    if policy.stages.write_back.rounding != "stochastic":
        return {}
    named = ((f"{WRITE_BACK}{name}", fold_name(as_key(seed), f"{WRITE_BACK}{name}")) for name in names)
    return {name: np.array(fold_in(fold_in(key, step), 0), np.uint32) for name, key in named}


def for_calculator(keys: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(those of outputs and of the write-back, the rest)."""
    given = keys or {}
    own = {name: key for name, key in given.items() if name.endswith(OUTPUT) or name.startswith(WRITE_BACK)}
    return own, {name: key for name, key in given.items() if name not in own} or None


def in_layers(keys: dict[str, Any]) -> dict[str, Any]:
    """Those of outputs that every layer has its own of."""
    return {name: key for name, key in keys.items() if name.endswith(OUTPUT) and key.ndim == 2}
