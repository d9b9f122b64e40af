"""Which loss scales a step's gradients would have borne, tensor by tensor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from precision.format import Format
from precision.formats import parse_format
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
        magnitude = np.abs(g[np.isfinite(g) & (g != 0)])
        fmt = format_of(policy, name)
        ends = (float(magnitude.max()), float(magnitude.min())) if magnitude.size else None
        scales[name] = {
            "format": fmt.name,
            "largest": ends and largest_exponent(ends[0], fmt),
            "smallest": ends and smallest_exponent(ends[1], fmt),
        }
    return scales


def format_of(policy: Arithmetic, name: str) -> Format:
    """What a parameter's gradient is rounded to: ``layer.3.qkv.weight`` by qkv.wgrad of layer 3."""
    parts = name.split(".")
    layer, site = (int(parts[1]), parts[2]) if parts[0] == "layer" else (None, parts[0])
    return parse_format(policy.site(site, "wgrad", layer).output)


def largest_exponent(x: float, fmt: Format) -> int:
    """Largest k for which x 2^k, rounded to nearest even as if exponents had no end, is at most the maximum."""
    limit, exponent, tie_stays = overflow_threshold(fmt)
    significand, own = math.frexp(x)
    fits = significand <= limit if tie_stays else significand < limit
    return exponent - own - (not fits)


def overflow_threshold(fmt: Format) -> tuple[float, int, bool]:
    """(s, e, whether s 2^e itself still fits): the tie above the largest finite value, 1/2 <= s < 1."""
    _, top = math.frexp(fmt.maximum)
    half_unit = math.ldexp(1.0, top - 1 - fmt.significand_bits - 1)
    limit, exponent = math.frexp(fmt.maximum + half_unit)
    tie_stays = int(math.ldexp(fmt.maximum, fmt.significand_bits + 1 - top)) % 2 == 0  # an even significand
    return limit, exponent, tie_stays


def smallest_exponent(x: float, fmt: Format) -> int:
    """Smallest k for which x 2^k lies above half of the smallest positive value; half itself rounds to zero."""
    significand, own = math.frexp(x)
    _, half = math.frexp(fmt.min_subnormal / 2)  # 2^(half - 1)
    return half - own + (significand == 0.5)
