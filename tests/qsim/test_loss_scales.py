"""The scales that gradients would have borne; the exponents themselves are tested with ``precision.binades``."""

from __future__ import annotations

import numpy as np

from qsim.loss_scales import needed_scales
from qsim.policy import POLICIES


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
