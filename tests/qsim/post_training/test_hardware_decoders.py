"""Decoders under native policies where the device computes as it likes: near the exact ones, caches and codes too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantized_models import TOKENS, quantized, small_model

from precision.backends import get_backend
from qsim.evaluation import DecoderLanguageModel
from qsim.policy import parse_policy
from qsim.post_training import QuantizedCalculator, calculator_for

WAYS = [
    ("gpt2", None, None),
    ("llama", None, None),
    ("llama", "int8_vectorwise", "int8"),
    ("llama", "int8_weight_only", None),
]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The computation is on the CPU and the platform is said to be another."""
    monkeypatch.setattr(get_backend("jax").devices, "platform", lambda: "gpu")


def test_only_native_policies_on_jax_do(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    for one in (model, quantized(model)):
        assert calculator_for(one, "native-bf16", "jax").hardware
        assert not calculator_for(one, "native-bf16", "jax", hardware=False).hardware
        assert not calculator_for(one, "native-bf16", "numba").hardware
        assert not calculator_for(one, "bf16", "jax").hardware


def test_what_codes_stand_for_is_summed_as_the_device_does(tmp_path: Path) -> None:
    """Its ordered sums would be a kernel a term."""
    model = quantized(small_model(tmp_path), "int8_weight_only")
    found = [calculator_for(model, "native-bf16", name) for name in ("jax", "numba")]
    assert [one.scheme.accumulator for one in found if isinstance(one, QuantizedCalculator)] == [
        "native", "fp32_sequential",
    ]  # fmt: skip


@pytest.mark.thinned(0.3)
@pytest.mark.parametrize(("kind", "scheme", "kv"), WAYS)
def test_logits_are_near_the_exact_ones(tmp_path: Path, kind: str, scheme: str | None, kv: str | None) -> None:
    """To a few units of bfloat16 at the largest logit; float32, whole and behind a cache."""
    model = small_model(tmp_path, kind)
    if scheme is not None:
        model = quantized(model, scheme, kv=kv)
    policy = parse_policy("native-bf16")
    expected = DecoderLanguageModel(model, policy, "numpy").logits(TOKENS)
    native = DecoderLanguageModel(model, policy, "jax")
    assert native.calculator.hardware
    cache, half = native.new_cache(), TOKENS.shape[1] // 2
    parts = [native.logits(part, cache) for part in (TOKENS[:, :half], TOKENS[:, half:])]
    for found in (native.logits(TOKENS), np.concatenate(parts, axis=1)):
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= 2.0**-5 * np.abs(expected).max()
