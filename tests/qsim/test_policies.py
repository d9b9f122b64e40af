"""The presets by name: what each does where, and the family of accumulators."""

from __future__ import annotations

import dataclasses

import pytest
from small_runs import assert_sentence

from precision.accumulators import ACCUMULATORS
from precision.formats import parse_format
from qsim.policies import NORMS
from qsim.policy import GEMM_SITES, PASSES, POLICIES, QUANTIZED_SITES, SITES, Arithmetic, SitePolicy, parse_policy


def changes(name: str, base: str) -> dict[tuple[str, str], dict[str, tuple]]:
    """(before, after) of every field in which a policy's rows differ from another's."""
    found = {}
    for (site, p, row), (_, _, other) in zip(POLICIES[name].sites, POLICIES[base].sites, strict=True):
        before, after = dataclasses.asdict(other), dataclasses.asdict(row)
        differ = {field: (before[field], after[field]) for field in after if after[field] != before[field]}
        if differ:
            found[site, p] = differ
    return found


def everywhere(sites: tuple[str, ...] | list[str], differ: dict[str, tuple]) -> dict[tuple[str, str], dict]:
    return {(site, p): differ for site in sites for p in PASSES}


SIXTEEN = {"inner": ("fp32", "fp16"), "sums": ("fp32", "fp16")}


def test_what_each_preset_changes() -> None:
    assert changes("fp16-ln16", "fp16") == everywhere(NORMS, SIXTEEN)
    pure = everywhere([site for site in SITES if site != "embedding"], SIXTEEN)
    pure |= everywhere(GEMM_SITES, SIXTEEN | {"accumulator": ("fp32_sequential", "fp16_fma")})
    assert changes("fp16-pure", "fp16") == pure
    tf32 = {"inputs": ("fp32", "tf32"), "accumulator": ("fp32_mul_add", "fp32_sequential")}
    assert changes("tf32", "fp32") == everywhere(GEMM_SITES, tf32)
    fp8 = {"inputs": ("bf16", "e4m3fn"), "gradient_inputs": (None, "e5m2"), "scaling": ("none", "tensor")}
    assert changes("fp8", "bf16") == everywhere(QUANTIZED_SITES, fp8)
    assert changes("fp8-delayed", "fp8") == everywhere(QUANTIZED_SITES, {"scaling": ("tensor", "delayed")})
    blocks = {"inputs": ("bf16", "e4m3fn"), "scaling": ("none", "blocks")}
    assert changes("fp8-1x128", "bf16") == everywhere(QUANTIZED_SITES, blocks)
    assert changes("fp16-flush", "fp16") == everywhere(SITES, {"subnormals": ("keep", "flush")})
    for name, base in (("fp16-nomaster", "fp16"), ("bf16-nomaster", "bf16"), ("bf16-sr", "bf16")):
        assert changes(name, base) == {}
    assert changes("megatron-fp16", "fp16") == {}
    for name, base, accumulator in (
        ("fp16-h100", "fp16", "h100"),
        ("bf16-amx", "bf16", "amx_bf16"),
        ("native-bf16", "bf16", "native"),
    ):
        assert changes(name, base) == everywhere(GEMM_SITES, {"accumulator": ("fp32_sequential", accumulator)})


def test_autocast() -> None:
    """Linear layers and attention products in half; LayerNorm, softmax, loss, embedding and residual in float32."""
    policy = POLICIES["torch-amp-fp16"]
    assert policy.parameters == "fp32"
    wide = {"inputs": ("fp16", "fp32"), "output": ("fp16", "fp32")}
    expected = everywhere(("embedding", "residual", *NORMS), wide)
    assert changes("torch-amp-fp16", "fp16") == expected | {("softmax", "fprop"): {"output": ("fp16", "fp32")}}
    assert policy.formats == {"fp16", "fp32"}
    assert POLICIES["torch-amp-bf16"].loss_scaling.mode == "none"


def test_gradients_stand_first_in_dgrad_and_second_in_wgrad() -> None:
    row = POLICIES["fp8"].site("qkv", "fprop")
    assert [row.operands(p) for p in PASSES] == [("e4m3fn", "e4m3fn"), ("e5m2", "e4m3fn"), ("e4m3fn", "e5m2")]


def test_native_policies_promise_no_bits() -> None:
    assert [name for name, policy in POLICIES.items() if not policy.promises_bits] == [
        "native-bf16",
        "native-fp16",
        "native-int8",
        "fp64",
    ]


def test_accumulators_by_name() -> None:
    """Every accumulator with every format it takes: all rows of the base but for the accumulator."""
    tried = 0
    for base in ("bf16", "fp16", "tf32"):
        for name, accumulator in ACCUMULATORS.items():
            if accumulator.summation == "native" or not accumulator.takes(parse_format(base)):
                continue
            policy, tried = parse_policy(f"{base}-{name}"), tried + 1
            for (site, _, row), (_, _, other) in zip(policy.sites, POLICIES[base].sites, strict=True):
                expected = name if site in GEMM_SITES else None
                assert row == dataclasses.replace(other, accumulator=expected)
            assert (policy.parameters, policy.loss_scaling) == (
                POLICIES[base].parameters,
                POLICIES[base].loss_scaling,
            )
    assert tried > 50
    assert parse_policy("fp16-amx").site("qkv", "fprop").accumulator == "amx_fp16"
    assert parse_policy("bf16-fp32_split4").site("qkv", "fprop").accumulator == "fp32_split4"
    assert parse_policy("bf16-h100") is POLICIES["bf16-h100"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("bf16-v100", ("accumulator v100 does not take bf16", "fp16")),
        ("tf32-amx_bf16", ("amx_bf16 does not take tf32",)),
        ("fp16-int32", ("int32 does not take fp16", "int8")),
        ("bf16-native", ("native-bf16",)),
        ("bf16-h999", ("'bf16-h999'", "<accumulator>")),
        ("fp32-h100", ("'fp32-h100'", "bf16|fp16|tf32")),
    ],
)
def test_accumulators_that_do_not_fit_are_refused(name: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"take|native|unknown") as error:
        parse_policy(name)
    assert_sentence(error.value, *parts)


def test_one_axis_moved() -> None:
    policy = POLICIES["fp16"]
    flushed = policy.with_(name="flushed", subnormals="flush")
    assert [row for *_, row in flushed.sites] == [row for *_, row in POLICIES["fp16-flush"].sites]
    static = dataclasses.replace(policy.loss_scaling, mode="static", initial=1024.0)
    assert policy.with_(loss_scaling=static) == dataclasses.replace(policy, loss_scaling=static)
    summed = policy.with_(name="fp16-h100", accumulator="h100")
    assert summed == POLICIES["fp16-h100"]
    assert isinstance(summed, Arithmetic)
    assert isinstance(summed.site("gelu", "fprop"), SitePolicy)
