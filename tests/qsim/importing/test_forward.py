"""Logits of every architecture against its definition in float64, and the same bits on every executor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plain_decoders
import pytest
import small_checkpoints
from bits_assertions import assert_same_bits
from refusals import refused
from small_checkpoints import BF16, CHECKPOINTS, stacked

from qsim.decoder import KeyValueCache, ResidentWeights, TokenError, decoder_forward
from qsim.importing import Model, open_model
from qsim.policy import POLICIES, parse_policy
from qsim.recorders import Recorder
from qsim.sites import Calculator

TOKENS = small_checkpoints.tokens()
KINDS = ["gpt2", "opt", "bloom", "gpt_neox", "llama"]


def logits(model: Model, policy: str = "fp32", executor: str = "numpy", tokens: np.ndarray = TOKENS) -> np.ndarray:
    calculator = Calculator(parse_policy(policy), executor)
    return np.asarray(decoder_forward(calculator, model.config, model.weights, tokens))


def largest_difference(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.abs(found - true).max() / np.abs(true).max())


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_logits_are_those_of_the_definition(tmp_path: Path, kind: str) -> None:
    """Within 1e-5 of the largest in float32, 1e-6 in float64, whose positional tables are float32."""
    config, tensors = CHECKPOINTS[kind]()
    model = open_model(small_checkpoints.write(tmp_path / "model", (config, tensors)))
    true = plain_decoders.logits(config, tensors, TOKENS)
    in_float32, in_float64 = (largest_difference(logits(model, policy), true) for policy in ("fp32", "fp64"))
    print(f"{kind}: float32 {in_float32:.1e}, float64 {in_float64:.1e}")
    assert in_float32 <= 1e-5
    assert in_float64 <= 1e-6


@pytest.mark.parametrize("dtype", [np.float16, BF16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_files_are_widened_exactly(tmp_path: Path, kind: str, dtype: type) -> None:
    checkpoint = CHECKPOINTS[kind]()
    narrow = open_model(small_checkpoints.write(tmp_path / "narrow", checkpoint, dtype))
    wide = open_model(small_checkpoints.write(tmp_path / "wide", small_checkpoints.rounded(checkpoint, dtype)))
    for mine, expected in ((narrow.weights.outer(), wide.weights.outer()), (narrow.layer(1), wide.layer(1))):
        assert mine.keys() == expected.keys()
        for name, w in mine.items():
            assert_same_bits(w, expected[name])


def test_shards_are_one_file(tmp_path: Path) -> None:
    checkpoint = CHECKPOINTS["llama"]()
    whole = open_model(small_checkpoints.write(tmp_path / "whole", checkpoint))
    parts = open_model(small_checkpoints.write_shards(tmp_path / "parts", checkpoint))
    assert_same_bits(logits(parts), logits(whole))


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("policy", ["fp32", "bf16", "fp16", "fp16-pure", "int8-fprop"])
@pytest.mark.parametrize("kind", KINDS)
def test_numba_gives_the_bits_of_numpy(tmp_path: Path, kind: str, policy: str) -> None:
    model = open_model(small_checkpoints.write(tmp_path / "model", CHECKPOINTS[kind]()))
    expected = logits(model, policy)
    assert np.isfinite(expected).all()
    assert_same_bits(logits(model, policy, "numba"), expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("policy", ["fp32", "bf16"])
def test_jax_gives_the_bits_of_numpy(tmp_path: Path, policy: str) -> None:
    """Rotary, grouped keys, RMSNorm and a gated MLP; layers one by one, and stacked in one scan."""
    model = open_model(small_checkpoints.write(tmp_path / "model", CHECKPOINTS["llama"]()))
    expected = logits(model, policy)
    assert_same_bits(logits(model, policy, "jax"), expected)
    resident = ResidentWeights(parameters=stacked(model))
    calculator = Calculator(POLICIES[policy], "jax")
    assert_same_bits(decoder_forward(calculator, model.config, resident, TOKENS), expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["bloom", "gpt_neox", "opt"])
def test_jax_gives_the_bits_of_numpy_for_other_architectures(tmp_path: Path, kind: str) -> None:
    model = open_model(small_checkpoints.write(tmp_path / "model", CHECKPOINTS[kind]()))
    assert_same_bits(logits(model, "fp16", "jax"), logits(model, "fp16"))


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("policy", ["fp32", "fp16", "int8-fprop"])
@pytest.mark.parametrize("kind", KINDS)
def test_layer_by_layer_is_all_at_once(tmp_path: Path, kind: str, policy: str) -> None:
    """Bits, and what is recorded under which layer."""
    model = open_model(small_checkpoints.write(tmp_path / "model", CHECKPOINTS[kind]()))
    resident = ResidentWeights(parameters=stacked(model))
    found = []
    for weights in (model.weights, resident):
        recorder = Recorder()
        calculator = Calculator(POLICIES[policy], "numpy", recorder)
        result = decoder_forward(calculator, model.config, weights, TOKENS)
        found.append((result, recorder.results(calculator.backend)))
    assert_same_bits(found[0][0], found[1][0])
    assert_same_bits(logits(model, policy), found[0][0])
    assert found[0][1].keys() == found[1][1].keys()
    assert {"layer.0.qkv.fprop", "layer.2.gelu.fprop", "logits.fprop", "layer.1.qkv.weights"} <= found[0][1].keys()
    for name, counts in found[0][1].items():
        assert all(np.array_equal(a, b) for a, b in zip(counts, found[1][1][name], strict=True)), name


def test_rows_of_single_layers_are_theirs(tmp_path: Path) -> None:
    model = open_model(small_checkpoints.write(tmp_path / "model", CHECKPOINTS["gpt2"]()))
    policy = POLICIES["fp32"].override([("layer.1.mlp_up.fprop", "bf16")], layers=3)
    resident = ResidentWeights(parameters=stacked(model))
    one, all_at_once, plain = (
        decoder_forward(Calculator(p, "numpy"), model.config, weights, TOKENS)
        for p, weights in ((policy, model.weights), (policy, resident), (POLICIES["fp32"], model.weights))
    )
    assert_same_bits(one, all_at_once)
    assert not np.array_equal(one, plain)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("parts", [(1, 11), (5, 1, 6), (4, 4, 4)], ids=str)
@pytest.mark.parametrize("policy", ["fp32", "bf16", "int8-fprop"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_changes_no_bit(tmp_path: Path, kind: str, policy: str, parts: tuple[int, ...]) -> None:
    model = open_model(small_checkpoints.write(tmp_path / "model", CHECKPOINTS[kind]()))
    cache, found, first = KeyValueCache(), [], 0
    for length in parts:
        assert cache.length == first
        piece = TOKENS[:, first : first + length]
        calculator = Calculator(POLICIES[policy], "numpy")
        rows = decoder_forward(calculator, model.config, model.weights, piece, cache=cache)
        found.append(rows.reshape(*piece.shape, -1))
        first += length
    together = np.concatenate(found, axis=1)
    assert_same_bits(together.reshape(TOKENS.size, -1), logits(model, policy))


def test_a_cache_of_other_sequences_is_refused(tmp_path: Path) -> None:
    model = open_model(small_checkpoints.write(tmp_path / "model", CHECKPOINTS["llama"]()))
    cache, calculator = KeyValueCache(), Calculator(POLICIES["fp32"], "numpy")
    decoder_forward(calculator, model.config, model.weights, TOKENS[:, :3], cache=cache)
    with refused(TokenError, "tokens are of 1 sequences and the cache of 2"):
        decoder_forward(calculator, model.config, model.weights, TOKENS[:1, 3:], cache=cache)
    assert cache.length == 3


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (np.array([[0, 29]]), "token 29 is outside the vocabulary of 29"),
        (np.array([[-1, 2]]), "token -1 is outside the vocabulary of 29"),
        (np.zeros((1, 13), np.int32), "13 positions are more than the 12 of the model"),
        (np.zeros(3, np.int32), "tokens have shape (3,)"),
        (np.zeros((1, 0), np.int32), "tokens have shape (1, 0)"),
    ],
)
def test_tokens_that_cannot_be_read_are_refused(tmp_path: Path, tokens: np.ndarray, words: str) -> None:
    model = open_model(small_checkpoints.write(tmp_path / "model", CHECKPOINTS["gpt2"]()))
    with refused(TokenError, words):
        logits(model, tokens=tokens)


def test_a_listener_is_told_the_inputs_of_linear_layers_and_what_blocks_give_out(tmp_path: Path) -> None:
    config, tensors = CHECKPOINTS["gpt2"]()
    model = open_model(small_checkpoints.write(tmp_path / "model", (config, tensors)))
    calculator, heard = Calculator(parse_policy("fp32"), "numpy"), []
    calculator.listener = lambda layer, place, x: heard.append((layer, place, x.shape))
    decoder_forward(calculator, model.config, model.weights, TOKENS)
    rows, h = TOKENS.size, model.config.hidden
    widths = {
        "qkv.input": h,
        "attention_out.input": h,
        "mlp_up.input": h,
        "mlp_down.input": model.config.intermediate,
        "block.output": h,
    }
    blocks = [(i, place, (rows, n)) for i in range(model.config.layers) for place, n in widths.items()]
    assert heard == [*blocks, (None, "logits.input", (rows, h))]
