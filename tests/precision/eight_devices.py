"""Run by ``test_dot_general``: products and roundings over a mesh of eight CPU devices, against one device's bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bits_assertions import assert_same_bits
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from strategies import drawn, generator

import precision as pr

Array = Any
DENSE = (((1,), (0,)), ((), ()))
P = PartitionSpec
# bf16 may need the integer path, on one device and not on another; fp16 never
BF16, FP16 = (pr.make_dot_general(inputs=name, output=name) for name in ("bf16", "fp16"))


def operands(m: int, k: int, n: int) -> list[np.ndarray]:
    """x (m, k), w (k, n), dy (m, n); the first row of x has products below 2^-126 in bf16."""
    rng = generator(41)
    x, w, dy = (drawn(rng, shape, (120, 130)).view(np.float32) for shape in ((m, k), (k, n), (m, n)))
    x[0] *= np.float32(2.0**-115)
    return [x, w, dy]


def forward(dot_general: pr.DotGeneral) -> Callable[[Array, Array], Array]:
    return lambda x, w: dot_general(x, w, DENSE)


def backward(function: Callable) -> Callable[[Array, Array, Array], tuple[Array, Array, Array]]:
    """(y, dx, dw) of function(x, w), under jit."""

    def run(x: Array, w: Array, dy: Array) -> tuple[Array, Array, Array]:
        y, vjp = jax.vjp(function, x, w)
        return y, *vjp(dy)

    return jax.jit(run)


def explicit(dot_general: pr.DotGeneral, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    """The three products, in NumPy."""
    dx, dw = dot_general(dy, w, (((1,), (1,)), ((), ()))), dot_general(x, dy, (((0,), (0,)), ((), ())))
    return [dot_general(x, w, DENSE), dx, dw]


def replicated_weights(mesh: Mesh) -> None:
    """Rows over devices: the gradient of the weights is one product a device, summed by JAX over devices."""
    bf16, fp16 = (
        jax.shard_map(forward(product), mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
        for product in (BF16, FP16)
    )
    run = backward(fp16)
    x, w, dy = operands(64, 96, 40)
    assert_same_bits(jax.jit(bf16)(x, w), BF16(x, w, DENSE))
    y, dx, dw = run(x, w, dy)
    expected = explicit(FP16, x, w, dy)
    assert_same_bits(y, expected[0])
    assert_same_bits(dx, expected[1])
    parts = [explicit(FP16, *rows)[2] for rows in zip(np.split(x, 8), [w] * 8, np.split(dy, 8), strict=True)]
    assert np.allclose(dw, np.sum(parts, axis=0, dtype=np.float64), rtol=1e-5, atol=1e-3)  # JAX's own sum
    signs = [np.sign(z) for z in (x, w, dy)]  # where every order of summation is exact
    assert_same_bits(np.asarray(run(*signs)[2]) + 0, explicit(FP16, *signs)[2] + 0)


def sharded_columns(mesh: Mesh) -> None:
    """Columns of the weights over devices: their gradients stay where they are, bit for bit."""
    by_columns = jax.shard_map(forward(FP16), mesh=mesh, in_specs=(P(), P(None, "d")), out_specs=P(None, "d"))
    x, w, dy = operands(24, 96, 64)
    y, _, dw = backward(by_columns)(x, w, dy)
    expected = explicit(FP16, x, w, dy)
    assert_same_bits(y, expected[0])
    assert_same_bits(dw, expected[2])


def sharded_by_jit(mesh: Mesh) -> None:
    """jit over sharded arguments: k may lie on several devices, the order of summation stays."""
    x, w, dy = operands(64, 96, 40)
    run = backward(forward(FP16))
    for spec in (P("d"), P(None, "d")):
        results = run(jax.device_put(x, NamedSharding(mesh, spec)), w, dy)
        for result, expected in zip(results, explicit(FP16, x, w, dy), strict=True):
            assert_same_bits(result, expected)


def scanned_and_recomputed(mesh: Mesh) -> None:
    """Two layers by scan, recomputed in the backward pass, mapped over heads, rows over devices."""

    def layer(x: Array, w: Array) -> tuple[Array, None]:
        return jax.vmap(forward(FP16))(x, w), None

    def layers(x: Array, w: Array) -> Array:
        return jax.lax.scan(jax.checkpoint(layer), x, w)[0]

    rows = P(None, "d")
    by_rows = jax.shard_map(layers, mesh=mesh, in_specs=(rows, P()), out_specs=rows)
    x, w, dy = operands(64, 24, 24)
    x, dy = x.reshape(2, 32, 24), dy.reshape(2, 32, 24)
    w = np.stack([w, w.T, w[::-1], -w]).reshape(2, 2, 24, 24)  # (layers, heads, 24, 24)
    y, dx, _ = backward(by_rows)(x, w, dy)
    for head in range(2):
        hidden, _, _ = explicit(FP16, x[head], w[0, head], dy[head])
        last, dhidden, _ = explicit(FP16, hidden, w[1, head], dy[head])
        assert_same_bits(y[head], last)
        assert_same_bits(dx[head], explicit(FP16, x[head], w[0, head], dhidden)[1])


def roundings(mesh: Mesh) -> None:
    """On values of one device, and on replicated values that become a device's own."""
    x = drawn(generator(42), 64, (120, 130)).view(np.float32)
    for rule, slope in (("straight_through", 1), ("clipped", 1), ("zero", 0)):

        def rounded(x: Array, rule: Any = rule) -> Array:
            return pr.round_to(x, "fp16", gradient=rule)

        by_device = jax.shard_map(rounded, mesh=mesh, in_specs=P("d"), out_specs=P("d"))
        y, vjp = jax.vjp(jax.jit(by_device), x)
        assert_same_bits(y, pr.round_to(x, "fp16"))
        assert_same_bits(vjp(y)[0], np.asarray(y) * np.float32(slope) + 0)

        def scaled(x: Array, rule: Any = rule) -> Array:
            return pr.round_to(x * (1 + jax.lax.axis_index("d").astype(jnp.float32)), "fp16", gradient=rule)

        replicated = jax.shard_map(scaled, mesh=mesh, in_specs=P(), out_specs=P("d"))
        total = jax.grad(jax.jit(lambda x, f=replicated: f(x).sum()))(x)
        assert_same_bits(total, np.full(64, 36 * slope, np.float32))


if __name__ == "__main__":
    devices = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    for check in (replicated_weights, sharded_columns, sharded_by_jit, scanned_and_recomputed, roundings):
        check(devices)
        print(check.__name__)
