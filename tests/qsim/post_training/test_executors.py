"""The same bits on every back end, compiled and not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bits_assertions import assert_same_bits
from quantized_models import logits, quantized, small_model

SCHEMES: dict[str, dict[str, Any]] = {
    "int8_vectorwise": {"dequantize_to": "fp16", "kv": "int8", "sites": ("qkv", "mlp_up", "mlp_down", "logits")},
    "int8_tensorwise": {"static": True, "alpha": 0.5},
    "int4_columnwise_weight_only": {},
    "llm_int8": {},
    "smoothquant": {},
    "bnb_cuda": {},
    "aqt": {},
    "int4_group8_vectorwise": {},
}


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("executor", ["numba", "jax"])
def test_bits_are_the_same(tmp_path: Path, scheme: str, executor: str) -> None:
    model = quantized(small_model(tmp_path, "llama"), scheme, **SCHEMES[scheme])
    assert_same_bits(logits(model, executor=executor), logits(model))
