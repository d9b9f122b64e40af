"""Which loss scales a step's gradients would have borne, tensor by tensor."""

from __future__ import annotations

from typing import Any

from precision.binades import largest_exponent, smallest_exponent
from precision.format import Format
from precision.formats import parse_format
from qsim.arithmetic import Arithmetic


def needed_scales(policy: Arithmetic, ends: dict[str, tuple[float, float] | None]) -> dict[str, dict[str, Any]]:
    """By tensor: ``largest`` k for which no finite g 2^k overflows, and ``smallest`` for which no nonzero one
    underflows to zero, rounded to nearest even in ``format``, that of the tensor's weight gradient.

    ends: largest and smallest nonzero finite magnitude of unscaled gradients; None where there is none, and both are
    None then.  Where smallest > largest no one scale serves the tensor.
    Exactness: from significand and exponent.
    """
    scales = {}
    for name, found in sorted(ends.items()):
        fmt = format_of(policy, name)
        scales[name] = {
            "format": fmt.name,
            "largest": found and largest_exponent(found[0], fmt),
            "smallest": found and smallest_exponent(found[1], fmt),
        }
    return scales


def format_of(policy: Arithmetic, name: str) -> Format:
    """What a parameter's gradient is rounded to: ``layer.3.qkv.weight`` by qkv.wgrad of layer 3."""
    parts = name.split(".")
    layer, site = (int(parts[1]), parts[2]) if parts[0] == "layer" else (None, parts[0])
    return parse_format(policy.site(site, "wgrad", layer).output)
