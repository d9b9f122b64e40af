"""Ordered rules over sites, layers and stages."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from small_runs import assert_sentence

from qsim.policy import PASSES, POLICIES, SITES, from_json

FP32, BF16 = POLICIES["fp32"], POLICIES["bf16"]


def test_a_preset_s_row_takes_the_place() -> None:
    policy = FP32.override([("mlp_up.wgrad", "bf16")])
    for site in SITES:
        for p in PASSES:
            source = BF16 if (site, p) == ("mlp_up", "wgrad") else FP32
            assert policy.site(site, p) == source.site(site, p)
    assert policy.name == "fp32-rules"
    assert FP32.override([("mlp_up.wgrad", "bf16")], name="mixed").name == "mixed"


def test_fields_change_alone() -> None:
    policy = BF16.override([("layernorm_*", {"inner": "fp16", "sums": "fp16"})])
    for site, p, row in policy.sites:
        more = {"inner": "fp16", "sums": "fp16"} if site.startswith("layernorm") else {}
        assert row == dataclasses.replace(BF16.site(site, p), **more)


def test_later_rules_prevail() -> None:
    rules: list[Any] = [("qkv.*", {"output": "fp32"}), ("*.dgrad", "fp32"), ("qkv.dgrad", {"output": "e5m2"})]
    policy = BF16.override(rules)
    assert policy.site("qkv", "fprop").output == "fp32"
    assert policy.site("qkv", "dgrad") == dataclasses.replace(FP32.site("qkv", "dgrad"), output="e5m2")
    assert policy.site("mlp_up", "dgrad") == FP32.site("mlp_up", "dgrad")
    again = BF16.override([rules[2], rules[1], rules[0]])
    assert again.site("qkv", "dgrad") == dataclasses.replace(FP32.site("qkv", "dgrad"), output="fp32")


def test_rows_of_one_layer() -> None:
    policy = FP32.override([("layer.3.mlp_up.wgrad", "bf16")])
    assert policy.site("mlp_up", "wgrad") == FP32.site("mlp_up", "wgrad")
    assert policy.site("mlp_up", "wgrad", 3) == BF16.site("mlp_up", "wgrad")
    assert policy.layers == ((3, "mlp_up", "wgrad", BF16.site("mlp_up", "wgrad")),)
    assert from_json(json.loads(json.dumps(policy.as_json()))) == policy
    assert policy.sha256 not in {FP32.sha256, FP32.override([("layer.2.mlp_up.wgrad", "bf16")]).sha256}


def test_layers_by_a_pattern() -> None:
    policy = FP32.override([("layer.[02].mlp_*.fprop", "bf16")], layers=4)
    places = [(layer, site, p) for layer, site, p, _ in policy.layers]
    assert places == [(layer, site, "fprop") for layer in (0, 2) for site in ("mlp_up", "mlp_down")]
    whole = FP32.override([("layer.1.*", "bf16")], layers=4)
    assert {site for _, site, *_ in whole.layers} == set(SITES) - {"embedding", "layernorm_final", "logits", "loss"}


def test_a_rule_of_all_layers_reaches_those_that_have_their_own_rows() -> None:
    policy = FP32.override([("layer.1.qkv.fprop", "bf16"), ("qkv.fprop", {"output": "fp16"})])
    assert policy.site("qkv", "fprop", 1) == dataclasses.replace(BF16.site("qkv", "fprop"), output="fp16")
    equal = FP32.override([("layer.1.qkv.fprop", "bf16"), ("qkv.*", "bf16")])
    assert equal.layers == ()  # no longer different


def test_rules_on_rules() -> None:
    """A policy that came out of rules is one like any other."""
    first = FP32.override([("layer.1.qkv.fprop", "bf16")], name="a")
    second = first.override([("layer.1.qkv.fprop", {"output": "fp32"})], name="b")
    assert second.site("qkv", "fprop", 1) == dataclasses.replace(BF16.site("qkv", "fprop"), output="fp32")


def test_stages() -> None:
    policy = BF16.override(
        [("moments", {"format": "bf16"}), ("master", {"format": "bf16"}), ("write_back", "bf16-sr")]
    )
    assert (policy.stages.moments.format, policy.stages.master.format) == ("bf16", "bf16")
    assert policy.stages.write_back.rounding == "stochastic"
    assert policy.sites == BF16.sites


def test_an_accumulator_goes_where_something_is_multiplied() -> None:
    policy = BF16.override([("*", {"accumulator": "h100"})], name="bf16-h100")
    assert policy == POLICIES["bf16-h100"]


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        (("attention.*", "fp32"), ("'attention.*'", "matches no site", "layer.N.site.pass")),
        (("layer.4.qkv.fprop", "fp32"), ("'layer.4.qkv.fprop'", "4 layers")),
        (("layer.0.loss.fprop", "fp32"), ("'layer.0.loss.fprop'",)),
        (("qkv.*", "fp99"), ("'fp99'",)),
        (("qkv.*", {"iner": "fp16"}), ("'iner'", "inner", "accumulator")),
        (("moments", {"output": "fp16"}), ("'output'", "format")),
        (("qkv.*", {}), ("changes nothing",)),
        (("gelu.*", {"accumulator": "h100"}), ("'gelu.*'", "nothing is multiplied")),
        (("qkv.*", {"output": "fp12"}), ("'fp12'",)),
    ],
)
def test_rules_that_say_nothing_are_refused(rule: tuple[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        BF16.override([rule], layers=4)
    assert_sentence(error.value, *parts)


def test_layers_by_a_pattern_need_their_number() -> None:
    with pytest.raises(ValueError, match="how many layers") as error:
        BF16.override([("layer.*.qkv.fprop", "fp32")])
    assert_sentence(error.value, "'layer.*.qkv.fprop'")
