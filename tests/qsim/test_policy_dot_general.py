"""A policy as a dot_general, against the policy's own linear layer, forward and backward."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from small_runs import assert_sentence
from strategies import generator

import precision as pr
from precision.passes import Passes
from precision.random_bits import as_key, fold_in, fold_name
from qsim.config import ModelConfig
from qsim.dot_general import for_policy
from qsim.layers import add_chunks, linear_backward, linear_forward
from qsim.model import rounding_keys
from qsim.policy import GEMM_SITES, POLICIES, Arithmetic
from qsim.sites import Calculator

DENSE = (((1,), (0,)), ((), ()))
ROWS, INPUTS, OUTPUTS = 12, 10, 7
PRODUCTS = (
    "fp32",
    "bf16",
    "fp16",
    "int8-fprop",
    "int8-train",
    "int8-train-sr",
    "tf32",
    "fp16-pure",
    "torch-amp-fp16",
)
MODEL, SEED, STEP, LAYER = ModelConfig(layers=3), 5, 8, 2


def operands(policy: Arithmetic) -> list[np.ndarray]:
    """x, w, dy as values of the policy's format."""
    rng = generator(61)
    shapes = (ROWS, INPUTS), (INPUTS, OUTPUTS), (ROWS, OUTPUTS)
    return [pr.round_to(rng.normal(size=shape).astype(np.float32), policy.parameters) for shape in shapes]


def layer_key() -> tuple[int, int]:
    """Of mlp_up in one layer and step, by its definition."""
    return fold_in(fold_in(fold_name(as_key(SEED), "quantization.mlp_up"), STEP), LAYER)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("name", PRODUCTS)
def test_bits_of_the_policy_s_linear_layer(name: str, quantized: bool) -> None:
    """Draws included: the site's key of a step and a layer."""
    policy = POLICIES[name].quantized() if quantized else POLICIES[name]
    x, w, dy = operands(policy)
    ar = Calculator(policy, "numpy")
    y = linear_forward(ar, "mlp_up", x, w, None)
    drawn = rounding_keys(MODEL, policy, SEED, STEP)
    first, second = (drawn[f"mlp_up.{p}"][LAYER] if drawn else None for p in ("dgrad", "wgrad"))
    dx, dw = linear_backward(ar, "mlp_up", x, w, dy, 1, (first, second))
    dw = add_chunks(ar, dw)

    def run(x: Any, w: Any, dy: Any, key: Any) -> Any:
        y, vjp = jax.vjp(lambda x, w: for_policy(policy, "mlp_up")(x, w, DENSE, key=key), x, w)
        return y, *vjp(dy)

    key = np.array(layer_key(), np.uint32)
    for result, expected in zip(jax.jit(run)(x, w, dy, key), (y, dx, dw), strict=True):
        assert_same_bits(result, expected)
    assert_same_bits(for_policy(policy, "mlp_up")(x, w, DENSE, key=key), y)


def test_keys_of_roundings_differ_by_site_pass_layer_and_step() -> None:
    policy = POLICIES["int8-train-sr"]
    drawn = [rounding_keys(MODEL, policy, seed, step) for seed, step in ((5, 8), (5, 9), (6, 8))]
    rows = [tuple(map(int, row)) for keys in drawn for of_site in keys.values() for row in of_site]
    assert len(set(rows)) == len(rows) == 3 * 4 * 2 * MODEL.layers
    for p in ("dgrad", "wgrad"):
        assert tuple(drawn[0][f"mlp_up.{p}"][LAYER]) == Passes.key_of(p, layer_key())
    assert rounding_keys(MODEL, POLICIES["int8-train"], 5, 8) == {}
    of_one_layer = POLICIES["int8-train"].override([("layer.1.qkv.dgrad", {"gradient_rounding": "stochastic"})])
    assert rounding_keys(MODEL, of_one_layer, 5, 8).keys() == {"qkv.dgrad"}


def test_every_site_has_its_own_row() -> None:
    """One site and pass changed changes that product alone."""
    policy = POLICIES["bf16"]
    changed = dataclasses.replace(
        policy,
        sites=tuple(
            (site, p, dataclasses.replace(row, accumulator="fp32_mul_add", output="fp32"))
            if (site, p) == ("scores", "wgrad")
            else (site, p, row)
            for site, p, row in policy.sites
        ),
    )
    for site in GEMM_SITES:
        before, after = for_policy(policy, site), for_policy(changed, site)
        assert (before.fprop, before.dgrad) == (after.fprop, after.dgrad)
        assert (before.wgrad == after.wgrad) == (site != "scores")


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16-noscale", "tf32", "fp16-pure"])
def test_the_site_may_be_left_out_where_all_agree(name: str) -> None:
    assert {for_policy(name, site) for site in GEMM_SITES} == {for_policy(name)}


def test_sites_that_differ_must_be_named() -> None:
    with pytest.raises(ValueError, match="differently") as error:
        for_policy(POLICIES["bf16"].quantized())
    assert_sentence(error.value, "bf16-int8", "qkv", "scores", *GEMM_SITES)


def test_a_site_without_a_product_is_refused() -> None:
    with pytest.raises(ValueError, match="softmax") as error:
        for_policy("bf16", "softmax")
    assert_sentence(error.value, "'softmax'", *GEMM_SITES)


@pytest.mark.parametrize(("name", "part"), [("fp8", "scales its operands"), ("fp16-flush", "another way")])
def test_what_a_dot_general_does_not_do_is_refused(name: str, part: str) -> None:
    with pytest.raises(ValueError, match=part) as error:
        for_policy(name, "qkv")
    assert_sentence(error.value, "qkv.fprop", name, part)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown") as error:
        for_policy("fp99")
    assert_sentence(error.value, "'fp99'", *POLICIES)
