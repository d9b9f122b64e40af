"""``qsim.emulate``: the project's GPT written in jax.numpy, float32 as XLA has it, products, gradients, refusals."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import plain_gpt
import pytest
from bits_assertions import assert_same_bits
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import lax, named_scope
from refusals import refused
from strategies import EDGES, generator

import precision as pr
from precision.statistics import COUNTERS
from qsim import emulate, layers, model
from qsim.config import ModelConfig
from qsim.policy import POLICIES, SitePolicy, parse_policy
from qsim.recorders import Recorder
from qsim.sites import Calculator

CONFIG = ModelConfig(layers=2, hidden=12, heads=3, length=8, vocabulary=17)
LOGITS, LOSS = plain_gpt.of(CONFIG)
LINEAR = SitePolicy(inputs="fp16", output="fp16", accumulator="fp32_sequential")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return generator(seed).normal(size=shape).astype(np.float32)


def parameters() -> dict[str, np.ndarray]:
    """Wide enough that every rounding shows."""
    start = model.initial_parameters(CONFIG, 0)
    return {name: w + 0.3 * normal(*w.shape, seed=i) for i, (name, w) in enumerate(start.items())}


def tokens() -> np.ndarray:
    return generator(2).integers(0, CONFIG.vocabulary, (2, CONFIG.length)).astype(np.int32)


def recorded_totals(recorder: Recorder, calculator: Calculator) -> dict[str, tuple[int, list[int]]]:
    """Number of values and event counts by ``site.pass``, over all layers."""
    totals: dict[str, tuple[int, list[int]]] = {}
    for key, (size, counts, _) in recorder.results(calculator.backend).items():
        name = key.split(".", 2)[2] if key.startswith("layer.") else key
        before = totals.get(name, (0, [0] * len(counts)))
        totals[name] = before[0] + int(size), [a + int(b) for a, b in zip(before[1], counts, strict=True)]
    return totals


# The project's own GPT


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16-ln16", "bf16-h100"])
def test_a_gpt_in_plain_jax_has_the_logits_of_ours(name: str) -> None:
    ours = Calculator(parse_policy(name), "numpy")
    weights = ours.working_copy(parameters())
    expected, _ = model.forward(ours, CONFIG, weights, tokens())
    assert_same_bits(emulate(LOGITS, name)(weights, tokens()), expected)


@pytest.mark.exhaustive
def test_counters_are_those_of_our_recorder() -> None:
    """But for scores, of which ours leaves out what the mask excludes."""
    recorder = Recorder()
    ours = Calculator(POLICIES["fp16"], "numpy", recorder)
    weights = ours.working_copy(parameters())
    expected, _ = model.forward(ours, CONFIG, weights, tokens())
    logits, counters = emulate(LOGITS, "fp16", counters=True)(weights, tokens())
    assert_same_bits(logits, expected)
    totals = {key: total for key, total in recorded_totals(recorder, ours).items() if not key.endswith(".weights")}
    assert counters.keys() == totals.keys()
    for key in totals.keys() - {"scores.fprop"}:
        seen = counters[key]
        assert (seen.format, seen.count) == ("fp16", totals[key][0])
        assert [getattr(seen, name) for name in COUNTERS] == totals[key][1], key


# Float32


def pointwise(x: Any, y: Any, z: Any) -> list[Any]:
    """Everything that has one float32 result, or moves, selects and compares."""
    with named_scope("residual"):
        fused = x * y + z
    picked = jnp.where(x > y, x - z, -y)
    return [
        fused, picked, x / y, jnp.sqrt(jnp.abs(z)), jnp.maximum(x, y), jnp.minimum(x, jax.jit(jnp.add)(y, z)),
        jnp.clip(x, -1, 1), x**3, jax.nn.relu(z), jnp.concatenate([x, y * 2])[::-1], jnp.max(x.reshape(8, -1), 0),
        jnp.min(y.reshape(8, -1), (0, 1)), x[jnp.arange(3) * 2], jnp.isfinite(x), jnp.floor(z), x.reshape(8, -1).T,
        jnp.argmax(jnp.where(jnp.isnan(x), 0, x)), jnp.pad(x, 1), jnp.arange(3) + jnp.int32(2),
    ]  # fmt: skip


def test_float32_is_xla_operation_by_operation() -> None:
    """On a CPU, whose XLA flushes subnormals as ftz32 does."""
    rng = generator(3)
    words = [rng.integers(0, 1 << 32, 512, dtype=np.uint32) for _ in range(3)]
    words = [np.concatenate([rng.permutation(EDGES)[:80], w]) for w in words]
    x, y, z = (jnp.asarray(w.view(np.float32)) for w in words)
    with jax.disable_jit():
        expected = pointwise(x, y, z)
    for got, want in zip(emulate(pointwise, "fp32")(x, y, z), expected, strict=True):
        assert_same_bits(got, want, any_nan=True)


def test_sums_are_trees_and_functions_the_project_s_own() -> None:
    x = normal(4, 5, 6)

    def function(x: Any) -> tuple[Any, ...]:
        return jnp.sum(x, (0, 2)), jnp.exp(x), jnp.tanh(x), lax.rsqrt(x * x), jax.scipy.special.erf(x)

    total, *rest = emulate(function, "fp32")(x)
    float32 = Calculator(POLICIES["fp32"], "numpy").float32
    assert_same_bits(total, float32.sum(x.transpose(1, 0, 2).reshape(5, -1)))
    for name, got in zip(("exp", "tanh", "rsqrt", "erf"), rest, strict=True):
        given = float32.multiply(x, x) if name == "rsqrt" else x
        assert_same_bits(got, getattr(pr, name)(given, fmt="fp32"))


# Products


@settings(max_examples=6)
@given(
    batch=st.lists(st.integers(1, 2), max_size=1),
    free=st.lists(st.integers(1, 3), max_size=2),
    contracting=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    seed=st.integers(0, 3),
)
@example(batch=[2], free=[3, 2], contracting=[2, 3], seed=0)
def test_products_are_matmul(batch: list[int], free: list[int], contracting: list[int], seed: int) -> None:
    """Axes of lhs in the order contracting, batch, free; of rhs batch, contracting, one of 4."""
    x = normal(*contracting, *batch, *free, seed=seed)
    w = normal(*batch, *contracting, 4, seed=seed + 9)
    c, b, f = (tuple(range(n)) for n in (len(contracting), len(batch), len(free)))
    numbers = ((c, tuple(i + len(b) for i in c)), (tuple(i + len(c) for i in b), b))
    got = emulate(lambda x, w: lax.dot_general(x, w, numbers), "fp16")(x, w)
    order = [*(i + len(c) for i in b), *(i + len(c) + len(b) for i in f), *c]
    rows = x.transpose(order).reshape(*batch, int(np.prod(free)), -1)
    a, k = (pr.round_to(v, "fp16") for v in (rows, w.reshape(*batch, rows.shape[-1], 4)))
    expected = pr.matmul(a, k, inputs="fp16", accumulator="fp32_sequential", output="fp16")
    assert_same_bits(got, expected.reshape(*batch, *free, 4))


def test_a_site_s_policy_is_that_of_its_scope() -> None:
    """The innermost that has a name of ours, or one that is mapped to it."""

    def product(x: Any, w: Any) -> Any:
        with named_scope("qkv"), named_scope("head"):
            first = x @ w
        with named_scope("encoder/Dense_0"):
            return first, first @ w

    policy = POLICIES["bf16"].override([("mlp_up.*", {"output": "e4m3fn", "inputs": "e5m2"})])
    x, w = normal(3, 4), normal(4, 4, seed=1)
    first, second = emulate(product, policy, sites={"*/Dense_?": "mlp_up"})(x, w)
    expected = matmul(x, w, "bf16", "bf16")
    assert_same_bits(first, expected)
    assert_same_bits(second, matmul(expected, w, "e5m2", "e4m3fn"))


def matmul(x: np.ndarray, w: np.ndarray, inputs: str, output: str) -> np.ndarray:
    a, b = (pr.round_to(v, inputs) for v in (x, w))
    return pr.matmul(a, b, inputs=inputs, accumulator="fp32_sequential", output=output)


def test_an_equinox_model_rounds_at_each_operation() -> None:
    """Without scopes: product, bias and activation of each layer; its weights stand first in their products."""
    net = eqx.nn.MLP(in_size=5, out_size=3, width_size=4, depth=1, key=jax.random.key(0))
    arrays, rest = eqx.partition(net, eqx.is_array)
    x = normal(6, 5)
    got, counters = emulate(lambda p, x: jax.vmap(eqx.combine(p, rest))(x), "bf16", counters=True)(arrays, x)
    up, down = ((np.asarray(layer.weight).T, np.asarray(layer.bias)) for layer in net.layers)
    hidden = pr.round_to(matmul(x, up[0], "bf16", "bf16") + up[1], "bf16")
    expected = pr.round_to(matmul(np.maximum(hidden, 0), down[0], "bf16", "bf16") + down[1], "bf16")
    assert_same_bits(got, expected)
    assert counters["default.fprop"].count == 6 * (4 + 4 + 4 + 3 + 3)


@pytest.mark.parametrize("name", ["int8-fprop", "fp8", "fp8-1x128"])
def test_the_weight_is_the_second_operand_of_a_site(name: str) -> None:
    """Whichever side the function has it on: as in our own linear layer."""
    policy = POLICIES[name]
    x, w = (pr.round_to(normal(*shape), "bf16") for shape in ((6, 5), (5, 4)))

    def turned(w: Any, x: Any) -> Any:
        with named_scope("mlp_up"):
            return (w.T @ x.T).T

    expected = layers.linear_forward(Calculator(policy, "numpy"), "mlp_up", x, w, None)
    assert_same_bits(emulate(turned, policy)(w, x), expected)


def everyday(x: Any) -> list[Any]:
    """Functions of models as JAX has them."""
    return [
        jax.nn.softmax(x), jax.nn.log_softmax(x), jax.nn.logsumexp(x), jax.nn.silu(x), jax.nn.gelu(x),
        jax.nn.leaky_relu(x), jnp.var(x, -1), x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6),
        jax.nn.dot_product_attention(x, x, x, is_causal=True), jnp.stack([x, jnp.roll(x, 1)]), jnp.abs(x) ** -0.5,
    ]  # fmt: skip


def test_everyday_functions_have_arithmetic() -> None:
    x = normal(2, 4, 2, 8)
    for got, exact in zip(emulate(everyday, "bf16")(x), everyday(x), strict=True):
        assert np.abs(got - exact).max() <= 0.03 * np.abs(exact).max()


# Where values are rounded


def test_values_are_rounded_where_they_leave_a_scope() -> None:
    x, y, z = normal(64), normal(64, seed=1), normal(64, seed=2)

    def function(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
        with named_scope("softmax"):
            inside = x * y
            once = inside + z  # reads the product unrounded
        outside = inside + z  # outside every scope: what left the scope, and rounded itself
        with named_scope("softmax"):
            again = inside + z  # another run of the scope
        return once, outside, again

    once, outside, again = emulate(function, "bf16")(x, y, z)
    float32 = Calculator(POLICIES["fp32"], "numpy").float32
    product = float32.multiply(x, y)
    assert_same_bits(once, pr.round_to(float32.add(product, z), "bf16"))
    rounded = float32.add(pr.round_to(product, "bf16"), z)
    assert_same_bits(outside, pr.round_to(rounded, "bf16"))
    assert_same_bits(again, outside)


def test_outside_every_scope_each_operation_is_rounded_as_default_says() -> None:
    x = normal(64)
    row = dataclasses.replace(LINEAR, output="e5m2")
    result, counters = emulate(lambda x: (x + 1) * 3, "bf16", default=row, counters=True)(x)
    assert_same_bits(result, pr.round_to(3 * pr.round_to(x + np.float32(1), "e5m2"), "e5m2"))
    assert {key: (s.format, s.count) for key, s in counters.items()} == {"default.fprop": ("e5m2", 128)}


def test_custom_derivatives_are_left_to_jax() -> None:
    """The function itself forward, its own rule backward."""

    @jax.custom_vjp
    def doubled(x: Any) -> Any:
        return x + x

    doubled.defvjp(lambda x: (doubled(x), x), lambda x, dy: (dy * x,))
    x = normal(64)
    assert_same_bits(emulate(doubled, "bf16")(x), pr.round_to(x + x, "bf16"))
    gradient = emulate(jax.grad(lambda x: jnp.sum(doubled(x))), "bf16")(x)
    assert_same_bits(gradient, pr.round_to(x, "bf16"))


def test_functions_of_a_narrow_inner_format_are_its_tables() -> None:
    x = pr.round_to(normal(64), "fp16")
    row = dataclasses.replace(LINEAR, inner="fp16")
    for function, name in ((jax.nn.sigmoid, "sigmoid"), (jnp.sin, "sin"), (jnp.exp2, "exp2"), (lax.rsqrt, "rsqrt")):
        expected = getattr(pr, name)(x, fmt="fp16")
        assert_same_bits(emulate(function, "fp16", default=row)(x), expected, any_nan=True)


def test_constants_are_rounded_to_a_narrow_inner_format() -> None:
    def function(x: Any) -> Any:
        with named_scope("layernorm_1"):
            return x * (1 / 3)

    x = pr.round_to(normal(64), "fp16")
    expected = pr.round_to(x * np.float32(np.float16(1 / 3)), "fp16")
    assert_same_bits(emulate(function, "fp16-ln16")(x), expected)


def test_a_function_s_own_narrow_dtypes_stay() -> None:
    x = normal(64)

    def function(x: Any) -> Any:
        return (x.astype(jnp.bfloat16) * 3).astype(jnp.float32), x.astype(jnp.float16)

    wide, half = emulate(function, "fp32")(x)
    assert_same_bits(wide, pr.round_to(pr.round_to(x, "bf16") * 3, "bf16"))
    assert_same_bits(half, x.astype(np.float16))
    taken = emulate(lambda h: h + h, "fp32")(jnp.asarray(x, jnp.bfloat16))
    assert taken.dtype == jnp.bfloat16


def test_draws_are_jax_s_own() -> None:
    key = jax.random.key(0)
    got = emulate(lambda key: jax.random.uniform(key, (64,)), "bf16")(key)
    assert_same_bits(got, jax.random.uniform(key, (64,)))


# Loops, branches, calls


def layer(x: Any, w: Any) -> Any:
    with named_scope("mlp_up"):
        return x @ w - x


def unrolled(x: Any, ws: Any) -> Any:
    for w in ws:
        x = layer(x, w)
    return x


def scanned(x: Any, ws: Any) -> Any:
    return lax.scan(lambda x, w: (layer(x, w), None), x, ws)[0]


def rematerialised(x: Any, ws: Any) -> Any:
    return lax.scan(jax.checkpoint(lambda x, w: (layer(x, w), None)), x, ws)[0]


def branching(x: Any, ws: Any) -> Any:
    return lax.scan(lambda x, w: (lax.cond(w[0, 0] < 9, layer, lambda x, w: x + w, x, w), None), x, ws)[0]


def turning(x: Any, ws: Any) -> Any:
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, layer(s[1], ws[s[0]])), (0, x))[1]


def called(x: Any, ws: Any) -> Any:
    return jax.jit(unrolled)(x, ws)


@pytest.mark.parametrize("function", [scanned, rematerialised, branching, turning, called])
def test_loops_and_branches_compute_what_they_spell(function: Callable) -> None:
    x, ws = normal(4, 4), normal(3, 4, 4, seed=1)
    assert_same_bits(emulate(function, "fp16")(x, ws), emulate(unrolled, "fp16")(x, ws))


@pytest.mark.parametrize("function", [scanned, branching])
def test_counters_of_loops_and_branches_add_up(function: Callable) -> None:
    x, ws = normal(4, 4), normal(3, 4, 4, seed=1)
    _, expected = emulate(unrolled, "fp16", counters=True)(x, ws)
    _, counters = emulate(function, "fp16", counters=True)(x, ws)
    assert counters["mlp_up.fprop"] == expected["mlp_up.fprop"]
    assert expected["mlp_up.fprop"].count == 3 * 2 * 16


def test_under_jit_the_bits_are_the_same() -> None:
    x, w = normal(4, 4), normal(4, 4, seed=1)
    assert_same_bits(jax.jit(emulate(layer, "fp16"))(x, w), emulate(layer, "fp16")(x, w))


# Gradients


@pytest.mark.parametrize("name", ["fp16", "fp8"])
def test_gradients_are_the_products_of_dgrad_and_wgrad(name: str) -> None:
    """A linear layer, against ours."""
    policy = POLICIES[name]
    x, w, dy = (pr.round_to(normal(*shape), "bf16") for shape in ((6, 5), (5, 4), (6, 4)))

    def linear(w: Any, x: Any) -> Any:
        with named_scope("mlp_up"):
            return x @ w

    def gradients(w: Any, x: Any, dy: Any) -> Any:
        with named_scope("embedding"):
            x = x * 1  # computed, as what a layer is given
        return jax.vjp(linear, w, x)[1](dy)

    (dw, dx), counters = emulate(gradients, policy, counters=True)(w, x, dy)
    ours = Calculator(policy, "numpy")
    expected_dx, expected_dw = layers.linear_backward(ours, "mlp_up", x, w, dy, 1)
    assert_same_bits(dw, expected_dw[0])
    assert_same_bits(dx, expected_dx)
    assert (counters["mlp_up.dgrad"].count, counters["mlp_up.wgrad"].count) == (x.size, w.size)


@pytest.mark.exhaustive
def test_gradients_of_a_gpt_are_near() -> None:
    weights = Calculator(POLICIES["bf16"], "numpy").working_copy(parameters())
    targets = np.roll(tokens(), -1, 1)
    exact = jax.grad(LOSS)(weights, tokens(), targets)
    got = emulate(jax.grad(LOSS), "bf16")(weights, tokens(), targets)
    for name, gradient in exact.items():
        error = np.abs(np.asarray(got[name]) - gradient).max()
        assert 0 < error < 0.05 * np.abs(gradient).max(), name


@pytest.mark.parametrize("function", [scanned, rematerialised])
def test_gradients_through_loops_are_those_without(function: Callable) -> None:
    x, ws = normal(4, 4), normal(3, 4, 4, seed=1)

    def gradient(function: Callable) -> Callable:
        return emulate(jax.grad(lambda ws, x: jnp.sum(function(x, ws) ** 2)), "fp16", counters=True)

    expected, counters = gradient(unrolled)(ws, x)
    got, seen = gradient(function)(ws, x)
    assert_same_bits(got, expected)
    assert seen["mlp_up.wgrad"] == counters["mlp_up.wgrad"]
    assert counters["mlp_up.wgrad"].count == ws.size


def test_a_lookup_s_gradient_adds_rows_in_order() -> None:
    """Of repeated rows; and of a row of each."""
    table, rows = normal(5, 3), np.array([[4, 1, 4], [4, 0, 1]])
    dy = normal(2, 3, 3, seed=1)
    got = emulate(lambda t: jax.vjp(lambda t: t[rows], t)[1](dy)[0], "fp32")(table)
    module = Calculator(POLICIES["fp32"], "numpy").backend
    expected = module.scatter_add_rows(rows.reshape(1, -1), dy.reshape(1, -1, 3), 5)[0]
    assert_same_bits(got, expected)
    columns, dz = np.array([[1], [2], [0], [2], [1]]), normal(5, 1, seed=2)
    picked = emulate(lambda t: jax.vjp(lambda t: jnp.take_along_axis(t, columns, 1), t)[1](dz)[0], "fp32")(table)
    expected = np.zeros_like(table)
    np.put_along_axis(expected, columns, dz, 1)
    assert_same_bits(picked, expected)


# Refusals


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lax.erf_inv, "erf_inv"),
        (jnp.cumsum, "cumsum"),
        (jnp.sort, "sort"),
        (lambda x: jnp.fft.fft(x).real, "complex"),
        (jnp.log1p, "log1p"),
        (jnp.sin, "sin"),
        (lambda x: x**0.3, "pow"),
    ],
)
def test_an_unknown_primitive_is_refused_by_name(function: Callable, name: str) -> None:
    def scoped(x: Any) -> Any:
        with named_scope("loss"):
            return function(x)

    with refused(NotImplementedError, name, "(loss)", "write it by"):
        emulate(scoped, "fp32")(normal(4))


def test_other_refusals() -> None:
    x = normal(4, 4)
    with refused(ValueError, "'nowhere'", "qkv"):
        emulate(layer, "fp16", sites={"*": "nowhere"})
    with refused(ValueError, "rows of single layers"):
        emulate(layer, POLICIES["fp16"].override([("layer.1.qkv.*", {"output": "bf16"})], layers=2))
    with refused(ValueError, "fp8-delayed", "earlier steps", "tensor"):
        emulate(layer, "fp8-delayed")(x, x)
    with refused(ValueError, "fp8", "no accumulator", "default"):
        emulate(jnp.matmul, "fp8")(x, x)
    with refused(ValueError, "stochastically", "nearest"):
        emulate(jnp.add, POLICIES["bf16"].with_(rounding="stochastic"))(x, x)
    with refused(NotImplementedError, "while", "counters"):
        emulate(turning, "fp16", counters=True)(x, normal(3, 4, 4))
    with refused(TypeError, "outside jit"):
        jax.jit(emulate(layer, "fp16", counters=True))(x, x)
    with refused(TypeError, "no derivative", "emulate(jax.grad"):
        jax.grad(lambda x: emulate(layer, "fp16")(x, x).sum())(x)
    with refused(ValueError, "unknown number format or policy", "fp16"):
        emulate(layer, "fp15")


def test_the_package_itself_imports_no_jax() -> None:
    command = "import sys, qsim; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False, timeout=60).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'imitate'"):
        _ = __import__("qsim").imitate
