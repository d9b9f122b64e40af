"""What gradients would lose, tensor by tensor; the counts themselves are tested with ``precision.binades``."""

from __future__ import annotations

import numpy as np

from precision.binades import Binades
from qsim.what_if import what_if


def test_by_tensor() -> None:
    """Zeros and what is not finite stand aside; scales that lose nothing are left out."""
    tensors = {
        "logits.bias": np.zeros(2, np.float32),
        "layer.0.qkv.weight": np.float32([0.0, 2.0**-25, -1.5 * 2.0**-25]),
        "layer.1.qkv.weight": np.float32([np.inf, np.nan, 65520.0]),
    }
    tables = {name: Binades.of(g).significands for name, g in tensors.items()}
    found = what_if({name: g.size for name, g in tensors.items()}, tables)
    assert list(found) == ["layer.0.qkv.weight", "layer.1.qkv.weight", "logits.bias"]
    first, second, zeros = found.values()
    assert (first["count"], first["finite"], second["count"], second["finite"]) == (3, 2, 3, 1)
    tiny = {str(k): 2 for k in range(-8, 0)} | {"0": 1}
    assert first["formats"]["fp16"] == {"underflowed": tiny, "overflowed": {}}
    assert second["formats"]["fp16"] == {"underflowed": {}, "overflowed": {str(k): 1 for k in range(25)}}
    nothing = {"underflowed": {}, "overflowed": {}}
    assert zeros == {"count": 2, "finite": 0, "formats": dict.fromkeys(("fp16", "bf16", "e5m2", "e4m3fn"), nothing)}
