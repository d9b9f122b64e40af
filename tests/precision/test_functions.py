"""Unary functions through the facade: tables up to 16 bits, the project's own in float32; arguments; derivatives."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import mpmath
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor
from function_oracle import expression
from strategies import EDGES, drawn, generator

import precision as pr
from precision.real_functions import REAL_FUNCTIONS
from precision.tables import table

FUNCTIONS = tuple(REAL_FUNCTIONS)
IN_FLOAT32 = ("erf", "exp", "log", "rsqrt", "tanh")
INF, NAN = np.inf, np.nan


def named(function: str) -> Callable:
    return getattr(pr, function)


def values(fmt: str) -> np.ndarray:
    return oracles.every_value(fmt).view(np.float32)


def refuses(message: str, error: type[Exception] = ValueError) -> object:
    return pytest.raises(error, match=rf"^{re.escape(message)}\Z")


# Up to 16 bits


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("fmt", ["fp16", "bf16", "e5m2", "e4m3fn"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_value_of_a_format(backend: Executor, function: str, fmt: str) -> None:
    x = values(fmt)
    assert_same_bits(backend.call(named(function), x, fmt=fmt), table(function, fmt), x)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_fp16_is_the_default_and_an_output_may_be_another_format(backend: Executor, function: str) -> None:
    x = values("fp16")[::7]
    assert_same_bits(backend.call(named(function), x), table(function, "fp16")[::7], x)
    found = backend.call(named(function), x, fmt=pr.FP16, output="bf16")
    assert_same_bits(found, table(function, "fp16", "bf16")[::7], x)


SPECIAL = {
    # at -inf, -1, -0, +0, 1, inf
    "cos": (NAN, 0.54052734375, 1, 1, 0.54052734375, NAN),
    "erf": (-1, -0.8427734375, -0.0, 0.0, 0.8427734375, 1),
    "exp": (0, 0.367919921875, 1, 1, 2.71875, INF),
    "exp2": (0, 0.5, 1, 1, 2, INF),
    "gelu": (-0.0, -0.1586914062, -0.0, 0.0, 0.8413085938, INF),
    "gelu_gradient": (-0.0, -0.0833129883, 0.5, 0.5, 1.0830078125, 1),
    "gelu_tanh": (-0.0, -0.1588, -0.0, 0.0, 0.8412, INF),
    "log": (NAN, NAN, -INF, -INF, 0.0, INF),
    "reciprocal": (-0.0, -1, -INF, INF, 1, 0),
    "rsqrt": (NAN, NAN, -INF, INF, 1, 0),
    "sigmoid": (0, 0.2690429688, 0.5, 0.5, 0.7309570312, 1),
    "silu": (-0.0, -0.2690429688, -0.0, 0.0, 0.7309570312, INF),
    "sin": (NAN, -0.8413085938, -0.0, 0.0, 0.8413085938, NAN),
    "tanh": (-1, -0.76171875, -0.0, 0.0, 0.76171875, 1),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_named_values(function: str) -> None:
    x = np.float32([-INF, -1, -0.0, 0.0, 1, INF])
    assert_same_bits(named(function)(x), np.float16(SPECIAL[function]).astype(np.float32), x)


def test_values_of_other_formats_are_refused(backend: Executor) -> None:
    x = backend.array(np.float32([[1, 2], [0.1, 3]]))
    with refuses("x[1, 0] = 0.1 is not a value of fp16; round_to it first"):
        pr.exp(x, backend=backend.name)
    with refuses("x = 257.0 is not a value of bf16; round_to it first"):
        pr.sin(backend.array(np.float32(257)), fmt="bf16", backend=backend.name)
    assert pr.exp(pr.round_to(x, "fp16"), backend=backend.name).shape == (2, 2)


@pytest.mark.parametrize(
    ("fmt", "value"), [("e4m3fn", INF), ("e2m1", NAN), ("e2m1", INF), ("e8m0", -1), ("e8m0", 0), ("binary8p3ue", -1)]
)
def test_specials_that_a_format_does_not_have(backend: Executor, fmt: str, value: float) -> None:
    x = backend.array(np.float32([1, value]))
    with refuses(f"x[1] = {np.float32(value)!s} is not a value of {fmt}; round_to it first"):
        pr.exp(x, fmt=fmt, backend=backend.name)


def test_formats_of_one_zero_take_the_other() -> None:
    assert_same_bits(pr.sin(np.float32([-0.0, 0.0]), fmt="e4m3fnuz"), np.float32([0, 0]))


def test_traced_values_are_rounded_first() -> None:
    x = np.concatenate([EDGES, drawn(generator(91), 4000, (100, 150))]).view(np.float32)
    found = np.asarray(jax.jit(partial(pr.exp, fmt="bf16"))(x))
    assert_same_bits(found, pr.exp(oracles.nearest(x, "bf16"), fmt="bf16"), x)


@pytest.mark.parametrize("fmt", ["tf32", "int8"])
def test_other_formats_are_refused(fmt: str) -> None:
    with refuses(f"tables cover floating-point formats of at most 16 bits, not {fmt}"):
        pr.tanh(np.float32([1]), fmt=fmt)


# In float32


@pytest.mark.parametrize("function", IN_FLOAT32)
def test_float32_is_the_projects_own(backend: Executor, function: str) -> None:
    x = np.concatenate([EDGES, drawn(generator(92), 4000)]).view(np.float32)
    found = backend.call(named(function), x, fmt=pr.FP32)
    assert_same_bits(found, EXECUTORS[0].apply(function, x), x)


@pytest.mark.parametrize("function", sorted(set(FUNCTIONS) - set(IN_FLOAT32)))
def test_functions_not_offered_in_float32(function: str) -> None:
    with refuses(
        f"{function} of fp32 is not offered, only erf, exp, log, rsqrt, tanh; give fmt a format of at most 16 bits"
    ):
        named(function)(np.float32([1]), fmt="fp32")


def test_float32_has_no_other_output() -> None:
    with refuses("exp of fp32 is an fp32 value; leave output out and round_to fp16 afterwards"):
        pr.exp(np.float32([1]), fmt="fp32", output="fp16")


# Arrays


def test_shapes_and_layouts(backend: Executor) -> None:
    x = values("fp16")[:24000].reshape(4, 60, 100)
    x.flags.writeable = False
    whole = table("sigmoid", "fp16")[:24000].reshape(4, 60, 100)
    call = partial(backend.call, pr.sigmoid)
    assert_same_bits(call(x), whole)
    assert_same_bits(call(x[:, ::-3, 1::2]), whole[:, ::-3, 1::2])
    assert_same_bits(call(x.transpose(2, 0, 1)), whole.transpose(2, 0, 1))
    assert_same_bits(call(x[1, 2, 3]), whole[1, 2, 3])
    assert_same_bits(call(x[:0]), whole[:0])
    assert_same_bits(backend.call(pr.rsqrt, x[:0], fmt="fp32"), whole[:0])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, np.int8])
def test_narrow_types_widen(backend: Executor, dtype: type) -> None:
    x = np.arange(1, 8).astype(dtype)
    assert_same_bits(backend.call(pr.log, x, fmt="bf16"), pr.log(np.arange(1, 8, dtype=np.float32), fmt="bf16"))


@pytest.mark.parametrize("dtype", [np.float64, np.complex64, np.int64, object])
def test_types_that_float32_cannot_hold(dtype: type) -> None:
    with pytest.raises(TypeError, match="does not fit a float32 carrier"):
        pr.log(np.ones(3, dtype))


def test_python_numbers() -> None:
    assert pr.exp2(10) == 1024
    assert pr.reciprocal([1, 2.0, 4]).tolist() == [1, 0.5, 0.25]


def test_tables_cost_nothing_before_the_first_use() -> None:
    program = "import sys, precision; print(sorted({'mpmath', 'scipy'} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert finished.stdout == "[]\n", finished.stderr


# Under JAX transformations


def test_under_transformations() -> None:
    x = jnp.asarray(values("fp16")[1000:1064].reshape(8, 8))
    expected = pr.gelu(np.asarray(x))
    assert_same_bits(jax.jit(jax.vmap(jax.vmap(pr.gelu)))(x), expected)
    assert_same_bits(jax.jit(jax.checkpoint(pr.gelu))(x), expected)
    assert_same_bits(jax.lax.scan(lambda c, row: (c, pr.gelu(row)), 0, x)[1], expected)


@pytest.mark.parametrize(("function", "fmt"), [*((f, "bf16") for f in FUNCTIONS), *((f, "fp32") for f in IN_FLOAT32)])
def test_derivative(function: str, fmt: str) -> None:
    """That of the real function, in float32: 2^-18 of the largest of its terms."""
    x = np.float32([0.25, 0.75, 1.5, 3])
    call = partial(named(function), fmt=fmt)
    found = np.asarray(jax.jit(jax.vmap(jax.grad(call)))(x))
    forward = np.asarray(jax.jit(lambda x, dx: jax.jvp(call, (x,), (dx,))[1])(x, np.full(4, 2, np.float32)))
    if function == "reciprocal":
        exact = -1 / x.astype(np.float64) ** 2
    else:
        with mpmath.workdps(40):
            exact = np.array([float(mpmath.diff(partial(expression, function), float(v))) for v in x])
    np.testing.assert_allclose(found, exact, rtol=2.0**-18, atol=2.0**-22)
    np.testing.assert_allclose(forward, 2 * exact, rtol=2.0**-18, atol=2.0**-22)


def test_second_derivative() -> None:
    slope = jax.grad(jax.grad(pr.sin))(jnp.float32(0.5))
    np.testing.assert_allclose(slope, -np.sin(0.5), rtol=1e-6)


def test_a_derivative_leaves_the_value_as_it_is() -> None:
    x = jnp.asarray(values("bf16")[0x3F00:0x4100])
    y, _ = jax.jit(jax.vmap(jax.value_and_grad(partial(pr.silu, fmt="bf16"))))(x)
    assert_same_bits(y, pr.silu(np.asarray(x), fmt="bf16"), x)
