"""Gradients of rounding on JAX: bits of the value unchanged, each rule as defined, under every transformation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from strategies import EDGES, drawn, generator, sprinkled

import precision as pr
from precision.backends.jax_.gradients import straight_through

RULES = ("straight_through", "clipped", "zero")
FORMATS = ("fp16", "bf16", "e4m3fn", "e8m0", "fp32", "int8")
Array = Any

every_rule = pytest.mark.parametrize("rule", RULES)
every_format = pytest.mark.parametrize("fmt", FORMATS)


def operand(size: int = 512) -> np.ndarray:
    """Edges of float32, its patterns at large, and values about the range of every format."""
    rng = generator(21)
    words = np.concatenate([EDGES, drawn(rng, size), sprinkled(rng, drawn(rng, size, (100, 150)))])
    return np.concatenate([words.view(np.float32), beside_the_ends()])


def beside_the_ends() -> np.ndarray:
    """The ends of each format's range and the float32 values beside them."""
    ends = np.array([end for name in FORMATS for end in (pr.FORMATS[name].minimum, pr.FORMATS[name].maximum)], "f4")
    with np.errstate(over="ignore"):
        return np.concatenate([ends, np.nextafter(ends, np.float32(np.inf)), np.nextafter(ends, np.float32(-np.inf))])


def cotangents(shape: tuple[int, ...]) -> np.ndarray:
    """Any patterns but NaN, zeros of both signs and subnormals among them."""
    words = sprinkled(generator(22), drawn(generator(23), shape), 0.3)
    x = words.view(np.float32)
    return np.where(np.isnan(x), np.float32(-0.0), x)


def passed(rule: str, x: np.ndarray, fmt: str, dy: np.ndarray) -> np.ndarray:
    """dx by definition."""
    if rule == "straight_through":
        return dy
    low, high = pr.FORMATS[fmt].minimum, pr.FORMATS[fmt].maximum
    inside = [rule == "clipped" and (value != value or low <= value <= high) for value in x.ravel().tolist()]
    return np.where(np.reshape(inside, x.shape), dy, np.float32(0))


def rounding(fmt: str, rule: str) -> Callable[[Array], Array]:
    return lambda x: pr.round_to(x, fmt, gradient=rule)


# The value


@pytest.mark.thinned(0.25)
@every_format
@every_rule
def test_values_keep_their_bits(rule: str, fmt: str) -> None:
    x, function = operand(), rounding(fmt, rule)
    x = x[~np.isnan(x)] if fmt == "int8" else x
    expected = pr.round_to(x, fmt, backend="numpy")

    def every_way(x: Array) -> list[Array]:
        differentiated = [jax.vjp(function, x)[0], jax.jvp(function, (x,), (x,))[0]]
        return [function(x), *differentiated, jax.vmap(jax.checkpoint(function))(x)]

    for value in jax.jit(every_way)(x):
        assert_same_bits(value, expected, x)


def test_the_default_is_straight_through() -> None:
    x, dy = jnp.asarray(operand()), cotangents(operand().shape)
    (dx,) = jax.vjp(lambda x: pr.round_to(x, "fp16"), x)[1](jnp.asarray(dy))
    assert_same_bits(dx, dy)


# The derivative


@every_format
@every_rule
def test_rule_forward_and_backward(rule: str, fmt: str) -> None:
    """Every kind of value, every kind of cotangent, bits kept: -0 and subnormals too."""
    x, function = operand(), rounding(fmt, rule)
    dy = cotangents(x.shape)
    expected = passed(rule, x, fmt, dy)
    (backward,) = jax.jit(lambda x, dy: jax.vjp(function, x)[1](dy))(x, dy)
    assert_same_bits(backward, expected, x, dy)
    forward = jax.jit(lambda x, dx: jax.jvp(function, (x,), (dx,))[1])(x, dy)
    assert_same_bits(forward, expected, x, dy)


@pytest.mark.parametrize("rounded", [("bf16", "fp16"), ("fp16", "bf16")])
def test_composed_roundings(rounded: tuple[str, str]) -> None:
    """Clipped by the first on x, by the second on what the first made of it."""
    x = operand()
    first, second = rounded
    (dx,) = jax.jit(lambda x: jax.vjp(lambda x: rounding(second, "clipped")(rounding(first, "clipped")(x)), x)[1](x))(
        x
    )
    between = pr.round_to(x, first, backend="numpy")
    kept = passed("clipped", x, first, passed("clipped", between, second, x))
    assert_same_bits(dx, kept, x, any_nan=True)


@pytest.mark.parametrize(("rule", "factor"), [("straight_through", 1), ("clipped", 1), ("zero", 0)])
def test_higher_derivatives(rule: str, factor: int) -> None:
    """With dy = dx the derivatives of q(x)^3 are 3 q^2, 6 q and 6 at q = q(x); 300 lies beyond int8."""
    x = jnp.asarray(np.float32([-2.25, 0.5, 1.75, 3.0, 300.0]))
    inside = np.float32([1, 1, 1, 1, 0 if rule == "clipped" else 1]) * factor
    q = np.float32([-2, 0, 2, 3, 127])

    def cube(x: Array) -> Array:
        return pr.round_to(x, "int8", gradient=rule) ** 3

    derivative = jax.grad(cube)
    for expected in (3 * q**2, 6 * q, 6 * q**0):
        assert_same_bits(jax.vmap(derivative)(x) + 0, expected * inside + 0)
        derivative = jax.grad(derivative)
    hessian = jax.hessian(lambda x: cube(x).sum())(x)
    assert_same_bits(hessian + 0, np.diag(6 * q * inside) + 0)


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, ml_dtypes.float8_e5m2, ml_dtypes.float4_e2m1fn])
def test_gradient_has_the_operand_s_dtype(dtype: Any) -> None:
    x = jnp.asarray(np.float32([0.5, 1.5, -2]), dtype)
    dx = jax.grad(lambda x: (pr.round_to(x, "int8") * np.float32([1, 2, 4])).sum())(x)
    assert dx.dtype == dtype
    assert_same_bits(np.asarray(dx), np.array([1, 2, 4], dtype))


# Transformations


def decay(x: Array, steps: int, checkpoint: bool) -> Array:
    """x <- bf16(3/4 x), again and again."""

    def body(x: Array, _: None) -> tuple[Array, None]:
        return pr.round_to(x * np.float32(0.75), "bf16"), None

    return jax.lax.scan(jax.checkpoint(body) if checkpoint else body, x, None, length=steps)[0]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_scan_and_remat(checkpoint: bool) -> None:
    x = generator(24).normal(size=(2, 33)).astype(np.float32)
    value, vjp = jax.vjp(jax.jit(jax.vmap(lambda x: decay(x, 3, checkpoint))), x)
    expected = x
    for _ in range(3):
        expected = pr.round_to(expected * np.float32(0.75), "bf16", backend="numpy")
    assert_same_bits(value, expected)
    dy = np.sign(x)
    assert_same_bits(vjp(dy)[0], dy * np.float32(27 / 64))


def test_the_function_may_close_over_tracers() -> None:
    """A rounding takes its random key from the transformation it stands in."""

    def shifted(x: Array, offset: Array) -> Array:
        return straight_through(lambda x: jnp.floor(x + offset), x, pr.INT8, "straight_through")

    x, offsets = np.float32([0.25, 1.5]), np.float32([0, 0.5, 0.75])
    value = jax.jit(jax.vmap(shifted, (None, 0)))(x, offsets)
    assert_same_bits(value, np.floor(x + offsets[:, None]))
    slope = jax.jit(jax.vmap(jax.grad(lambda x, offset: shifted(x, offset).sum()), (None, 0)))(x, offsets)
    assert_same_bits(slope, np.ones((3, 2), np.float32))


def test_gradient_of_stochastic_rounding() -> None:
    """Straight through whatever was drawn; the key is split inside the transformation."""
    x = generator(25).normal(size=(3, 50)).astype(np.float32)

    def rounded(key: Array, x: Array) -> Array:
        return pr.round_to(x, "bf16", rounding="stochastic", key=key)

    keys = jax.random.split(jax.random.key(7, impl="threefry2x32"), 3)
    y, dx = jax.jit(jax.vmap(jax.value_and_grad(lambda key, x: (rounded(key, x) * x).sum(), 1)))(keys, x)
    for i in range(3):
        single = pr.round_to(x[i], "bf16", rounding="stochastic", key=np.asarray(jax.random.key_data(keys[i])))
        assert_same_bits(dx[i], x[i] + single)
    assert y.shape == (3,)


# Bad input


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_unknown_gradient_is_refused(array: Callable) -> None:
    message = "unknown gradient 'ste'; choose one of straight_through, clipped, zero"
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}\Z"):
        pr.round_to(array(np.float32([1])), "fp16", gradient="ste")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("rule", RULES[1:])
def test_other_gradients_are_for_jax(backend: str, rule: Any) -> None:
    message = f"gradient={rule!r} is for JAX arrays; {backend} has no gradients, so leave it out"
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}\Z"):
        pr.round_to(np.float32([1]), "fp16", gradient=rule, backend=backend)
    pr.round_to(np.float32([1]), "fp16", gradient=RULES[0], backend=backend)


@pytest.mark.parametrize("differentiate", [jax.grad, jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("operand", [0, 1])
def test_matmul_refuses_the_derivative_that_would_silently_be_zero(differentiate: Any, operand: int) -> None:
    ones = jnp.ones((2, 2), jnp.float32)

    def total(x: jax.Array) -> jax.Array:
        a, b = (x, ones) if operand == 0 else (ones, x)
        return pr.matmul(a, b, inputs="bf16").sum()

    assert total(ones) == 8
    with pytest.raises(TypeError, match="make_dot_general takes the formats of both backward products"):
        jax.jit(differentiate(total))(ones)
