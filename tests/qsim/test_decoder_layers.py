"""RMSNorm, rotary positions, activations and grouped attention: by definition, and the same bits everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from strategies import generator

import precision as pr
from qsim import decoder_layers, layers
from qsim.decoder_config import Activation, DecoderConfig
from qsim.policy import POLICIES, parse_policy
from qsim.positions import rotary_table
from qsim.sites import Calculator

EDGES = np.array(
    [0, -0.0, 1e-40, -1e-40, 2**-126, -(2**-126), 1, -1, 88, -88, 104, -104, 3e38, -3e38, np.inf, -np.inf, np.nan],
    np.float32,
)


def run(backend: Executor | str, policy: str, function: Callable, *arrays: np.ndarray) -> np.ndarray:
    """function(calculator, *arrays), jitted on JAX."""
    name = backend if isinstance(backend, str) else backend.name

    def computed(*arrays: Any) -> Any:
        return function(Calculator(parse_policy(policy), name), *arrays)

    return np.asarray(jax.jit(computed)(*arrays) if name == "jax" else computed(*arrays))


def normal(seed: int, *shape: int) -> np.ndarray:
    return generator(seed).normal(size=shape).astype(np.float32)


def patterns(seed: int, count: int) -> np.ndarray:
    """Any float32, the named edges first."""
    words = generator(seed).integers(0, 1 << 32, count, dtype=np.uint32).view(np.float32)
    words[: EDGES.size] = EDGES
    words[EDGES.size : count // 2] = normal(seed, count // 2 - EDGES.size) * 4
    return words


def active(activation: Activation) -> Callable:
    return lambda ar, x: decoder_layers.activation_forward(ar, activation, x)


# Activations


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("policy", ["fp32", "bf16"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu"])
def test_activations_have_the_same_bits(backend: Executor, activation: Activation, policy: str) -> None:
    x = patterns(1, 512).reshape(2, 256)
    if policy == "bf16":
        x = pr.round_to(x, pr.BF16)
    assert_same_bits(run(backend, policy, active(activation), x), run("numpy", policy, active(activation), x), x)


def test_relu_is_the_larger_of_x_and_zero() -> None:
    x = patterns(2, 4096)
    with np.errstate(invalid="ignore"):
        flushed = np.where(np.abs(x) < np.float32(2**-126), np.copysign(np.float32(0), x), x)
        expected = np.where(flushed < 0, np.float32(0), flushed)
    expected[np.isnan(x)] = np.uint32(0x7FC00000).view(np.float32)
    assert_same_bits(run("numpy", "fp32", active("relu"), x), expected, x)


@pytest.mark.parametrize("fmt", ["fp16", "bf16"])
@pytest.mark.parametrize(("activation", "exact"), [("silu", pr.silu), ("gelu", pr.gelu), ("gelu_tanh", pr.gelu_tanh)])
def test_sixteen_bits_are_rounded_once(fmt: str, activation: Activation, exact: Callable) -> None:
    x = oracles.every_value(fmt).view(np.float32)
    assert_same_bits(run("numpy", fmt, active(activation), x), exact(x, fmt=fmt), x)


@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
def test_float32_activations_are_near_the_definition(activation: Activation) -> None:
    """Within 2^-21 |x|; silu, which cancels nowhere, within 2^-21 of itself."""
    x = np.concatenate([np.linspace(-80, 80, 20001), np.geomspace(1e-30, 1, 500)]).astype(np.float32)
    wide = x.astype(np.float64)
    inside = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    true = wide / (1 + np.exp(-wide)) if activation == "silu" else wide * (1 + np.tanh(inside)) / 2
    off = np.abs(run("numpy", "fp32", active(activation), x) - true)
    assert np.all(off <= 2.0**-21 * np.abs(true if activation == "silu" else wide))


def test_ends_of_the_activations() -> None:
    ends: tuple[tuple[Activation, float], ...] = (("gelu", -0.0), ("gelu_tanh", -0.0), ("silu", -0.0), ("relu", 0.0))
    x = np.array([-3e38, 3e38, np.inf, np.nan], np.float32)
    for activation, below in ends:
        expected = np.array([below, 3e38, np.inf, np.nan], np.float32)
        assert_same_bits(run("numpy", "fp32", active(activation), x), expected, x)


# RMSNorm


def rmsnorm(ar: Calculator, x: Any, gain: Any) -> Any:
    return decoder_layers.rmsnorm_forward(ar, "layernorm_1", x, gain, 1e-5)


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("policy", ["fp32", "bf16", "fp16-ln16"])
def test_rmsnorm_has_the_same_bits(backend: Executor, policy: str) -> None:
    x, gain = normal(3, 6, 20), normal(4, 20)
    x[0], x[1, 0], x[2, 3], x[3] = 0, np.inf, np.nan, x[3] * np.float32(1e-22)
    x, gain = (pr.round_to(one, parse_policy(policy).parameters) for one in (x, gain))
    assert_same_bits(run(backend, policy, rmsnorm, x, gain), run("numpy", policy, rmsnorm, x, gain))


@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
def test_rmsnorm_is_near_the_definition(scale: float) -> None:
    x, gain = normal(5, 50, 33) * np.float32(scale), normal(6, 33)
    wide = x.astype(np.float64)
    true = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * gain
    assert np.all(np.abs(run("numpy", "fp32", rmsnorm, x, gain) - true) <= 2.0**-21 * np.abs(true))
    in_float64 = run("numpy", "fp64", rmsnorm, wide, gain.astype(np.float64))
    assert np.all(np.abs(in_float64 - true) <= 1e-14 * np.abs(true))


# Rotary positions


def rotary(width: int, first: int = 0) -> Callable:
    return lambda ar, x: decoder_layers.rotary_forward(ar, x, width, 10000.0, first)


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("policy", ["fp32", "fp16"])
def test_rotary_has_the_same_bits(backend: Executor, policy: str) -> None:
    x = pr.round_to(normal(7, 3, 5, 8), parse_policy(policy).parameters)
    assert_same_bits(run(backend, policy, rotary(6), x), run("numpy", policy, rotary(6), x))


def test_rotary_turns_pairs_by_their_angle() -> None:
    x = normal(8, 2, 40, 10)
    found = run("numpy", "fp32", rotary(6), x)
    assert_same_bits(found[..., 6:], x[..., 6:])
    assert_same_bits(found[:, 0], x[:, 0])
    angles = np.arange(40)[:, None] * 10000.0 ** (-2 * np.arange(3) / 6)
    pairs = x[..., :3].astype(np.float64) + 1j * x[..., 3:6]
    turned = pairs * np.exp(1j * angles)
    assert np.all(np.abs(found[..., :3] - turned.real) <= 2.0**-22 * np.abs(pairs))
    assert np.all(np.abs(found[..., 3:6] - turned.imag) <= 2.0**-22 * np.abs(pairs))


def test_rotary_rounds_once_under_a_narrow_policy() -> None:
    """Products and their sum in float32, then fp16: operation by operation in NumPy."""
    x = normal(9, 1, 30, 4).astype(np.float16).astype(np.float32)
    cosine, sine = rotary_table(30, 4, 10000.0)
    a, b = x[..., :2], x[..., 2:]
    expected = np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)
    found = run("numpy", "fp16", rotary(4), x)
    assert_same_bits(found, expected.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("first", [1, 7])
def test_rotary_of_later_rows(first: int) -> None:
    x = normal(10, 2, 12, 4)
    whole = run("numpy", "fp32", rotary(4), x)
    assert_same_bits(run("numpy", "fp32", rotary(4, first), x[:, first:]), whole[:, first:])


# Attention and the MLP


def config(**changes: Any) -> DecoderConfig:
    sizes: dict[str, Any] = {"layers": 1, "hidden": 12, "heads": 4, "kv_heads": 2, "head_size": 3, "intermediate": 20}
    return DecoderConfig(**(sizes | {"vocabulary": 5, "length": 9, "positions": "learned"} | changes))


@pytest.mark.parametrize("policy", ["fp32", "bf16"])
def test_grouped_attention_is_that_of_repeated_heads(policy: str) -> None:
    """Heads 0 and 1 read the first keys, 2 and 3 the second: the bits of a model with these as heads of their own."""
    qkv = pr.round_to(normal(11, 2 * 9, 12 + 6 + 6), parse_policy(policy).parameters)
    queries, *others = np.split(qkv, [12, 18], axis=1)
    repeated = [np.repeat(x.reshape(-1, 2, 3), 2, axis=1).reshape(-1, 12) for x in others]
    wide = np.concatenate([queries, *repeated], axis=1)
    found = run("numpy", policy, lambda ar, x: decoder_layers.grouped_attention(ar, config(), x, 2, None)[0], qkv)
    expected = run("numpy", policy, lambda ar, x: layers.attention_forward(ar, x, 2, 4)[0], wide)
    assert_same_bits(found, expected)


def test_gated_mlp_rounds_the_activation_and_the_product() -> None:
    """fp16, operation by operation: each product of matrices, silu, the product of both, each rounded."""
    p = {f"{name}.weight": normal(12 + i, *shape).astype(np.float16).astype(np.float32) for i, (name, shape) in
         enumerate({"mlp_gate": (12, 20), "mlp_up": (12, 20), "mlp_down": (20, 12)}.items())}  # fmt: skip
    x = normal(20, 6, 12).astype(np.float16).astype(np.float32)
    gated = config(gated=True, activation="silu", biases=False)
    found = run("numpy", "fp16", lambda ar, x: decoder_layers.mlp_forward(ar, gated, p, x), x)

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return pr.matmul(a, b, inputs="fp16", accumulator="fp32_sequential", output="fp16", backend="numpy")

    gate = pr.silu(product(x, p["mlp_gate.weight"]), fmt="fp16")
    both = (gate * product(x, p["mlp_up.weight"])).astype(np.float16).astype(np.float32)
    assert_same_bits(found, product(both, p["mlp_down.weight"]))


def test_policies_reach_every_layer() -> None:
    """Every policy by name that needs no state computes a gated MLP with finite results."""
    p = {
        "mlp_gate.weight": normal(30, 12, 20),
        "mlp_up.weight": normal(31, 12, 20),
        "mlp_down.weight": normal(32, 20, 12),
    }
    gated = config(gated=True, activation="silu", biases=False)
    for name, policy in POLICIES.items():
        if policy.delays:
            continue
        ar = Calculator(policy, "numpy")
        weights = ar.working_copy(p)
        found = decoder_layers.mlp_forward(ar, gated, weights, pr.round_to(normal(33, 4, 12), "fp16"))
        assert np.isfinite(found).all(), name
