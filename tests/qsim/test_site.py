"""Operations of a site whose inner arithmetic, sums, operands or outputs are narrower than float32."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from strategies import generator

import precision as pr
from precision.backends import get_backend
from precision.scaled_products import block_scaled_product
from precision.tables import table
from qsim.layers import bias_gradient, layernorm_forward, linear_forward
from qsim.policy import PASSES, POLICIES, parse_policy
from qsim.recorders import Recorder
from qsim.sites import Calculator

LN16, AMP = POLICIES["fp16-ln16"], POLICIES["torch-amp-fp16"]


def halves(seed: int, *shape: int) -> np.ndarray:
    return pr.round_to(generator(seed).normal(size=shape).astype(np.float32), "fp16")


def on(backend: Executor, policy, function, *arrays):
    """``function(calculator, *arrays)`` under jit."""
    run = backend.module.jit(lambda *x: function(Calculator(policy, backend.name), *x))
    return np.asarray(run(*map(backend.array, arrays)))


@pytest.mark.parametrize("width", [1, 5, 8])
def test_sums_that_round_every_addition(backend: Executor, width: int) -> None:
    x = halves(width, 3, width)
    result = on(backend, LN16, lambda ar, x: ar.at("layernorm_1", "fprop").sum(x), x)
    with np.errstate(over="ignore"):
        level = [x[:, i].astype(np.float16) for i in range(width)]
        while len(level) > 1:  # neighbours; the odd one waits
            level = [sum(level[i : i + 2][1:], level[i]) for i in range(0, len(level), 2)]
    assert_same_bits(result, level[0].astype(np.float32))


def test_layernorm_in_fp16_is_that_of_numpy_s_halves(backend: Executor) -> None:
    """Mean, squares, sums, root, quotient, gain and bias: each operation of NumPy's float16 rounds once."""
    x, gain, bias = halves(1, 4, 8), halves(2, 8), halves(3, 8)

    def forward(ar, x, gain, bias):
        return layernorm_forward(ar, "layernorm_1", x, gain, bias, 1e-5)[0]

    result = on(backend, LN16, forward, x, gain, bias)
    x, gain, bias = (v.astype(np.float16) for v in (x, gain, bias))
    eighth, epsilon = np.float16(1 / 8), np.float16(np.float32(1e-5))

    def total(v):
        while v.shape[-1] > 1:
            v = v[..., 0::2] + v[..., 1::2]
        return v

    centred = x - total(x) * eighth
    inverse = np.float16(1) / np.sqrt(total(centred * centred) * eighth + epsilon)
    assert_same_bits(result, (centred * inverse * gain + bias).astype(np.float32))


@pytest.mark.parametrize("function", ["exp", "log"])
def test_functions_of_a_16_bit_inner_format_are_correctly_rounded(backend: Executor, function: str) -> None:
    x = np.abs(halves(5, 64))
    pure = POLICIES["fp16-pure"]
    result = on(backend, pure, lambda ar, x: getattr(ar.at("loss", "fprop"), function)(x), x)
    codes = pr.encode(x, "fp16").astype(np.int64)
    assert_same_bits(result, table(function, "fp16")[codes])


def test_a_scalar_is_rounded_to_the_inner_format() -> None:
    assert float(Calculator(LN16, "numpy").at("layernorm_1", "fprop").scalar(1 / 3)) == float(np.float16(1 / 3))
    assert float(Calculator(LN16, "numpy").at("qkv", "fprop").scalar(1 / 3)) == float(np.float32(1 / 3))


def test_operands_and_biases_are_cast_where_wider_values_reach_them(backend: Executor) -> None:
    """Under autocast float32 activations, weights and biases enter a linear layer as halves."""
    rng = generator(9)
    x, w, b = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 6), (6, 3), (3,)))
    result = on(backend, AMP, lambda ar, x, w, b: linear_forward(ar, "qkv", x, w, b), x, w, b)
    hx, hw, hb = (pr.round_to(v, "fp16") for v in (x, w, b))
    y = pr.matmul(hx, hw, inputs=pr.FP16, output=pr.FP16, backend="numpy")
    assert_same_bits(result, pr.round_to(y + hb, "fp16"))
    gradient = on(backend, AMP, lambda ar, dy: bias_gradient(ar, "qkv", dy, 1), x)
    assert_same_bits(gradient, on(backend, POLICIES["fp16"], lambda ar, dy: bias_gradient(ar, "qkv", dy, 1), hx))


def test_tf32_rounds_operands_alone(backend: Executor) -> None:
    rng = generator(10)
    x, w, b = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 6), (6, 3), (3,)))
    result = on(backend, POLICIES["tf32"], lambda ar, x, w, b: linear_forward(ar, "qkv", x, w, b), x, w, b)
    tx, tw = pr.round_to(x, "tf32"), pr.round_to(w, "tf32")
    assert_same_bits(result, pr.matmul(tx, tw, inputs=pr.TF32, backend="numpy") + b)


def test_the_exact_accumulator_rounds_once_to_the_output(backend: Executor) -> None:
    """1 + 2^-11 + 2^-40 is above the tie of halves, and on it in float32."""
    x = np.array([[1, 2.0**-11, 2.0**-20]], np.float32)
    w = np.array([[1], [1], [2.0**-20]], np.float32)
    policy = parse_policy("fp16-exact")
    result = on(backend, policy, lambda ar, x, w: linear_forward(ar, "qkv", x, w, None), x, w)
    total = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x[0], w[:, 0], strict=True))
    assert total > 1 + Fraction(2) ** -11
    assert result.item() == 1 + 2.0**-10


@pytest.mark.parametrize("function", ["output", "gelu"])
def test_flushed_outputs(backend: Executor, function: str) -> None:
    x = np.array([2.0**-15, -(2.0**-20), 2.0**-14, 1.0, -0.0], np.float32)
    result = on(backend, POLICIES["fp16-flush"], lambda ar, x: getattr(ar.at("gelu", "fprop"), function)(x), x)
    kept = on(backend, POLICIES["fp16"], lambda ar, x: getattr(ar.at("gelu", "fprop"), function)(x), x)
    assert_same_bits(result, np.where(np.abs(kept) < 2.0**-14, np.copysign(np.float32(0), kept), kept))
    assert (kept[:2] != 0).all()


@pytest.mark.parametrize("mode", ["toward_zero", "up", "nearest_away"])
def test_directed_outputs(backend: Executor, mode: str) -> None:
    x = generator(11).normal(size=40).astype(np.float32)
    policy = POLICIES["bf16"].override([("residual.fprop", {"rounding": mode})])
    result = on(backend, policy, lambda ar, x: ar.at("residual", "fprop").output(x), x)
    assert_same_bits(result, pr.round_to(x, "bf16", rounding=mode))


def test_stages_round_where_they_are_narrow(backend: Executor) -> None:
    x = generator(12).normal(size=24).astype(np.float32)
    policy = POLICIES["bf16"].override([("gradient_reduction", {"format": "fp16", "rounding": "toward_zero"})])
    result = on(backend, policy, lambda ar, x: ar.stage("gradient_reduction").output(x), x)
    assert_same_bits(result, pr.round_to(x, "fp16", rounding="toward_zero"))
    assert_same_bits(on(backend, policy, lambda ar, x: ar.stage("moments").output(x), x), x)


def test_rows_of_a_layer_are_in_force_in_it_alone() -> None:
    """Three layers, the middle one rounding to e5m2; what is recorded stands under each layer's number."""
    policy = POLICIES["bf16"].override([("layer.1.residual.fprop", {"output": "e5m2"})])
    recorder = Recorder()
    ar = Calculator(policy, "numpy", recorder)
    xs = {"x": generator(13).normal(size=(3, 6)).astype(np.float32)}
    for reverse in (False, True):
        order, ys = ar.scan(
            lambda carry, layer: ([*carry, layer["x"][0]], ar.at("residual", "fprop").output(layer["x"])),
            [],
            xs,
            reverse=reverse,
        )
        assert order == list(xs["x"][::-1, 0] if reverse else xs["x"][:, 0])
        for i, fmt in enumerate(("bf16", "e5m2", "bf16")):
            assert_same_bits(ys[i], pr.round_to(xs["x"][i], fmt))
            assert recorder.formats[f"layer.{i}.residual.fprop"].name == fmt
    with pytest.raises(ValueError, match="layer 1"):
        ar.scan(lambda carry, layer: (carry, layer["x"]), [], {"x": xs["x"][:1]})


def test_equal_layers_in_segments_have_the_bits_of_one_scan() -> None:
    """Rows that differ in nothing a forward pass computes."""
    policy = POLICIES["bf16"]
    row = dataclasses.replace(policy.site("gelu", "wgrad"), output="fp32")
    cut = dataclasses.replace(policy, layers=((1, "gelu", "wgrad", row),))
    assert cut.segments(3) == [(0, 1), (1, 2), (2, 3)]
    xs = {"x": generator(14).normal(size=(3, 6)).astype(np.float32)}

    def run(policy):
        ar = Calculator(policy, "numpy")
        site = ar.at("residual", "fprop")
        return ar.scan(lambda c, layer: ((y := site.output(site.add(c, layer["x"]))), y), xs["x"][0], xs)

    for whole, pieces in zip(run(policy), run(cut), strict=True):
        assert_same_bits(pieces, whole)


@pytest.mark.parametrize("direction", PASSES)
def test_blocks_of_weights_are_square_and_those_of_activations_and_gradients_are_not(direction) -> None:
    """One weight 100,000 times as large as the rest takes the precision of its whole block, one activation only
    that of its row's."""
    policy = POLICIES["fp8-1x128"].override([("*", {"block": 2})])
    a, b = np.full((4, 4), 3e-3, np.float32), np.full((4, 4), 3e-3, np.float32)
    a[0, 0], b[0, 0] = 370, 370
    y = Calculator(policy, "numpy").at("mlp_up", direction).matmul(a, b)
    formats, square = (pr.E4M3FN, pr.E4M3FN), direction != "wgrad"
    module = get_backend("numpy")
    expected = block_scaled_product(module, a[None], b[None], lambda x, y: x @ y, formats, 2, square)[0]
    assert_same_bits(y, expected)
    other = block_scaled_product(module, a[None], b[None], lambda x, y: x @ y, formats, 2, not square)[0]
    assert (other != y).any()


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "native-bf16"])
def test_an_own_output_is_the_output_whose_memory_is_taken_over(name: str) -> None:
    policy = POLICIES[name]
    site = Calculator(policy, "numba").at("qkv", "fprop")
    a, b = (pr.round_to(generator(seed).normal(size=(1, 8, 8)).astype(np.float32), "bf16") for seed in (1, 2))
    a[0, 0, 0] = np.nan
    products = site.matmul(a, b)
    expected = site.output(products)
    taken = site.own_output(products)
    assert_same_bits(np.asarray(taken), np.asarray(expected))
    assert np.shares_memory(taken, products)


def test_what_is_recorded_keeps_its_products() -> None:
    recorder = Recorder()
    site = Calculator(POLICIES["fp16"], "numba", recorder).at("qkv", "fprop")
    products = np.full((1, 2, 2), 1 + 2.0**-12, np.float32)
    assert_same_bits(site.own_output(products), np.ones((1, 2, 2), np.float32))
    assert_same_bits(products, np.full((1, 2, 2), 1 + 2.0**-12, np.float32))
