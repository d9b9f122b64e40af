"""Keys and values in INT8: with a cache and without, against their definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from quantized_models import TOKENS, logits, quantized, small_model
from refusals import refused

import precision as pr
from qsim.decoder import KeyValueCache, decoder_forward
from qsim.policy import parse_policy
from qsim.post_training import QuantizedCalculator, calculator_for
from qsim.sites import Calculator


@pytest.mark.parametrize("kind", ["gpt2", "bloom", "gpt_neox", "llama"])
@pytest.mark.parametrize("scheme", [None, "int8_vectorwise"])
def test_token_by_token_is_one_pass(tmp_path: Path, kind: str, scheme: str | None) -> None:
    """Learned positions, ALiBi, rotary ones, shared heads."""
    model = quantized(small_model(tmp_path, kind), scheme, kv="int8")
    calculator, cache, found = calculator_for(model, "bf16", "numba"), KeyValueCache(), []
    for some in (TOKENS[:, :5], *np.split(TOKENS[:, 5:], TOKENS.shape[1] - 5, axis=1)):
        rows = decoder_forward(calculator, model.config, model.weights, some, cache=cache)
        found.append(np.asarray(rows).reshape(len(TOKENS), some.shape[1], -1))
    whole = logits(model, executor="numba")
    assert_same_bits(np.concatenate(found, axis=1).reshape(whole.shape), whole)
    assert (
        whole != logits(quantized(small_model(tmp_path / "other", kind), kv="int8" if scheme is None else None))
    ).any()


def test_what_a_cache_holds(tmp_path: Path) -> None:
    model = quantized(small_model(tmp_path), None, kv="int8")
    held, plain = KeyValueCache(), KeyValueCache()
    decoder_forward(calculator_for(model, "bf16", "numpy"), model.config, model.weights, TOKENS, cache=held)
    decoder_forward(Calculator(parse_policy("bf16"), "numpy"), model.config, model.weights, TOKENS, cache=plain)
    keys = pr.quantize(plain.layers[0]["keys"], pr.SCHEMES["int8_kv"].w, axis=-1)
    first = held.layers[0]
    assert (first["keys"] == keys.codes).all()
    assert_same_bits(pr.decode(first["keys.scale"], "fp16"), keys.scale)
    assert (first["keys"].dtype, first["keys.scale"].dtype) == (np.int8, np.uint16)
    width = model.config.head_size
    assert held.length == TOKENS.shape[1]
    assert held.nbytes * 4 * width == plain.nbytes * (width + 2)


@pytest.mark.parametrize("policy", ["fp32", "bf16", "fp16"])
def test_what_is_attended_to(tmp_path: Path, policy: str) -> None:
    model = quantized(small_model(tmp_path), None, kv="int8")
    calculator = calculator_for(model, policy, "numpy")
    assert isinstance(calculator, QuantizedCalculator)
    x = pr.round_to(np.random.default_rng(5).normal(0, 3, (2, 3, 8)).astype(np.float32), policy)
    for name in ("keys", "values"):
        found = calculator.attended(name, calculator.as_cached(name, x))
        true = pr.quantize(x, pr.SCHEMES["int8_kv"].w, axis=-1).dequantize()
        assert_same_bits(found, pr.round_to(true, policy))


def test_a_cache_of_another_kind(tmp_path: Path) -> None:
    model, cache = quantized(small_model(tmp_path), None, kv="int8"), KeyValueCache()
    decoder_forward(
        Calculator(parse_policy("bf16"), "numpy"), model.config, model.weights, TOKENS[:, :4], cache=cache
    )
    with refused(ValueError, "keys.scale", "empty one"):
        decoder_forward(
            calculator_for(model, "bf16", "numpy"), model.config, model.weights, TOKENS[:, 4:6], cache=cache
        )
