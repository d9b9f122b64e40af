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
    Arithmetic,
    LossScaling,
    SitePolicy,
    from_json,
    parse_policy,
)

STORAGE = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16", "fp16-noscale": "fp16"}
QUANTIZED = {"int8-fprop": ("fprop",), "int8-train": PASSES, "int8-train-sr": PASSES}  # all else as in bf16
OTHER: dict[type, dict[str, Any]] = {  # another value for every field of a record
    SitePolicy: {
        "inputs": "e5m2",
        "output": "e5m2",
        "inner": "tf32",
        "accumulator": "fp16_mul_add",
        "quantization": "llm_int8",
        "gradient_rounding": "stochastic",
    },
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
            quantized = p in QUANTIZED.get(policy.name, ()) and site in QUANTIZED_SITES
            assert row.quantization == ("int8_vectorwise" if quantized else None)
            draws = quantized and p != "fprop" and policy.name == "int8-train-sr"
            assert row.gradient_rounding == ("stochastic" if draws else "nearest_even")


@every_policy
def test_presets_are_as_published(policy: Arithmetic) -> None:
    """Operands and results in the policy's format, float32 between them, the loss float32."""
    storage = "bf16" if policy.name in QUANTIZED else STORAGE[policy.name]
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
    for p in (policy, policy.quantized()):
        again = from_json(json.loads(json.dumps(p.as_json())))
        assert again == p
        assert again.sha256 == p.sha256


def test_hashes_of_policies_differ() -> None:
    policies = [*POLICIES.values(), *(policy.quantized() for policy in POLICIES.values())]
    assert len({policy.sha256 for policy in policies}) == len(policies)


def test_every_field_is_in_the_hash() -> None:
    assert {record: set(values) for record, values in OTHER.items()} == {record: names_of(record) for record in OTHER}
    assert names_of(Arithmetic) == {"name", "sites", "parameters", "loss_scaling"}
    policy = POLICIES["fp16"].quantized(passes=PASSES)
    changed = [
        dataclasses.replace(policy, name="other"),
        dataclasses.replace(policy, parameters="fp32"),
        dataclasses.replace(policy, sites=policy.sites[:-1]),
    ]
    for name, value in OTHER[LossScaling].items():
        assert value != getattr(policy.loss_scaling, name)
        scaling = dataclasses.replace(policy.loss_scaling, **{name: value})
        changed.append(dataclasses.replace(policy, loss_scaling=scaling))
    for i, (site, p, row) in enumerate(policy.sites):
        for name, value in OTHER[SitePolicy].items():
            assert value != getattr(row, name)
            if name == "gradient_rounding" and not (site in QUANTIZED_SITES and p != "fprop"):
                continue  # nothing there draws
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


def test_tables_older_than_the_rounding_of_gradients_are_the_same_policies() -> None:
    for name in ("bf16", "int8-train"):
        table = POLICIES[name].as_json()
        for row in table["sites"]:
            assert row.pop("gradient_rounding") == "nearest_even"
        assert from_json(table) == POLICIES[name]
        assert from_json(table).sha256 == POLICIES[name].sha256


# Quantized products


def test_which_operand_is_rounded_how() -> None:
    """dy is the first operand of dgrad and the second of wgrad."""
    row = POLICIES["int8-train-sr"].site("qkv", "dgrad")
    roundings = [(row.scheme(p).x.rounding, row.scheme(p).w.rounding) for p in PASSES]  # type: ignore[union-attr]
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
        ({"gradient_rounding": "up"}, ("gradient_rounding 'up'", "nearest_even and stochastic")),
    ],
)
def test_a_site_is_checked_when_it_is_made(values: dict[str, str], parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"int3|mxfp4|up") as error:
        SitePolicy(inputs="bf16", output="bf16", **values)  # type: ignore[arg-type]
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
        (s, p, dataclasses.replace(row, **changed) if (s, p) == (site, direction) else row)  # type: ignore[arg-type]
        for s, p, row in policy.sites
    ]
    with pytest.raises(ValueError, match="stochastically") as error:
        dataclasses.replace(policy, sites=tuple(rows))
    assert_sentence(error.value, f"{site}.{direction} of policy bf16", *QUANTIZED_SITES)


@every_policy
def test_quantized_touches_the_forward_linear_layers_alone(policy: Arithmetic) -> None:
    quantized = policy.quantized()
    assert quantized.name == f"{policy.name}-int8"
    assert (quantized.parameters, quantized.loss_scaling) == (policy.parameters, policy.loss_scaling)
    assert set(QUANTIZED_SITES) == {"qkv", "attention_out", "mlp_up", "mlp_down"}
    for (site, p, before), (also, too, after) in zip(policy.sites, quantized.sites, strict=True):
        assert (site, p) == (also, too)
        touched = p == "fprop" and site in QUANTIZED_SITES
        assert after == (dataclasses.replace(before, quantization="int8_vectorwise") if touched else before)
