"""fake_quantize: the values that codes stand for, and their gradients; what refuses a derivative."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from strategies import drawn, generator, sprinkled

import precision as pr
from precision.quantization.scheme import QScheme

Array = Any
KEY = 0x0123456789ABCDEF
VECTOR = QScheme(name="vector")
SCHEMES = {
    "vector": VECTOR,
    "tensor": QScheme(name="tensor", granularity="tensor"),
    "affine groups": QScheme(name="affine groups", symmetric=False, granularity="group", group=4),
    "4 bits": QScheme(name="4 bits", bits=4),
    "stochastic": dataclasses.replace(VECTOR, rounding="stochastic"),
    "torchao": "torchao",
    "int8_group4_vectorwise": "int8_group4_vectorwise",
    "mxfp8_e4m3": "mxfp8_e4m3",
}
LIMIT = np.float32(2.0)
STATIC: dict[str, QScheme] = {
    "symmetric": VECTOR,
    "affine groups": SCHEMES["affine groups"],
    "4 bits": QScheme(name="4 bits", bits=4, granularity="tensor"),
    "stochastic": SCHEMES["stochastic"],
    "lowest -128": QScheme(name="lowest -128", lowest=-128),
}

every_scheme = pytest.mark.parametrize("name", SCHEMES)


def operand(shape: tuple[int, ...] = (6, 9)) -> np.ndarray:
    """Values about 1, a row of zeros, a row that holds a NaN, one with an infinity."""
    rng = generator(71)
    words = sprinkled(rng, drawn(rng, shape, (118, 130)), 0.0)
    x = words.view(np.float32)
    x[1], x[2, 3], x[3, 0] = 0, np.nan, np.inf
    return x


def finite() -> np.ndarray:
    return drawn(generator(72), (5, 8), (120, 129)).view(np.float32)


def faked(x: Any, *, name: str, axis: int, backend: str | None = None) -> Any:
    return pr.fake_quantize(x, SCHEMES[name], axis=axis, key=keyed(name), backend=backend)


def keyed(name: str) -> int | None:
    return KEY if name == "stochastic" else None


def refuses(error: type[Exception], message: str) -> Any:
    """JAX may add lines about its tracebacks."""
    return pytest.raises(error, match=rf"^{re.escape(message)}(\n-{{20}}|\Z)")


# The value


@pytest.mark.thinned(0.25)
@every_scheme
@pytest.mark.parametrize("axis", [-1, -2])
def test_values_are_those_of_the_codes(backend: Executor, name: str, axis: int) -> None:
    x = operand() if name != "mxfp8_e4m3" else finite()
    q = pr.quantize(x, SCHEMES[name], axis=axis, nonfinite="propagate", key=keyed(name), backend="numpy")
    assert_same_bits(backend.call(faked, x, name=name, axis=axis), q.dequantize(), x)


def test_stochastic_values_follow_the_counter(backend: Executor) -> None:
    x = finite()
    whole = backend.call(faked, x, name="stochastic", axis=-1)
    part = pr.fake_quantize(x[2:], SCHEMES["stochastic"], axis=-1, key=KEY, counter=2 * x.shape[1], backend="numpy")
    assert_same_bits(whole[2:], part)
    assert np.any(whole != pr.fake_quantize(x, VECTOR, axis=-1))


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize(
    ("name", "gradient"),
    [
        *((name, rule) for name in SCHEMES for rule in ("straight_through", "zero")),
        *((name, "clipped") for name in SCHEMES if name != "mxfp8_e4m3"),
    ],
)
def test_the_gradient_changes_no_value(name: str, gradient: str) -> None:
    """Blocks have no clipped gradient."""
    x = finite()
    fake = function(SCHEMES[name], gradient, key=keyed(name))
    expected = pr.fake_quantize(x, SCHEMES[name], axis=-1, key=keyed(name))

    def every_way(x: Array) -> list[Array]:
        return [fake(x), jax.vjp(fake, x)[0], jax.jvp(fake, (x,), (x,))[0], jax.checkpoint(fake)(x)]

    for value in jax.jit(every_way)(x):
        assert_same_bits(value, expected, x)


def function(scheme: Any, gradient: str, **arguments: Any) -> Callable[[Array], Array]:
    return lambda x: pr.fake_quantize(x, scheme, axis=-1, gradient=gradient, **arguments)


# The derivative


@every_scheme
@pytest.mark.parametrize(("gradient", "factor"), [("straight_through", 1), ("zero", 0)])
def test_derivatives_forward_and_backward(name: str, gradient: str, factor: int) -> None:
    x, dy = finite(), drawn(generator(73), (5, 8), (1, 254)).view(np.float32)
    fake = function(SCHEMES[name], gradient, key=keyed(name))
    expected = dy if factor else np.zeros_like(dy)
    (backward,) = jax.jit(lambda x, dy: jax.vjp(fake, x)[1](dy))(x, dy)
    forward = jax.jit(lambda x, dx: jax.jvp(fake, (x,), (dx,))[1])(x, dy)
    assert_same_bits(backward, expected)
    assert_same_bits(forward, expected)


def static_limits(scheme: QScheme) -> Any:
    """(low, high) that clip a good part of ``finite``, one pair for all tiles."""
    return LIMIT if scheme.symmetric else (np.float32(-0.75), LIMIT)


def kept(x: np.ndarray, scheme: QScheme) -> np.ndarray:
    """By definition: whether the code nearest to x, before it is clamped, is one of the scheme's.

    No x / s of these lies within float32's roundings of a tie.
    """
    low, high = (Fraction(float(end)) for end in (-LIMIT, LIMIT))
    if not scheme.symmetric:
        low = Fraction(-3, 4)
    steps = Fraction(scheme.span) if scheme.symmetric else Fraction(scheme.span) / (high - low)
    scale = high / steps if scheme.symmetric else 1 / steps
    zero = 0 if scheme.symmetric else scheme.least + round(-low / scale)
    codes = [[round(Fraction(float(value)) / scale) + zero for value in row] for row in x]
    return np.array([[scheme.least <= code <= scheme.largest for code in row] for row in codes])


@pytest.mark.parametrize("name", STATIC)
def test_clipped_passes_what_is_not_clamped(name: str) -> None:
    scheme, x = STATIC[name], finite()
    dy = drawn(generator(74), x.shape, (1, 254)).view(np.float32)
    fake = function(scheme, "clipped", limits=static_limits(scheme), key=KEY)
    expected = kept(x, scheme)
    assert 0.2 < expected.mean() < 0.9
    (backward,) = jax.jit(lambda x, dy: jax.vjp(fake, x)[1](dy))(x, dy)
    forward = jax.jit(lambda x, dx: jax.jvp(fake, (x,), (dx,))[1])(x, dy)
    for derivative in (backward, forward):
        assert_same_bits(derivative, np.where(expected, dy, np.float32(0)), x)


@pytest.mark.parametrize(("lowest", "first_negative"), [(None, 255), (-128, 258)])
def test_clipped_at_ties(lowest: int | None, first_negative: int) -> None:
    """With s = 1: 127.5 rounds to 128 and is clamped, -127.5 to -128, which is a code of some."""
    scheme = QScheme(name="ties", lowest=lowest)
    halves = np.arange(250, 262, dtype=np.float32)
    fake = function(scheme, "clipped", limits=np.float32(127))
    for sign, first in ((1, 255), (-1, first_negative)):
        derivative = jax.grad(lambda x: fake(x).sum())(jnp.asarray(sign * halves / 2)[None])[0]
        assert_same_bits(derivative, (halves < first).astype(np.float32))


def test_clipped_of_its_own_range_passes_all() -> None:
    """The absmax lies on the last code; NaN and infinity leave no code to clamp."""
    x = jnp.asarray(operand())
    derivative = jax.grad(lambda x: function(VECTOR, "clipped")(x).sum())(x)
    assert_same_bits(derivative, np.ones(x.shape, np.float32))


def test_limits_and_scales_have_no_derivative() -> None:
    x = jnp.asarray(finite())
    by_limits = jax.grad(lambda high: pr.fake_quantize(x, axis=-1, limits=(-high, high)).sum())(LIMIT)
    assert by_limits == 0
    hessian = jax.hessian(lambda x: (function(VECTOR, "straight_through")(x) ** 2).sum())(x[0, None])
    assert_same_bits(hessian.reshape(8, 8), 2 * np.eye(8, dtype=np.float32))


# Transformations


def test_under_vmap_each_has_its_own_scale() -> None:
    x = finite().reshape(5, 2, 4)
    fake = function(SCHEMES["tensor"], "straight_through")
    value, derivative = jax.jit(jax.vmap(jax.value_and_grad(lambda x: (3 * fake(x)).sum())))(x)
    assert_same_bits(derivative, np.full(x.shape, 3, np.float32))
    mapped = jax.jit(jax.vmap(fake))(x)
    for i, part in enumerate(x):
        assert_same_bits(mapped[i], pr.fake_quantize(part, SCHEMES["tensor"], axis=-1))
    assert value.shape == (5,)


def test_under_scan_with_a_key_for_each_step() -> None:
    x = jnp.asarray(finite())
    keys = jax.random.split(jax.random.key(7), 3)

    def step(x: Array, key: Array) -> tuple[Array, None]:
        return pr.fake_quantize(x, SCHEMES["stochastic"], axis=-1, key=key), None

    loss, derivative = jax.jit(jax.value_and_grad(lambda x: jax.lax.scan(step, x, keys)[0].sum()))(x)
    expected = np.asarray(x)
    for key in keys:
        expected = pr.fake_quantize(
            expected, SCHEMES["stochastic"], axis=-1, key=np.asarray(jax.random.key_data(key))
        )
    assert_same_bits(jax.jit(lambda x: jax.lax.scan(step, x, keys)[0])(x), expected)
    assert np.isfinite(loss)
    assert_same_bits(derivative, np.ones(x.shape, np.float32))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_narrow_types(dtype: Any) -> None:
    """The value is float32, the derivative has x's type."""
    x = jnp.asarray(finite(), dtype)
    fake = function(VECTOR, "clipped")
    assert fake(x).dtype == np.float32
    derivative = jax.grad(lambda x: fake(x).sum())(x)
    assert_same_bits(np.asarray(derivative), np.ones(x.shape, dtype))


# What is refused


def test_unknown_gradients_are_refused() -> None:
    with refuses(ValueError, "unknown gradient 'ste'; choose one of straight_through, clipped, zero"):
        pr.fake_quantize(jnp.ones((2, 2)), axis=-1, gradient="ste")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_gradients_are_for_jax(backend: str) -> None:
    message = f"gradient='zero' is for JAX arrays; {backend} has no gradients, so leave it out"
    with refuses(ValueError, message):
        pr.fake_quantize(np.ones((2, 2), np.float32), axis=-1, gradient="zero", backend=backend)


def test_blocks_are_not_clipped_and_take_no_limits() -> None:
    x = jnp.ones((2, 32))
    message = "gradient 'clipped' is for integer schemes; mxfp4 has 'straight_through' and 'zero'"
    with refuses(ValueError, message):
        pr.fake_quantize(x, "mxfp4", axis=-1, gradient="clipped")
    with refuses(ValueError, "mxfp4 takes no limits: the scale of a block is its own; leave them out"):
        pr.fake_quantize(x, "mxfp4", axis=-1, limits=2.0)


def test_stochastic_needs_a_key() -> None:
    with refuses(ValueError, "rounding 'stochastic' needs key: an int, two uint32 words or a JAX key"):
        pr.fake_quantize(finite(), SCHEMES["stochastic"], axis=-1)


def test_a_scheme_of_one_operand_names_it() -> None:
    with refuses(ValueError, "scheme int8_weight_only leaves x as it is; quantize w, along axis -2"):
        pr.fake_quantize(finite(), "int8_weight_only", axis=-1)


NO_PRODUCT = "quantized_matmul has no derivative; make_dot_general takes the quantization of all three products"
NO_CODES = "quantize has no derivative; fake_quantize has one, and jax.lax.stop_gradient(x) none"


@pytest.mark.parametrize("argument", [0, 1])
@pytest.mark.parametrize("transformation", [jax.grad, jax.jacfwd, lambda f, i: jax.jit(jax.grad(f, i))])
def test_quantized_matmul_has_no_derivative(argument: int, transformation: Callable) -> None:
    x, w = jnp.asarray(finite()), jnp.asarray(finite().T)
    with refuses(TypeError, NO_PRODUCT):
        transformation(lambda x, w: pr.quantized_matmul(x, w).sum(), argument)(x, w)


@pytest.mark.parametrize("scheme", ["int8_vectorwise", "int8_weight_only", "mxfp8_e4m3"])
def test_nor_has_it_with_codes_for_w(scheme: str) -> None:
    x, w = jnp.ones((2, 32)), pr.quantize(jnp.ones((32, 3)), scheme, axis=-2)
    with refuses(TypeError, NO_PRODUCT):
        jax.grad(lambda x: pr.quantized_matmul(x, w, scheme=scheme, output="fp32").sum())(x)


@pytest.mark.parametrize("scheme", ["int8_vectorwise", "mxfp8_e4m3"])
def test_quantize_has_no_derivative(scheme: str) -> None:
    def loss(x: Array) -> Array:
        return pr.quantize(x, scheme, axis=-1).dequantize().sum()

    x = jnp.ones((2, 32))
    with refuses(TypeError, NO_CODES):
        jax.grad(loss)(x)
    assert_same_bits(jax.grad(lambda x: loss(jax.lax.stop_gradient(x)))(x), np.zeros((2, 32), np.float32))
