"""dot_general as a part of other people's layers: three steps of training against the products written out in NumPy.

The rest of a step is chosen so that its float32 operations are exact or rounded once, hence the same in XLA.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from strategies import generator

import precision as pr

Array = Any
STEPS, BATCH, WIDTHS = 3, (4, 3), (6, 8, 5)  # batch axes, features
RATE = np.float32(2.0**-6)  # times a gradient: exact
FP16 = pr.make_dot_general(inputs="fp16", output="fp16")
# the paths of gradients apart from each other and from the forward pass
THREE = pr.make_dot_general(
    inputs="bf16",
    dgrad=pr.Gemm(inputs=("e5m2", "bf16"), output="bf16"),
    wgrad=pr.Gemm(inputs="fp16", accumulator="fp32_mul_add"),
)
NOT_INSTALLED = "flax is no dependency of the tests; the extra `examples` has it"

arithmetic = pytest.mark.parametrize("dot_general", [FP16, THREE], ids=["fp16", "three"])


def problem() -> tuple[np.ndarray, np.ndarray]:
    """Inputs (*BATCH, 6) and targets (*BATCH, 5)."""
    rng = generator(51)
    x, target = (rng.normal(size=(*BATCH, width)).astype(np.float32) for width in (WIDTHS[0], WIDTHS[2]))
    return x, target


def loss_of(y: Array, target: Array) -> Array:
    """dy = y - target."""
    return 0.5 * jnp.square(y - target).sum()


def multiplied(gemm: pr.Gemm, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Operands rounded, then ``matmul`` on NumPy."""
    p, q = (pr.round_to(x, fmt, backend="numpy") for x, fmt in zip((a, b), gemm.formats, strict=True))
    return pr.matmul(p, q, inputs=gemm.formats, accumulator=gemm.accumulator, output=gemm.output, backend="numpy")


def written_out(dot_general: pr.DotGeneral, weights: list[np.ndarray]) -> list[np.ndarray]:
    """The weights of  y = max(x w_1, 0) w_2  after three steps."""
    x, target = (z.reshape(-1, z.shape[-1]) for z in problem())
    first, second = weights
    for _ in range(STEPS):
        hidden = multiplied(dot_general.fprop, x, first)
        active = np.maximum(hidden, np.float32(0))
        dy = multiplied(dot_general.fprop, active, second) - target
        dhidden = np.where(hidden > 0, multiplied(dot_general.dgrad, dy, second.T), np.float32(0))
        steps = multiplied(dot_general.wgrad, x.T, dhidden), multiplied(dot_general.wgrad, active.T, dy)
        first, second = first - RATE * steps[0], second - RATE * steps[1]
    return [first, second]


def initial_weights() -> list[np.ndarray]:
    rng = generator(52)
    return [rng.normal(size=shape).astype(np.float32) / 2 for shape in pairwise(WIDTHS)]


def check(dot_general: pr.DotGeneral, before: list[Array], after: list[Array]) -> None:
    expected = written_out(dot_general, [np.asarray(w) for w in before])
    for w, start, trained in zip(expected, before, after, strict=True):
        assert_same_bits(trained, w)
        assert not np.array_equal(trained, start)


def descend(w: Array, gradient: Array) -> Array:
    return w - RATE * gradient


class Linear(eqx.Module):
    """An Equinox layer that is given its product."""

    weight: Array
    dot_general: Callable = eqx.field(static=True)

    def __call__(self, x: Array, *, key: Any = None) -> Array:
        del key
        return self.dot_general(x, self.weight, (((x.ndim - 1,), (0,)), ((), ())))


@arithmetic
def test_equinox(dot_general: pr.DotGeneral) -> None:
    x, target = problem()
    weights = initial_weights()
    model = eqx.nn.Sequential(
        [
            Linear(jnp.asarray(weights[0]), dot_general),
            eqx.nn.Lambda(jax.nn.relu),
            Linear(jnp.asarray(weights[1]), dot_general),
        ]
    )

    @eqx.filter_jit
    def step(model: Any) -> Any:
        gradients = eqx.filter_grad(lambda model: loss_of(model(x), target))(model)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -RATE * g, gradients))

    for _ in range(STEPS):
        model = step(model)
    check(dot_general, weights, [model[0].weight, model[2].weight])


@arithmetic
def test_flax_linen(dot_general: pr.DotGeneral) -> None:
    nn = pytest.importorskip("flax.linen", reason=NOT_INSTALLED)
    x, target = problem()
    layers = [nn.Dense(width, use_bias=False, dot_general=dot_general) for width in WIDTHS[1:]]
    model = nn.Sequential([layers[0], nn.relu, layers[1]])
    parameters = model.init(jax.random.key(0), x)

    @jax.jit
    def step(parameters: Any) -> Any:
        gradients = jax.grad(lambda p: loss_of(model.apply(p, x), target))(parameters)
        return jax.tree.map(descend, parameters, gradients)

    before = jax.tree.leaves(parameters)
    for _ in range(STEPS):
        parameters = step(parameters)
    check(dot_general, before, jax.tree.leaves(parameters))


@arithmetic
def test_flax_nnx(dot_general: pr.DotGeneral) -> None:
    nnx = pytest.importorskip("flax.nnx", reason=NOT_INSTALLED)
    x, target = problem()
    rngs = nnx.Rngs(0)
    first, second = (
        nnx.Linear(i, o, use_bias=False, dot_general=dot_general, rngs=rngs) for i, o in pairwise(WIDTHS)
    )
    model = nnx.Sequential(first, nnx.relu, second)

    @nnx.jit
    def step(model: Any) -> None:
        gradients = nnx.grad(lambda model: loss_of(model(x), target))(model)
        nnx.update(model, jax.tree.map(descend, nnx.state(model, nnx.Param), gradients))

    before = [np.asarray(layer.kernel[...]) for layer in (first, second)]
    for _ in range(STEPS):
        step(model)
    check(dot_general, before, [layer.kernel[...] for layer in (first, second)])


def test_flax_in_bfloat16() -> None:
    """Compute dtype bf16: operands and result of the product are bf16 arrays, the parameters float32."""
    nn = pytest.importorskip("flax.linen", reason=NOT_INSTALLED)
    x, _ = problem()
    dense = nn.Dense(5, use_bias=False, dtype=jnp.bfloat16, dot_general=pr.make_dot_general(inputs="bf16"))
    parameters = dense.init(jax.random.key(1), x)
    y = jax.jit(dense.apply)(parameters, x)
    (kernel,) = jax.tree.leaves(parameters)
    assert kernel.dtype == np.float32
    gemm = pr.Gemm(inputs="bf16", output="bf16")
    expected = multiplied(gemm, x.reshape(-1, x.shape[-1]), np.asarray(kernel))
    assert_same_bits(np.asarray(y), expected.reshape(*BATCH, 5).astype(ml_dtypes.bfloat16))
