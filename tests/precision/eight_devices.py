"""Run by ``test_dot_general``: products and roundings over a mesh of eight CPU devices, against one device's bits."""

from __future__ import annotations

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
BF16 = pr.make_dot_general(inputs="bf16", output="bf16")
P = PartitionSpec


def operands(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = generator(41)
    return [drawn(rng, shape, (120, 130)).view(np.float32) for shape in shapes]


def backward(x: Array, w: Array, dy: Array) -> tuple[Array, Array]:
    return jax.vjp(lambda x, w: BF16(x, w, DENSE), x, w)[1](dy)


def explicit(x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both gradients, in NumPy."""
    return BF16(dy, w, (((1,), (1,)), ((), ()))), BF16(x, dy, (((0,), (0,)), ((), ())))


def replicated_weights(mesh: Mesh) -> None:
    """Rows over devices: the gradient of the weights is one product a device, summed by JAX over devices."""
    x, w, dy = operands((64, 96), (96, 40), (64, 40))
    by_rows = jax.jit(
        jax.shard_map(lambda x, w: BF16(x, w, DENSE), mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
    )
    assert_same_bits(by_rows(x, w), BF16(x, w, DENSE))
    dx, dw = jax.jit(lambda x, w, dy: jax.vjp(by_rows, x, w)[1](dy))(x, w, dy)
    assert_same_bits(dx, explicit(x, w, dy)[0])
    parts = [explicit(*rows)[1] for rows in zip(np.split(x, 8), [w] * 8, np.split(dy, 8), strict=True)]
    assert np.allclose(dw, np.sum(parts, axis=0, dtype=np.float64), rtol=1e-5, atol=1e-3)  # JAX's own sum
    local = jax.shard_map(backward, mesh=mesh, in_specs=(P("d"), P(), P("d")), out_specs=(P("d"), P()))
    assert_same_bits(jax.jit(local)(x, w, dy)[0], dx)
    small = [np.sign(z) for z in (x, w, dy)]  # where every order of summation is exact
    exact = jax.jit(lambda x, w, dy: jax.vjp(by_rows, x, w)[1](dy))(*small)[1]
    assert_same_bits(np.asarray(exact) + 0, explicit(*small)[1] + 0)


def sharded_columns(mesh: Mesh) -> None:
    """Columns of the weights over devices: their gradients stay where they are, bit for bit."""
    x, w, dy = operands((24, 96), (96, 64), (24, 64))
    specs = (P(), P(None, "d"))
    by_columns = jax.shard_map(lambda x, w: BF16(x, w, DENSE), mesh=mesh, in_specs=specs, out_specs=P(None, "d"))
    assert_same_bits(jax.jit(by_columns)(x, w), BF16(x, w, DENSE))
    dw = jax.jit(lambda x, w, dy: jax.vjp(by_columns, x, w)[1](dy)[1])(x, w, dy)
    assert_same_bits(dw, explicit(x, w, dy)[1])


def sharded_by_jit(mesh: Mesh) -> None:
    """jit over sharded arguments: k may lie on several devices, the order of summation stays."""
    x, w, dy = operands((64, 96), (96, 40), (64, 40))
    for spec in (P("d"), P(None, "d")):
        placed = jax.device_put(x, NamedSharding(mesh, spec))
        assert_same_bits(jax.jit(lambda x, w: BF16(x, w, DENSE))(placed, w), BF16(x, w, DENSE))
        for gradient, expected in zip(jax.jit(backward)(placed, w, dy), explicit(x, w, dy), strict=True):
            assert_same_bits(gradient, expected)


def roundings(mesh: Mesh) -> None:
    """On values of one device, and on replicated values that become a device's own."""
    (x,) = operands((64,))
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
    for check in (replicated_weights, sharded_columns, sharded_by_jit, roundings):
        check(devices)
        print(check.__name__)
