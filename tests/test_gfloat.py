"""The search oracle against gfloat, in every mode that both have; needs the optional extra ``peers``."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from bits_assertions import assert_same_bits, same_nan
from block_cases import blocks
from block_oracle import MICROSCALING, searched_blocks
from format_oracle import P3109, standard
from format_search import searched
from strategies import doubles_near, generator

import precision as pr

gfloat = pytest.importorskip("gfloat", reason="gfloat is of the optional extra 'peers'")
formats = pytest.importorskip("gfloat.formats")

GFLOAT = {
    "fp16": "binary16",
    "bf16": "bfloat16",
    "e5m2": "ocp_e5m2",
    "e4m3fn": "ocp_e4m3",
    "e2m3": "ocp_e2m3",
    "e3m2": "ocp_e3m2",
    "e2m1": "ocp_e2m1",
}
GFLOAT_MODES = {
    "nearest_even": "TiesToEven",
    "nearest_away": "TiesToAway",
    "toward_zero": "TowardZero",
    "up": "TowardPositive",
    "down": "TowardNegative",
    "stochastic": "Stochastic",
}


def gfloat_format(name: str) -> Any:
    """The same format as gfloat describes it, from its own list or its P3109 constructor."""
    if name not in P3109:
        return getattr(formats, f"format_info_{GFLOAT[name]}")
    signed = gfloat.Signedness.Signed if name[-2] == "s" else gfloat.Signedness.Unsigned
    domain = gfloat.Domain.Extended if name[-1] == "e" else gfloat.Domain.Finite
    return formats.format_info_p3109(8, int(name[8]), signed, domain)


@pytest.mark.parametrize("name", [*GFLOAT, *P3109])
def test_every_mode_is_gfloat(name: str) -> None:
    """From float64, with 9 random bits; without saturation gfloat refuses what overflows a format of numbers only,
    and it leaves negative numbers into unsigned formats undefined."""
    info = gfloat_format(name)
    x = doubles_near(name, 8, 200).view(np.float64)
    x = np.abs(x) if name[-2] == "u" and name in P3109 else x
    random = generator(9).integers(0, 1 << 32, len(x), np.uint32)
    rules = ("saturate",) if standard(name).infinity is None and not standard(name).has_nan else ("ieee", "saturate")
    x = x if len(rules) > 1 else np.where(np.isnan(x), 0, x)
    for (mode, theirs), overflow in product(GFLOAT_MODES.items(), rules):
        ours = searched(x, name, mode, overflow=overflow, words=random, random_bits=9)
        how = (getattr(gfloat.RoundMode, theirs), overflow == "saturate")
        pairs = zip(x.tolist(), (random >> np.uint32(23)).tolist(), strict=True)
        values = [gfloat.round_float(info, v, *how, word, 9) for v, word in pairs]
        assert_same_bits(ours, same_nan(np.float32(values).view(np.uint32)), x)


@pytest.mark.parametrize("name", MICROSCALING)
def test_blocks_are_gfloat(name: str) -> None:
    """Whole blocks of numbers, by the rule of the specification, the only one that gfloat has."""
    info = getattr(formats, f"format_info_{'mxfp4_e2m1' if name == 'mxfp4' else name}")
    x = blocks(31, (60, 32))
    with np.errstate(over="ignore"):
        theirs = [gfloat.quantize_block(info, row.astype(np.float64), gfloat.compute_scale_amax) for row in x]
        expected = np.stack(theirs).astype(np.float32)
    assert_same_bits(searched_blocks(x, name)[2], expected, x)
    assert_same_bits(pr.round_to_blocks(x, name, backend="numpy"), expected, x)
