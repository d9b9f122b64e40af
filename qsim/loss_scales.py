"""Which loss scales a step's gradients would have borne, tensor by tensor."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.binades import largest_exponent, smallest_exponent
from precision.format import Format
from precision.formats import parse_format
from precision.statistics import INFINITY
from qsim.arithmetic import Arithmetic
from qsim.hashing import unstack


def needed_scales(policy: Arithmetic, gradients: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By tensor, blocks unstacked: ``largest`` k for which no finite g 2^k overflows, and ``smallest`` for which no
    nonzero one underflows to zero, rounded to nearest even in ``format``, that of the tensor's weight gradient.

    gradients: unscaled.  Where smallest > largest no one scale serves the tensor; both are None where it is all zero.
    Exactness: from the largest and the smallest magnitude, as significand and exponent.
    """
    scales = {}
    for name, g in sorted(unstack(gradients).items()):
        fmt = format_of(policy, name)
        ends = _ends(g)
        scales[name] = {
            "format": fmt.name,
            "largest": ends and largest_exponent(ends[0], fmt),
            "smallest": ends and smallest_exponent(ends[1], fmt),
        }
    return scales


def _ends(x: np.ndarray) -> tuple[float, float] | None:
    """Largest and smallest nonzero finite magnitude, by their patterns, which are in the order of the numbers."""
    magnitude = np.ascontiguousarray(x, np.float32).view(np.uint32) & np.uint32(0x7FFFFFFF)
    largest = np.where(magnitude < INFINITY, magnitude, 0).max(initial=0)
    if largest == 0:
        return None
    smallest = (magnitude - np.uint32(1)).min() + np.uint32(1)  # zero, less one, is the largest word
    return float(largest.view(np.float32)), float(smallest.view(np.float32))


def format_of(policy: Arithmetic, name: str) -> Format:
    """What a parameter's gradient is rounded to: ``layer.3.qkv.weight`` by qkv.wgrad of layer 3."""
    parts = name.split(".")
    layer, site = (int(parts[1]), parts[2]) if parts[0] == "layer" else (None, parts[0])
    return parse_format(policy.site(site, "wgrad", layer).output)
