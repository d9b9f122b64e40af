"""Codes, smoothing and ranges against their definitions; logits against the same quantized on the fly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from quantized_models import KINDS, TOKENS, logits, logits_of, quantized, small_model
from refusals import refused

import precision as pr
from qsim.decoder import decoder_forward
from qsim.importing import ModelError
from qsim.policy import parse_policy
from qsim.post_training import PostTraining, QuantizedCalculator, calculator_for, quantize_model
from qsim.sites import Calculator

INTEGER = ("int8_vectorwise", "int8_tensorwise", "int8_affine", "bnb_cpu", "torchao", "int4_group8_vectorwise")


# Against the same weights quantized on the fly


@pytest.mark.parametrize("kind", KINDS)
def test_bits_are_those_of_quantizing_on_the_fly(tmp_path: Path, kind: str) -> None:
    model = small_model(tmp_path, kind)
    policy = parse_policy("bf16").quantized()
    assert_same_bits(logits(quantized(model)), logits_of(Calculator(policy, "numpy"), model))


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("scheme", [*INTEGER, "bnb_cuda_mixed"])
@pytest.mark.parametrize("policy", ["fp16", "bf16", "torch-amp-bf16"])
def test_bits_of_schemes_on_the_fly(tmp_path: Path, scheme: str, policy: str) -> None:
    """Under a policy with float32 parameters too, whose products take 16 bits."""
    model, base = small_model(tmp_path, "llama"), parse_policy(policy)
    working = "fp16" if policy == "fp16" else "bf16"
    found = logits(quantized(model, scheme, working=working, dequantize_to=None), policy)
    if policy != "torch-amp-bf16":
        assert_same_bits(found, logits_of(Calculator(base.quantized(scheme), "numpy"), model))
        return
    rows = [(name, w) for name, w in model.layer(0).items() if name.endswith(".weight")]
    assert len(rows) == 5
    assert np.isfinite(found).all()  # its norms and tables are bf16 here and float32 there


@pytest.mark.parametrize("scheme", ["int8_weight_only", "int4_columnwise_weight_only", "int4_group8", "llm_int8"])
@pytest.mark.parametrize("to", ["fp16", "bf16"])
def test_a_product_is_quantized_matmul(tmp_path: Path, scheme: str, to: str) -> None:
    """In bf16, x of the first layer's qkv as the listener hears it."""
    model = quantized(small_model(tmp_path), scheme, dequantize_to=to)
    calculator, heard = calculator_for(model, "bf16", "numpy"), []
    calculator.listener = lambda layer, place, x: heard.append((layer, place, x))
    decoder_forward(calculator, model.config, model.weights, TOKENS)
    x = next(x for layer, place, x in heard if (layer, place) == (0, "qkv.input"))
    weight = model.layer(0)["qkv.weight"]
    true = pr.quantized_matmul(x, weight, scheme=model.quantization.product, output=to)
    site = calculator.at("qkv", "fprop")
    assert_same_bits(site.output(site.matmul(x, weight)), true)
    floats = dataclasses.replace(model.quantization.product, working=to)
    assert model.quantization.product == floats


def test_products_leave_in_the_format_asked_for(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    policy = calculator_for(quantized(model, dequantize_to="fp16"), "bf16", "numpy").policy
    outputs = {
        site: policy.site(site, "fprop").output for site in ("qkv", "mlp_down", "scores", "residual", "logits")
    }
    assert outputs == {"qkv": "fp16", "mlp_down": "fp16", "scores": "bf16", "residual": "bf16", "logits": "bf16"}
    assert policy.site("qkv", "dgrad").output == "bf16"
    assert policy.name == "bf16-int8_vectorwise"


# Weights


@pytest.mark.parametrize("scheme", ["int8_vectorwise", "int4_columnwise_weight_only", "smoothquant", "int4_group8"])
def test_codes_are_of_the_rounded_weight(tmp_path: Path, scheme: str) -> None:
    model = small_model(tmp_path, "gpt_neox")
    found = quantized(model, scheme, sites=("mlp_down", "qkv"), working="fp16").layer(2)
    true = pr.quantize(pr.round_to(model.layer(2)["mlp_down.weight"], "fp16"), scheme, axis=-2)
    q = found["mlp_down.weight"]
    assert (q.codes == true.codes).all()
    assert_same_bits(q.scale, true.scale)
    assert (q.scheme, q.axis, q.own_tiles) == (true.scheme, true.axis, true.own_tiles)
    for name in ("mlp_up.weight", "attention_out.bias", "layernorm_2.gain"):
        assert_same_bits(found[name], pr.round_to(model.layer(2)[name], "fp16"))


def test_a_quantized_head_of_a_tied_model(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    assert model.config.tied
    found = quantized(model, sites=("logits",)).weights.outer()
    table = pr.round_to(model.weights.outer()["embedding.tokens"], "bf16")
    assert_same_bits(found["embedding.tokens"], table)
    assert_same_bits(found["logits.weight"].dequantize(), pr.quantize(table.T, axis=-2).dequantize())
    assert (logits(quantized(model, sites=("logits",))) != logits(model)).any()


@pytest.mark.parametrize("site", ["scores", "values"])
def test_products_of_activations_on_the_fly(tmp_path: Path, site: str) -> None:
    model = small_model(tmp_path)
    base = parse_policy("bf16").override([(f"{site}.fprop", {"quantization": "int8_vectorwise"})])
    assert_same_bits(logits(quantized(model, sites=(site,))), logits_of(Calculator(base, "numpy"), model))


# Smoothing and static ranges


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_smoothing_by_its_definition(tmp_path: Path, kind: str) -> None:
    model = small_model(tmp_path, kind)
    found = quantized(model, "int8_vectorwise", alpha=0.5).layer(1)
    calculator, heard = Calculator(parse_policy("bf16"), "numpy"), {}
    calculator.listener = lambda layer, place, x: heard.setdefault((layer, place), x)
    logits_of(calculator, model)
    own = {name: pr.round_to(w, "bf16") for name, w in model.layer(1).items()}
    for site, norm, names in (
        ("qkv", "layernorm_1", ("qkv.weight",)),
        ("mlp_up", "layernorm_2", ("mlp_up.weight", "mlp_gate.weight")),
    ):
        weights = [own[name] for name in names if name in own]
        of_x = np.abs(heard[1, f"{site}.input"]).max(axis=0)
        of_w = np.max([np.abs(w).max(axis=1) for w in weights], axis=0)
        s = np.sqrt(of_x) / np.sqrt(of_w)
        for name in (f"{norm}.gain", f"{norm}.bias"):
            if name in own:
                assert_same_bits(found[name], pr.div(own[name], s, fmt="bf16"))
        for name in (name for name in names if name in own):
            true = pr.quantize(pr.mul(own[name], s[:, None], fmt="bf16"), axis=-2)
            assert (found[name].codes == true.codes).all()
    assert_same_bits(found["attention_out.weight"].scale, quantized(model).layer(1)["attention_out.weight"].scale)


def test_smoothing_changes_little_but_rounding(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    how = {"working": "fp32", "dequantize_to": "fp32"}
    plain, smooth = (logits(quantized(model, alpha=a, **how), "fp32") for a in (None, 0.5))
    true = logits(model, "fp32")
    assert (plain != smooth).any()
    assert np.abs(smooth - true).max() <= 0.1 * np.abs(true).max()


def test_static_ranges_are_those_of_the_calibration(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    static = quantized(model, "int8_tensorwise", static=True)
    calculator, heard = Calculator(parse_policy("bf16"), "numpy"), {}
    calculator.listener = lambda layer, place, x: heard.setdefault((layer, place), x)
    logits_of(calculator, model)
    for layer in range(model.config.layers):
        found, x = static.layer(layer)["mlp_down.limits"], heard[layer, "mlp_down.input"]
        assert_same_bits(found, np.array([x.min(), x.max()], np.float32))
    site = calculator_for(static, "bf16", "numpy").at("mlp_down", "fprop")
    assert (logits(static) != logits(quantized(model, "int8_tensorwise"))).any()
    weights = calculator_for(static, "bf16", "numpy").working_copy(static.layer(0))["mlp_down.weight"]
    x = 4 * heard[0, "mlp_down.input"]
    q = pr.quantize(x, "int8_tensorwise", axis=-1, limits=tuple(static.layer(0)["mlp_down.limits"]))
    true = pr.quantized_matmul(q, weights.weight, scheme="int8_tensorwise", output=pr.FP32)
    assert_same_bits(site.matmul(x, weights), true)
    assert np.abs(q.codes).max() == 127


# What is refused


def test_calibration_is_asked_for_and_refused(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    with refused(ModelError, "smoothing", "give tokens"):
        quantize_model(model, PostTraining(scheme="smoothquant"))
    with refused(ModelError, "static ranges", "give tokens"):
        quantize_model(model, PostTraining(scheme="int8_tensorwise", static=True))
    with refused(ModelError, "neither", "no tokens"):
        quantize_model(model, PostTraining(), calibration=TOKENS)
    with refused(ModelError, "no tokens", "one sequence"):
        quantize_model(model, PostTraining(alpha=0.5), calibration=TOKENS[:0])
    with refused(ValueError, "jax", "numba"):
        quantize_model(model, PostTraining(alpha=0.5), calibration=TOKENS, executor="jax")


def test_a_quantized_model_is_not_quantized_again(tmp_path: Path) -> None:
    model = quantized(small_model(tmp_path))
    with refused(ModelError, "quantized already", "int8_vectorwise"):
        quantize_model(model, PostTraining())


@pytest.mark.parametrize("fields", [{}, {"alpha": 0.5}])
def test_a_weight_that_is_not_finite(tmp_path: Path, fields: dict[str, Any]) -> None:
    class Spoiled:
        def __init__(self, weights: Any) -> None:
            self.outer, self._layer = weights.outer, weights.layer

        def layer(self, number: int) -> dict[str, np.ndarray]:
            found = self._layer(number)
            if number == 1:
                found["mlp_up.weight"][3, 4] = 1e38  # infinite in fp16
            return found

    model = small_model(tmp_path)
    spoiled = dataclasses.replace(model, weights=Spoiled(model.weights))
    with refused(ModelError, *(("enters",) if fields else ("layer 1's mlp_up.weight", "fp16", "[3, 4]"))):
        quantized(spoiled, working="fp16", **fields)


def test_a_plain_calculator_does_not_take_codes(tmp_path: Path) -> None:
    model = quantized(small_model(tmp_path))
    with refused(ValueError, "qkv.weight", "calculator_for"):
        logits_of(Calculator(parse_policy("bf16"), "numpy"), model)
    with refused(ValueError, "fp64", "fp32"):
        calculator_for(model, "fp64", "numpy")


def test_what_computes_a_model(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    assert type(calculator_for(model, "bf16", "numpy")) is Calculator
    assert type(calculator_for(quantized(model), "bf16", "numpy")) is QuantizedCalculator
    with pytest.raises(IndexError, match="layer 3"):
        quantized(model).layer(3)
