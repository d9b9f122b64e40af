"""Policies: every site resolved, an identity that notices any change."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from small_runs import assert_sentence

from precision.accumulators import parse_accumulator
from precision.formats import parse_format
from precision.quantization.schemes import SCHEMES
from qsim.policy import (
    GEMM_SITES,
    PASSES,
    POLICIES,
    QUANTIZED_SITES,
    SITES,
    STAGES,
    Arithmetic,
    LossScaling,
    SitePolicy,
    Stage,
    Stages,
    WriteBack,
    from_json,
    parse_policy,
)

PINNED = {  # identities that stand in checkpoints
    "fp32": "818e0f40b0118d6da53c8bee3f7426515793f81c0fe6004d47631a079789c416",
    "bf16": "54a97db0eec2f33ac68200177cb6efdfcf4b746b7f845c5d2c6afa7f334af8d0",
    "fp16": "421730593f7c81953c918792531873d0ef9295eb4c847074d16df9b0357953ef",
    "fp16-noscale": "dcc0e9d6d6973ea56e292df3cdf6de04536a37acad3abf2d189aa3c22de29ea3",
    "int8-fprop": "07e9eae96bf690b6ae10168af04d9a817ab3c6315d2cce21896df06c4dece170",
    "int8-train": "76a200bf3c25c6b83bdce5c2c0e4c155075bf4516205bed102a4fe0d91775fb4",
    "int8-train-sr": "805c6bcd558ee86409c21035d5fd9c91e63ce2937604a2b2c49c733d0803e0f5",
}
QUANTIZED = {"int8-fprop": ("fprop",), "int8-train": PASSES, "int8-train-sr": PASSES}  # all else as in bf16
STORAGE = {"fp32": "fp32", "fp16": "fp16", "fp16-noscale": "fp16", "bf16": "bf16"} | dict.fromkeys(QUANTIZED, "bf16")
OTHER: dict[type, dict[str, Any]] = {  # another value for every field of a record
    SitePolicy: {
        "inputs": "e5m2",
        "output": "e5m2",
        "inner": "tf32",
        "accumulator": "fp16_mul_add",
        "quantization": "llm_int8",
        "gradient_rounding": "stochastic",
        "gradient_inputs": "e5m2",
        "scaling": "tensor",
        "block": 64,
        "sums": "fp16",
        "rounding": "toward_zero",
        "subnormals": "flush",
    },
    Stage: {"format": "bf16", "rounding": "up", "subnormals": "flush"},
    WriteBack: {"rounding": "to_odd", "subnormals": "flush"},
    LossScaling: {
        "mode": "static",
        "initial": 4.0,
        "growth": 4.0,
        "backoff": 0.25,
        "interval": 51,
        "minimum": 2.0,
    },
}

every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
ROUNDED = [policy for policy in POLICIES.values() if not policy.identity]
every_rounded = pytest.mark.parametrize("policy", ROUNDED, ids=[policy.name for policy in ROUNDED])
paper_s = pytest.mark.parametrize("policy", [POLICIES[name] for name in PINNED], ids=PINNED)


def names_of(record: type) -> set[str]:
    return {field.name for field in dataclasses.fields(record)}


@every_policy
def test_every_site_and_pass_is_resolved(policy: Arithmetic) -> None:
    assert [(site, p) for site, p, _ in policy.sites] == [(site, p) for site in SITES for p in PASSES]
    for site in SITES:
        for p in PASSES:
            row = policy.site(site, p)
            parse_format(row.inputs), parse_format(row.inner), parse_format(row.output)
            assert (row.accumulator is not None) == (site in GEMM_SITES)
            if row.accumulator:
                parse_accumulator(row.accumulator)


@paper_s
def test_quantized_presets(policy: Arithmetic) -> None:
    for site, p, row in policy.sites:
        quantized = p in QUANTIZED.get(policy.name, ()) and site in QUANTIZED_SITES
        assert row.quantization == ("int8_vectorwise" if quantized else None)
        draws = quantized and p != "fprop" and policy.name == "int8-train-sr"
        assert row.gradient_rounding == ("stochastic" if draws else "nearest_even")


@paper_s
def test_presets_are_as_published(policy: Arithmetic) -> None:
    """Operands and results in the policy's format, float32 between them, the loss float32."""
    storage = STORAGE[policy.name]
    accumulator = "fp32_mul_add" if storage == "fp32" else "fp32_sequential"
    assert policy.parameters == storage
    for site, p, row in policy.sites:
        assert row.inputs == storage
        assert row.inner == "fp32"
        assert row.output == ("fp32" if (site, p) == ("loss", "fprop") else storage)
        assert row.accumulator in (None, accumulator)
    assert policy.loss_scaling.mode == ("dynamic" if policy.name == "fp16" else "none")


@every_policy
def test_loss_scaling_is_by_powers_of_two(policy: Arithmetic) -> None:
    scaling = policy.loss_scaling
    for value in (scaling.initial, scaling.growth, scaling.backoff, scaling.minimum):
        assert float(value).hex().startswith("0x1.0000000000000p")


def test_unknown_site_is_refused() -> None:
    with pytest.raises(ValueError, match="attention") as error:
        POLICIES["fp16"].site("attention", "fprop")
    assert_sentence(error.value, "fp16", "attention.fprop", *SITES)


@pytest.mark.parametrize("name", ["fp99", "", "FP16", "fp16 ", "int8"])
def test_unknown_policy_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown") as error:
        parse_policy(name)
    assert_sentence(error.value, f"unknown number format or policy {name!r}", *POLICIES)


@every_policy
def test_parse_policy(policy: Arithmetic) -> None:
    assert parse_policy(policy.name) is policy
    assert parse_policy(policy) is policy


# Identity


@every_policy
def test_json_round_trip(policy: Arithmetic) -> None:
    for p in (policy, *([] if policy.identity else [policy.quantized()])):
        again = from_json(json.loads(json.dumps(p.as_json())))
        assert again == p
        assert again.sha256 == p.sha256


def test_identities_of_published_presets_stay() -> None:
    assert {name: POLICIES[name].sha256 for name in PINNED} == PINNED


def test_hashes_of_policies_differ() -> None:
    policies = [*POLICIES.values(), *(policy.quantized() for policy in ROUNDED)]
    assert len({policy.sha256 for policy in policies}) == len(policies)


def test_every_field_is_in_the_hash() -> None:
    assert {record: set(values) for record, values in OTHER.items()} == {record: names_of(record) for record in OTHER}
    assert names_of(Arithmetic) == {
        "name",
        "sites",
        "parameters",
        "loss_scaling",
        "stages",
        "layers",
        "delayed_scaling",
    }
    assert names_of(Stages) == set(STAGES)
    policy = POLICIES["fp16"].quantized(passes=PASSES)
    changed = [
        dataclasses.replace(policy, name="other"),
        dataclasses.replace(policy, parameters="fp32"),
        dataclasses.replace(policy, sites=policy.sites[:-1]),
        dataclasses.replace(policy, layers=((0, *policy.sites[0]),)),
    ]
    for stage in STAGES:
        for name, value in OTHER[type(getattr(policy.stages, stage))].items():
            other = dataclasses.replace(getattr(policy.stages, stage), **{name: value})
            changed.append(dataclasses.replace(policy, stages=dataclasses.replace(policy.stages, **{stage: other})))
    for name, value in OTHER[LossScaling].items():
        assert value != getattr(policy.loss_scaling, name)
        scaling = dataclasses.replace(policy.loss_scaling, **{name: value})
        changed.append(dataclasses.replace(policy, loss_scaling=scaling))
    for i, (site, p, row) in enumerate(policy.sites):
        for name, value in OTHER[SitePolicy].items():
            assert value != getattr(row, name)
            if name == "gradient_rounding" and not (site in QUANTIZED_SITES and p != "fprop"):
                continue  # nothing there draws
            if name == "gradient_inputs" and site not in (*QUANTIZED_SITES, "logits"):
                continue  # no operand is known to be a gradient
            if name == "scaling" and row.output == "fp32":
                continue  # a scaled product is narrower
            rows = list(policy.sites)
            rows[i] = (site, p, dataclasses.replace(row, **{name: value}))
            changed.append(dataclasses.replace(policy, sites=tuple(rows)))
    assert len({p.sha256 for p in [policy, *changed]}) == len(changed) + 1


def test_the_hash_is_that_of_the_resolved_table() -> None:
    """It does not depend on how the policy was made, and stands in checkpoints: written out once."""
    import hashlib

    policy = POLICIES["bf16"]
    rows = [
        {
            "accumulator": "fp32_sequential" if site in GEMM_SITES else None,
            "inner": "fp32",
            "inputs": "bf16",
            "output": "fp32" if (site, p) == ("loss", "fprop") else "bf16",
            "pass": p,
            "quantization": None,
            "site": site,
        }
        for site in SITES
        for p in PASSES
    ]
    scaling = {
        "backoff": 0.5,
        "growth": 2.0,
        "initial": 1.0,
        "interval": 50,
        "minimum": 1.0,
        "mode": "none",
    }
    table = {"loss_scaling": scaling, "name": "bf16", "parameters": "bf16", "sites": rows}
    assert policy.sha256 == hashlib.sha256(json.dumps(table).encode()).hexdigest()


def test_tables_older_than_stages_and_later_fields_are_the_same_policies() -> None:
    for name in ("bf16", "int8-train"):
        table = POLICIES[name].as_json()
        del table["stages"]
        for row in table["sites"]:
            for since in (
                "gradient_rounding",
                "gradient_inputs",
                "scaling",
                "block",
                "sums",
                "rounding",
                "subnormals",
            ):
                assert row.pop(since) == getattr(SitePolicy(inputs="bf16", output="bf16"), since)
        assert from_json(table) == POLICIES[name]
        assert from_json(table).sha256 == POLICIES[name].sha256


# Quantized products


def test_which_operand_is_rounded_how() -> None:
    """dy is the first operand of dgrad and the second of wgrad."""
    row = POLICIES["int8-train-sr"].site("qkv", "dgrad")
    roundings = [(row.scheme(p).x.rounding, row.scheme(p).w.rounding) for p in PASSES]
    nearest, drawn = "nearest_even", "stochastic"
    assert roundings == [(nearest, nearest), (drawn, nearest), (nearest, drawn)]
    assert SitePolicy(inputs="bf16", output="bf16").scheme("dgrad") is None
    assert POLICIES["int8-train"].site("qkv", "dgrad").scheme("dgrad") == SCHEMES["int8_vectorwise"]


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if scheme.integer])
def test_any_integer_scheme_will_do(name: str) -> None:
    policy = POLICIES["bf16"].quantized(name, passes=PASSES)
    assert policy.site("mlp_up", "wgrad").scheme("wgrad") == SCHEMES[name]
    assert policy.name == ("bf16-int8" if name == "int8_vectorwise" else f"bf16-{name}")
    assert from_json(policy.as_json()) == policy


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"quantization": "int3"}, ("unknown quantization scheme 'int3'", "int8_vectorwise")),
        ({"quantization": "mxfp4"}, ("scheme 'mxfp4' multiplies no integers", "or None")),
        ({"inner": "fp12"}, ("'fp12'",)),
        ({"sums": "fp12"}, ("'fp12'",)),
        ({"gradient_inputs": "fp12"}, ("'fp12'",)),
        ({"accumulator": "h999"}, ("'h999'", "h100")),
        ({"rounding": "half_up"}, ("'half_up'", "nearest_even")),
        ({"subnormals": "drop"}, ("'drop'", "flush")),
        ({"scaling": "block"}, ("scaling 'block'", "none and tensor and delayed and blocks")),
        ({"block": 0}, ("blocks of 0", "at least 1")),
        ({"scaling": "tensor", "output": "fp32"}, ("at most 16 bits", "fp32")),
        ({"gradient_rounding": "up"}, ("gradient_rounding 'up'", "nearest_even and stochastic")),
    ],
)
def test_a_site_is_checked_when_it_is_made(values: dict[str, str], parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"int3|mxfp4|up|fp12|h999|drop|block|16 bits") as error:
        SitePolicy(**{"inputs": "bf16", "output": "bf16"} | values)
    assert_sentence(error.value, *parts)


@pytest.mark.parametrize(
    ("site", "direction", "quantization"),
    [
        ("qkv", "fprop", "int8_vectorwise"),
        ("qkv", "dgrad", None),
        ("qkv", "dgrad", "llm_int8"),
        ("scores", "dgrad", "int8_vectorwise"),
        ("logits", "wgrad", "int8_vectorwise"),
    ],
)
def test_gradients_that_nothing_draws_for_are_refused(site: str, direction: str, quantization: str | None) -> None:
    policy = POLICIES["bf16"]
    changed = {"quantization": quantization, "gradient_rounding": "stochastic"}
    rows = [
        (s, p, dataclasses.replace(row, **changed) if (s, p) == (site, direction) else row)
        for s, p, row in policy.sites
    ]
    with pytest.raises(ValueError, match="stochastically") as error:
        dataclasses.replace(policy, sites=tuple(rows))
    assert_sentence(error.value, f"{site}.{direction} of policy bf16", *QUANTIZED_SITES)


@every_rounded
def test_quantized_touches_the_forward_linear_layers_alone(policy: Arithmetic) -> None:
    quantized = policy.quantized()
    assert quantized.name == f"{policy.name}-int8"
    assert (quantized.parameters, quantized.loss_scaling) == (policy.parameters, policy.loss_scaling)
    assert set(QUANTIZED_SITES) == {"qkv", "attention_out", "mlp_up", "mlp_down"}
    for (site, p, before), (also, too, after) in zip(policy.sites, quantized.sites, strict=True):
        assert (site, p) == (also, too)
        touched = p == "fprop" and site in QUANTIZED_SITES
        quantized_row = dataclasses.replace(
            before, quantization="int8_vectorwise", scaling="none", gradient_inputs=None
        )
        assert after == (quantized_row if touched else before)


# Stages


def test_without_a_master_the_parameters_are_what_is_kept() -> None:
    assert [name for name, policy in POLICIES.items() if policy.has_master == (policy.parameters == "fp32")] == [
        "fp16-nomaster",
        "bf16-nomaster",
        "bf16-sr",
        "fp64",
    ]
    assert POLICIES["bf16-sr"].stages.write_back.rounding == "stochastic"


def test_a_stochastic_write_back_from_a_master_is_refused() -> None:
    drawn = dataclasses.replace(POLICIES["fp16"].stages, write_back=WriteBack(rounding="stochastic"))
    with pytest.raises(ValueError, match="master") as error:
        dataclasses.replace(POLICIES["fp16"], stages=drawn)
    assert_sentence(error.value, "policy fp16", "fp32", "fp16")


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"format": "fp12"}, ("'fp12'",)),
        ({"rounding": "stochastic"}, ("no key", "write_back")),
        ({"rounding": "half_up"}, ("'half_up'", "nearest_even")),
    ],
)
def test_a_stage_is_checked_when_it_is_made(values: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"fp12|no key|half_up") as error:
        Stage(**values)
    assert_sentence(error.value, *parts)


def test_gradient_inputs_need_a_linear_layer() -> None:
    policy = POLICIES["bf16"]
    rows = [(s, p, dataclasses.replace(row, gradient_inputs="e5m2")) for s, p, row in policy.sites]
    with pytest.raises(ValueError, match="linear layer") as error:
        dataclasses.replace(policy, sites=tuple(rows))
    assert_sentence(error.value, "embedding.fprop of policy bf16", "gradient_inputs")


# Layers


def test_layers_of_equal_rows_are_one_segment() -> None:
    policy = POLICIES["bf16"]
    assert policy.segments(4) == [(0, 4)]
    row = POLICIES["fp32"].site("mlp_up", "wgrad")
    changed = dataclasses.replace(policy, layers=tuple((i, "mlp_up", "wgrad", row) for i in (1, 2)))
    assert changed.segments(4) == [(0, 1), (1, 3), (3, 4)]
    assert changed.site("mlp_up", "wgrad", 1) == row
    assert changed.site("mlp_up", "wgrad", 3) == changed.site("mlp_up", "wgrad") == policy.site("mlp_up", "wgrad")
    assert from_json(json.loads(json.dumps(changed.as_json()))) == changed
    with pytest.raises(ValueError, match="layer 2") as error:
        changed.segments(2)
    assert_sentence(error.value, "bf16", "layer 2", "2 layers")
