"""What scalar operations take and refuse: shapes, carriers, options, transformations of JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from strategies import drawn, generator

import precision as pr

X = drawn(generator(71), (5, 7), (115, 140)).view(np.float32)
Y = drawn(generator(72), 7, (115, 140)).view(np.float32)

REAL = {
    "add": (2, jnp.add),
    "sub": (2, jnp.subtract),
    "mul": (2, jnp.multiply),
    "div": (2, jnp.divide),
    "sqrt": (1, jnp.sqrt),
    "fma": (3, lambda x, y, z: x * y + z),
    "minimum": (2, jnp.minimum),
    "maximum_number": (2, jnp.maximum),
}


def test_shapes_broadcast(backend: Executor) -> None:
    result = pr.add(backend.array(X), backend.array(Y), backend=backend.name)
    assert_same_bits(result, pr.add(X, np.ascontiguousarray(np.broadcast_to(Y, X.shape)), backend="numpy"))
    outer = pr.mul(backend.array(Y[:, None]), backend.array(Y), backend=backend.name)
    assert outer.shape == (7, 7)
    fused = pr.fma(backend.array(X), backend.array(Y), backend.array(np.float32(1)), backend=backend.name)
    assert fused.shape == (5, 7)


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,)])
def test_any_shape(shape: tuple[int, ...], backend: Executor) -> None:
    x = backend.array(np.full(shape, 2, np.float32))
    for result in (pr.div(x, x, backend=backend.name), pr.sqrt(x, backend=backend.name)):
        assert result.shape == shape
        assert result.dtype == np.float32


def test_read_only_and_non_contiguous_arrays(backend: Executor) -> None:
    x = X[:, ::2]
    x.flags.writeable = False
    result = pr.sub(backend.array(x), backend.array(x.T.copy().T), backend=backend.name)
    assert_same_bits(result, np.zeros(x.shape, np.float32))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8])
def test_narrow_carriers_widen(dtype: type, backend: Executor) -> None:
    x = np.arange(-4, 5).astype(dtype)
    result = pr.mul(backend.array(x), backend.array(x), backend=backend.name)
    assert_same_bits(result, (np.arange(-4, 5) ** 2).astype(np.float32))


def test_python_numbers() -> None:
    assert float(pr.add(1, 2.5)) == 3.5
    assert float(pr.div(1, 3)) == float(np.float16(1 / 3))


@pytest.mark.parametrize("bad", [np.zeros(2), np.zeros(2, np.complex64), np.zeros(2, np.int64), np.array([None])])
def test_wide_dtypes_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"float32"):
        pr.add(np.zeros(2, np.float32), bad)


def test_shapes_that_do_not_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"broadcast"):
        pr.mul(np.zeros(2, np.float32), np.zeros(3, np.float32))


def test_an_integer_result_has_no_nan(backend: Executor) -> None:
    x = backend.array(np.array([1, 0], np.float32))
    with pytest.raises(ValueError, match=r"div gives NaN at \(1,\), and int8 has none"):
        pr.div(x, x, fmt="int8", backend=backend.name)
    assert_same_bits(pr.div(x, np.float32(4), fmt="int8", rounding="up", backend=backend.name), np.float32([1, 0]))


def test_an_integer_result_stays_nan_under_tracing() -> None:
    result = jax.jit(lambda x: pr.div(x, x, fmt="int8"))(jnp.zeros(2))
    assert_same_bits(result, np.full(2, np.uint32(0x7FC00000)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounding": "sideways"}, "rounding 'sideways' is not offered"),
        ({"rounding": "stochastic"}, "needs key"),
        ({"fmt": "fp64"}, "float32"),
        ({"fmt": "fp17"}, "unknown number format"),
        ({"fmt": "e4m3fn", "overflow": "inf"}, "no infinity"),
        ({"rounding": "stochastic", "key": 1, "random_bits": 25}, "random_bits 25"),
        ({"backend": "abacus"}, "unknown backend"),
        ({"out": np.zeros(3, np.float32)}, "out must be"),
        ({"out": np.zeros(2)}, "out must be"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pr.add(np.zeros(2, np.float32), np.zeros(2, np.float32), **options)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="mode"):
        pr.add(1, 2, mode="up")


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_out_is_written_and_returned(name: str) -> None:
    x = X.copy()
    expected = pr.add(x, Y, backend="numpy")
    assert pr.add(x, Y, out=x, backend=name) is x
    assert_same_bits(x, expected)


def test_out_is_for_numpy() -> None:
    with pytest.raises(TypeError, match="out= is for NumPy arrays"):
        pr.add(jnp.zeros(2), jnp.zeros(2), out=np.zeros(2, np.float32))


def test_stochastic_results_do_not_depend_on_chunks(backend: Executor) -> None:
    x, y = drawn(generator(73), (2, 1000), (120, 134)).view(np.float32)
    how = {"rounding": "stochastic", "key": (7, 2**32 - 1), "random_bits": 11, "backend": backend.name}
    first = 2**32 - 300
    whole = np.asarray(pr.add(backend.array(x), backend.array(y), counter=first, **how))
    parts = [
        np.asarray(pr.add(backend.array(x[i : i + 250]), backend.array(y[i : i + 250]), counter=first + i, **how))
        for i in range(0, 1000, 250)
    ]
    assert_same_bits(np.concatenate(parts), whole)
    assert_same_bits(whole, pr.add(x, y, counter=first, **(how | {"backend": "numpy"})))
    assert not np.array_equal(whole, pr.add(x, y, counter=0, **(how | {"backend": "numpy"})))


def test_inside_jit_vmap_and_scan() -> None:
    x, y = jnp.asarray(X), jnp.asarray(Y)
    expected = pr.fma(X, Y, np.float32(0.5), fmt="bf16", rounding="down", backend="numpy")

    def fused(row: jax.Array) -> jax.Array:
        return pr.fma(row, y, jnp.float32(0.5), fmt="bf16", rounding="down")

    assert_same_bits(jax.jit(fused)(x), expected)
    assert_same_bits(jax.vmap(fused)(x), expected)
    assert_same_bits(jax.lax.scan(lambda carry, row: (carry, fused(row)), 0, x)[1], expected)


@pytest.mark.thinned(0.2)
@pytest.mark.parametrize("operation", REAL)
def test_gradients_are_those_of_the_real_operation(operation: str) -> None:
    x, y, z = (jnp.asarray(drawn(generator(74 + i), 9, (120, 130)).view(np.float32)) for i in range(3))
    operands = (jnp.abs(x), y, z)[: REAL[operation][0]]
    how = {} if operation.startswith("m") and operation != "mul" else {"fmt": "bf16", "rounding": "up"}

    def rounded(*operands: jax.Array) -> jax.Array:
        return getattr(pr, operation)(*operands, **how).sum()

    def real(*operands: jax.Array) -> jax.Array:
        return REAL[operation][1](*operands).sum()

    places = tuple(range(len(operands)))
    for derivative in (jax.grad, jax.jacfwd):
        actual, wanted = derivative(rounded, places)(*operands), derivative(real, places)(*operands)
        for a, b in zip(actual, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    second = jax.grad(lambda x: jax.grad(rounded)(x, *operands[1:]).sum())(operands[0])
    np.testing.assert_allclose(
        second, jax.grad(lambda x: jax.grad(real)(x, *operands[1:]).sum())(operands[0]), rtol=1e-5
    )


def test_a_sum_has_gradient_one() -> None:
    x = jnp.asarray(Y)
    for order in ("tree", "sequential", "kahan"):
        gradient = jax.jit(jax.grad(lambda x, order=order: pr.ordered_sum(x, order=order, fmt="bf16")))(x)
        assert np.array_equal(gradient, np.ones(7))
