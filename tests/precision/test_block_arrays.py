"""Block formats as arrays: shapes, axes, transformations of JAX, arguments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from block_cases import blocks
from executors import Executor
from strategies import drawn, generator

import precision as pr

# Shapes and axes


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("name", ["mxfp6_e3m2", "nvfp4"])
@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_axes(name: str, axis: int) -> None:
    x = blocks(13, (3, 35, 50))
    along = np.moveaxis(x, axis, -1)
    size, length = pr.BLOCK_FORMATS[name].block_size, along.shape[-1]
    for backend in pr.BACKENDS if axis == 1 else pr.BACKENDS[:2]:  # JAX compiles a shape for seconds
        q = pr.quantize_blocks(jnp.asarray(x) if backend == "jax" else x, name, axis=axis, backend=backend)
        last = pr.quantize_blocks(np.ascontiguousarray(along), name, backend="numpy")
        assert last.scale.shape == (*along.shape[:-1], -(-length // size))
        assert_same_bits(np.moveaxis(np.asarray(q.codes), axis, -1), last.codes)
        assert_same_bits(np.moveaxis(np.asarray(q.scale), axis, -1), last.scale)
        assert_same_bits(np.moveaxis(np.asarray(q.dequantize(backend=backend)), axis, -1), last.dequantize())


@pytest.mark.parametrize("name", ["mxfp4", "mxint8", "nvfp4"])
@pytest.mark.parametrize(("shape", "scales"), [((0,), (0,)), ((3, 0), (3, 0)), ((0, 5), (0, 1)), ((1,), (1,))])
def test_small_shapes(backend: Executor, name: str, shape: tuple[int, ...], scales: tuple[int, ...]) -> None:
    q = backend.call(pr.quantize_blocks, np.ones(shape, np.float32), fmt=name, nonfinite="propagate")
    assert (q.codes.shape, q.scale.shape) == (shape, scales)
    assert_same_bits(q.dequantize(), np.ones(shape, np.float32))


def test_read_only_and_strided_and_narrow_sources() -> None:
    x = drawn(generator(17), (64, 70), (120, 130)).view(np.float32)[::2, ::-1]
    expected = pr.round_to_blocks(np.ascontiguousarray(x), "mxfp4", backend="numpy")
    x.flags.writeable = False
    for backend in ("numpy", "numba"):
        assert_same_bits(pr.round_to_blocks(x, "mxfp4", backend=backend), expected)
    half = pr.round_to(x, "fp16").astype(np.float16)
    assert_same_bits(pr.round_to_blocks(half, "mxfp4"), pr.round_to_blocks(half.astype(np.float32), "mxfp4"))


# JAX


def test_straight_through_gradient() -> None:
    x = jnp.asarray(blocks(15, (4, 40)))
    weights = jnp.arange(160.0).reshape(4, 40)

    def loss(x: Any, **how: Any) -> Any:
        return (weights * pr.round_to_blocks(x, "mxfp4", **how)).sum()

    assert_same_bits(jax.jit(jax.grad(loss))(x), weights)
    assert_same_bits(jax.grad(lambda x: loss(x, gradient="zero"))(x), jnp.zeros_like(weights))


def test_mapped_over_rows() -> None:
    x = blocks(16, (4, 40))
    mapped = jax.jit(jax.vmap(lambda row: pr.round_to_blocks(row, "mxfp8_e4m3")))(x)
    assert_same_bits(mapped, pr.round_to_blocks(x, "mxfp8_e4m3", backend="numpy"))


@pytest.mark.parametrize("name", ["mxint8", "nvfp4"])
def test_block_arrays_are_pytrees(name: str) -> None:
    q = pr.quantize_blocks(jnp.asarray(blocks(18, (4, 40))), name)
    again = jax.jit(lambda q: jax.tree.map(lambda leaf: leaf, q))(q)
    assert (again.format, again.axis) == (q.format, q.axis)
    assert_same_bits(jax.jit(lambda q: q.dequantize())(q), q.dequantize())


# Arguments


def test_quantize_takes_block_formats(backend: Executor) -> None:
    x = blocks(19, (40, 6))
    q = pr.quantize(backend.array(x), "MXFP8_E4M3", axis=-2, scale_rule="rceil", backend=backend.name)
    expected = pr.quantize_blocks(x, "mxfp8_e4m3", axis=-2, scale_rule="rceil", backend="numpy")
    assert isinstance(q, pr.BlockArray)
    assert_same_bits(q.codes, expected.codes)
    assert_same_bits(q.scale, expected.scale)
    assert isinstance(pr.quantize(x, replace(q.format, block_size=8), axis=0), pr.BlockArray)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fmt": "mxfp5"}, ValueError, "mxfp5.*mxfp4"),
        ({"axis": 2}, ValueError, r"axis 2 .*\(2, 3\)"),
        ({"scale_rule": "round"}, ValueError, "scale_rule 'round'.*rceil"),
        ({"fmt": "nvfp4", "scale_rule": "even"}, ValueError, "scale_rule 'even'.*nvfp4"),
        ({"rounding": "odd"}, ValueError, "rounding 'odd'"),
        ({"rounding": "stochastic"}, ValueError, "needs key"),
        ({"backend": "torch"}, ValueError, "torch"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type, message: str) -> None:
    for function in (pr.quantize_blocks, pr.round_to_blocks):
        with pytest.raises(error, match=message):
            function(np.ones((2, 3), np.float32), **({"fmt": "mxfp4"} | arguments))


def test_more_bad_arguments() -> None:
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="gradient 'clipped'"):
        pr.round_to_blocks(x, "mxfp4", gradient="clipped")
    with pytest.raises(ValueError, match=r"gradient='zero'.*numpy"):
        pr.round_to_blocks(x, "mxfp4", gradient="zero")
    with pytest.raises(TypeError, match="scale_rule"):
        pr.quantize(x, axis=-1, scale_rule="ceil")
    with pytest.raises(ValueError, match=r"mxfp9.*int8_vectorwise.*mxfp4"):
        pr.quantize(x, "mxfp9", axis=-1)
    with pytest.raises(TypeError, match="float64"):
        pr.round_to_blocks(x.astype(np.float64), "mxfp4")
    with pytest.raises(ValueError, match=r"axis -1 .*\(\)"):
        pr.round_to_blocks(np.float32(1), "mxfp4")
    x[1, 2] = np.inf
    with pytest.raises(ValueError, match=r"x\[1, 2\] is inf, which makes its block NaN in mxfp4; .*'propagate'"):
        pr.quantize(x, "mxfp4", axis=-1)
