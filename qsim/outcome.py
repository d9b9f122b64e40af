"""What one training step did, as vectors that can be held against another's."""

from __future__ import annotations

from typing import Any

import numpy as np

State = dict[str, dict[str, Any]]


class Outcome:
    """Loss, gradients (unscaled) and the changes of all parameters of a step from one state to the next.

    gradients: float32; change: float64, exact differences of float32 values of like size.
    """

    def __init__(self, before: State, after: State, results: dict[str, Any]) -> None:
        self.loss, self.finite = float(results["loss"]), bool(results["finite"])
        self.norm = float(results["gradient_norm"])
        self.gradients = as_vector(results["gradients"])
        self.change = as_vector(after["parameters"]).astype(np.float64) - as_vector(before["parameters"])


def as_vector(tree: dict[str, Any]) -> np.ndarray:
    """All tensors in name order, flat, float32."""
    return np.concatenate([np.asarray(tree[name], np.float32).reshape(-1) for name in sorted(tree)])
