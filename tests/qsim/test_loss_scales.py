"""The scales that gradients would have borne, against rounding itself."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from precision.backends import get_backend
from precision.formats import BF16, E4M3FN, E5M2, FP16, Format
from qsim.loss_scales import largest_exponent, needed_scales, smallest_exponent
from qsim.policy import POLICIES

FORMATS = (FP16, BF16, E5M2, E4M3FN)
POSITIVE = st.integers(1, 0x7F7FFFFF)


def rounded(x: float, exponent: int, fmt: Format) -> float:
    """x 2^exponent rounded; beyond float64's range it has overflowed, or is zero, in any of the formats."""
    value = Fraction(x) * Fraction(2) ** exponent
    if value >= Fraction(2) ** 200 or value <= Fraction(2) ** -200:
        return float("inf") if value > 1 else 0.0
    return float(get_backend("numpy").round_to(np.array([float(value)]), fmt)[0])


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@given(pattern=POSITIVE)
@example(pattern=0x477FE000)  # 65504
@example(pattern=0x477FEFFF)
@example(pattern=0x477FF000)  # 65520, a tie
@example(pattern=0x43E80000)  # 464, the tie above e4m3fn's 448
@example(pattern=0x3F800000)
@example(pattern=0x00000001)
def test_largest_and_smallest_by_rounding(fmt: Format, pattern: int) -> None:
    x = float(np.uint32(pattern).view(np.float32))
    largest, smallest = largest_exponent(x, fmt), smallest_exponent(x, fmt)
    assert np.isfinite(rounded(x, largest, fmt))
    assert not np.isfinite(rounded(x, largest + 1, fmt))
    assert rounded(x, smallest, fmt) > 0
    assert rounded(x, smallest - 1, fmt) == 0


def test_by_tensor() -> None:
    """Blocks layer by layer; zeros and what is not finite stand aside; each in the format of its own gradient."""
    policy = POLICIES["fp16"].override([("layer.1.qkv.wgrad", "bf16")])
    qkv = np.array([[0, 2.0**-20, -1.5], [np.inf, 1, 1]], np.float32)
    scales = needed_scales(policy, {"blocks.qkv.weight": qkv, "logits.weight": np.zeros((2, 2), np.float32)})
    assert scales == {
        "layer.0.qkv.weight": {"format": "fp16", "largest": 15, "smallest": -4},
        "layer.1.qkv.weight": {"format": "bf16", "largest": 127, "smallest": -133},
        "logits.weight": {"format": "fp16", "largest": None, "smallest": None},
    }
