"""The scales that gradients would have borne; the exponents themselves are tested with ``precision.binades``."""

from __future__ import annotations

from qsim.loss_scales import needed_scales
from qsim.policy import POLICIES


def test_by_tensor() -> None:
    """Each in the format of its own gradient; none where there is nothing but zeros."""
    policy = POLICIES["fp16"].override([("layer.1.qkv.wgrad", "bf16")])
    ends = {
        "logits.weight": None,
        "layer.1.qkv.weight": (1.0, 1.0),
        "layer.0.qkv.weight": (1.5, 2.0**-20),
    }
    assert needed_scales(policy, ends) == {
        "layer.0.qkv.weight": {"format": "fp16", "largest": 15, "smallest": -4},
        "layer.1.qkv.weight": {"format": "bf16", "largest": 127, "smallest": -133},
        "logits.weight": {"format": "fp16", "largest": None, "smallest": None},
    }
