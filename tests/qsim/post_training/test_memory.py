"""Bytes by the formula, counted in arrays, and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from quantized_models import KINDS, quantized, small_model

from qsim.decoder_config import DecoderConfig
from qsim.post_training import PostTraining, QuantizedWeights, memory_by_formula, memory_held


@pytest.mark.parametrize("kind", [*KINDS, "llama, tied"])
@pytest.mark.parametrize(
    ("scheme", "fields"),
    [
        ("int8_vectorwise", {"sites": ("qkv", "logits")}),
        ("int8_tensorwise", {"static": True, "working": "fp32"}),
        ("int4_columnwise_weight_only", {}),
        ("smoothquant", {"working": "fp16"}),
        ("int4_group8_vectorwise", {}),
        (None, {"kv": "int8"}),
    ],
)
def test_formula_and_arrays_agree(tmp_path: Path, kind: str, scheme: str | None, fields: dict[str, Any]) -> None:
    model = quantized(small_model(tmp_path, kind), scheme, **fields)
    assert isinstance(model.weights, QuantizedWeights)
    assert model.quantization is not None
    held = memory_held(model.weights.parts(), model.config, model.quantization)
    assert held == memory_by_formula(model.config, model.quantization)
    total = sum(array.nbytes for part in model.weights.parts() for array in part.values())
    assert held.whole.quantized == total


def test_bytes_by_hand() -> None:
    """A layer 64 wide: (64, 192), (64, 64), (64, 256), (256, 64)."""
    config = DecoderConfig(
        layers=2, hidden=64, heads=2, kv_heads=2, head_size=32, intermediate=256, vocabulary=100, length=16
    )
    weights, columns = 64 * 192 + 64 * 64 + 2 * 64 * 256, 192 + 64 + 256 + 64
    rest = 2 * (columns + 4 * 64) + 2 * 100 * 64 + 16 * 64 + 2 * 64
    found = memory_by_formula(config, PostTraining())
    assert (found.linear.float32, found.linear.half) == (8 * weights, 4 * weights)
    assert found.linear.quantized == 2 * (weights + 4 * columns)
    assert (found.others.float32, found.others.half, found.others.quantized) == (4 * rest, 2 * rest, 2 * rest)
    assert found.whole.quantized == 2 * (weights + 4 * columns) + 2 * rest
    four = memory_by_formula(config, PostTraining(scheme="int4_group32"))
    groups = 2 * (192 + 64 + 256) + 8 * 64
    assert four.linear.quantized == 2 * (weights // 2 + 4 * groups)


@pytest.mark.parametrize("hidden", [576, 4096])
def test_int8_is_49_percent_below_half_precision(hidden: int) -> None:
    config = DecoderConfig(
        layers=30, hidden=hidden, heads=4, kv_heads=4, head_size=hidden // 4, intermediate=4 * hidden,
        vocabulary=50000, length=16,
    )  # fmt: skip
    assert memory_by_formula(config, PostTraining()).linear.saved >= 0.49
