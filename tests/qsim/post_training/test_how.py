"""What is asked for, checked on creation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from refusals import refused

from qsim.post_training import PostTraining
from qsim.post_training.how import from_json


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"scheme": "int9"}, ("int9", "known schemes")),
        ({"scheme": "mxfp8_e4m3"}, ("mxfp8_e4m3", "integer one")),
        ({"scheme": "int8_kv"}, ("int8_kv", "say kv")),
        ({"scheme": None, "kv": "int8", "alpha": 0.5}, ("alpha 0.5", "leave it out")),
        ({"scheme": None, "kv": "int8", "static": True}, ("static", "leave static out")),
        ({"kv": "int4"}, ("int4", "int8")),
        ({"working": "e5m2"}, ("e5m2", "bf16")),
        ({"working": None}, ("None", "bf16")),
        ({"dequantize_to": "int8"}, ("int8", "fp16")),
        ({"sites": ()}, ("no site", "scheme None")),
        ({"sites": ("qkv", "softmax")}, ("softmax", "attention_out")),
        ({"sites": ("qkv", "qkv")}, ("qkv, qkv", "once")),
        ({"scheme": "int8_weight_only", "sites": ("scores",)}, ("scores", "integer scheme")),
        ({"static": True}, ("int8_vectorwise", "int8_tensorwise")),
        ({"scheme": "llm_int8", "static": True}, ("llm_int8", "int8_tensorwise")),
        ({"alpha": 1.5}, ("1.5", "0.5")),
        ({"alpha": True}, ("True", "0.5")),
        ({"alpha": 0.5, "sites": ("mlp_down",)}, ("qkv and mlp_up", "leave it out")),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], parts: tuple[str, ...]) -> None:
    with refused(ValueError, *parts):
        PostTraining(**fields)


def test_the_record_goes_through_json() -> None:
    for how in (
        PostTraining(),
        PostTraining(scheme="int4_group128", sites=("qkv", "logits"), kv="int8", dequantize_to=None),
        PostTraining(scheme="smoothquant", working="fp16"),
        PostTraining(scheme="int8_tensorwise", static=True, alpha=0.8),
        PostTraining(scheme=None, kv="int8"),
    ):
        assert from_json(json.loads(json.dumps(how.as_json()))) == how
    with refused(ValueError, "scheme"):
        from_json({"scheme": "int8_vectorwise"})


def test_what_a_scheme_becomes() -> None:
    product = PostTraining(scheme="llm_int8", dequantize_to="bf16").product
    assert product is not None
    assert (product.working, product.outlier_weights, product.threshold) == ("bf16", "dequantized", 6.0)
    assert PostTraining(scheme="smoothquant").alpha == 0.5
    assert PostTraining(scheme="smoothquant", alpha=0.7).calibrates
    assert not PostTraining().calibrates
    assert PostTraining(sites=("qkv", "scores")).linear == ("qkv",)


def test_the_sentence_says_all() -> None:
    how = PostTraining(scheme="int8_tensorwise", sites=("qkv",), alpha=0.5, static=True, kv="int8")
    assert str(how) == "int8_tensorwise of qkv; smoothed with alpha 0.5; static ranges; keys and values in INT8"
