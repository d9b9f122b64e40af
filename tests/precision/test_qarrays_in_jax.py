"""Quantized arrays under transformations of JAX: trees, maps, loops over layers, parts under jit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from qarray_assertions import assert_same_qarray
from refusals import refused
from strategies import drawn, generator

import precision as pr

LAYERS, K, N = 3, 8, 5
GROUPS = pr.QScheme(name="int8_groups", granularity="group", group=4)
AFFINE = pr.QScheme(name="affine_groups", granularity="group", group=4, symmetric=False)
TENSOR = pr.QScheme(name="int8_tensor", granularity="tensor")
KV = pr.parse_scheme("int8_kv").w


def weights() -> np.ndarray:
    return drawn(generator(3), (LAYERS, K, N), (118, 130)).view(np.float32)


def pair(scheme: Any, axis: int = -2) -> tuple[pr.QArray, pr.QArray]:
    """The stacked weights quantized by JAX and by NumPy."""
    return pr.quantize(jnp.asarray(weights()), scheme, axis=axis), pr.quantize(weights(), scheme, axis=axis)


# Trees


def test_round_trip() -> None:
    q, _ = pair(AFFINE)
    leaves, structure = jax.tree.flatten(q)
    assert [leaf.dtype for leaf in leaves] == [np.int8, np.float32, np.int32]
    again = jax.tree.unflatten(structure, leaves)
    assert_same_qarray(again, q)
    assert jax.tree.structure(again) == structure
    assert len(jax.tree.leaves(pair("int8_vectorwise")[0])) == 2  # no zero points


def test_trees_of_something_else() -> None:
    q, _ = pair(GROUPS)
    shapes = jax.tree.map(lambda leaf: leaf.shape, q)
    assert (shapes.codes, shapes.scale) == ((LAYERS, K, N), (LAYERS, 2, N))
    assert "(3, 8, 5)" in repr(shapes)
    assert jax.eval_shape(lambda: q).tiles == q.tiles


def test_leaves_moved_to_numpy() -> None:
    q, reference = pair(AFFINE)
    moved = jax.tree.map(np.asarray, q)
    assert isinstance(moved.dequantize(), np.ndarray)
    assert_same_qarray(moved, reference)
    assert_same_bits(q.dequantize(), reference.dequantize())


def test_parameters_among_others() -> None:
    """A tree of quantized and plain parameters goes through a compiled step."""
    tree = {"w": pair(GROUPS)[0], "b": jnp.ones(N)}
    found = jax.jit(lambda tree: tree["w"].dequantize() + tree["b"])(tree)
    assert_same_bits(found, np.asarray(tree["w"].dequantize()) + np.float32(1))


# Compiled


def test_compiled_by_scheme_not_by_values() -> None:
    traces = []

    @jax.jit
    def double(q: pr.QArray) -> Any:
        traces.append(q.scheme)
        return q.dequantize()

    for seed in (1, 2):
        x = jnp.asarray(drawn(generator(seed), (K, N), (118, 130)).view(np.float32))
        double(pr.quantize(x, GROUPS, axis=-2))
    double(pr.quantize(x, AFFINE, axis=-2))
    assert traces == [GROUPS, AFFINE]


INDICES = [-1, (slice(1, None), slice(4, 8)), (0, slice(0, 4), slice(None, None, 2)), (2, ..., -1)]


def test_parts_under_jit() -> None:
    q, reference = pair(AFFINE)
    parts = jax.jit(lambda q: [q[index] for index in INDICES])(q)
    for part, expected in zip(parts, [reference[index] for index in INDICES], strict=True):
        assert_same_qarray(part, expected)
    with refused(ValueError, "cuts tiles of 4"):
        jax.jit(lambda q: q[:, 1:5])(q)


def test_traced_places() -> None:
    """A layer chosen at run time; numbers that are arrays of JAX serve eagerly too."""
    q, reference = pair(AFFINE)
    layer = jax.jit(lambda q, i: q[i])
    for i in (0, 2, -1):
        assert_same_qarray(layer(q, i), reference[i])
        assert_same_qarray(q[jnp.int32(i)], reference[i])
        assert_same_qarray(reference[jnp.int32(i)], reference[i])
    column = jax.jit(lambda q, i: q[..., i])
    block, of_numpy = pair(pr.QScheme(name="blocks", granularity="block", group=4))
    for i in (0, 4, -1):
        assert_same_qarray(column(block, i), of_numpy[..., i])
    with refused(IndexError, "out of bounds"):
        q[jnp.int32(3)]
    with refused(IndexError, "slices and integers"):
        jax.jit(lambda q, i: q[i])(q, 1.0)


def test_axes_and_joining_under_jit() -> None:
    q, reference = pair(AFFINE)
    turned, joined = jax.jit(lambda q: (q.swapaxes(-1, -2), pr.QArray.concatenate([q[:1], q[1:]])))(q)
    assert_same_qarray(turned, reference.swapaxes(-1, -2))
    assert_same_qarray(joined, reference)
    mixed = pr.QArray.concatenate([reference[:1], q[1:]])
    assert isinstance(mixed.codes, jax.Array)
    assert_same_qarray(mixed, reference)


# Mapped and looped


@pytest.mark.parametrize("scheme", [GROUPS, AFFINE, "int8_vectorwise", TENSOR], ids=str)
def test_mapped_quantization_stacks(scheme: Any) -> None:
    """One array of all layers: the same as quantizing the stack, but for tiles that would span it."""
    stacked = jax.jit(jax.vmap(lambda w: pr.quantize(w, scheme, axis=-2)))(jnp.asarray(weights()))
    each = [pr.quantize(w, scheme, axis=-2) for w in weights()]
    assert stacked.own_tiles == (1, *each[0].tiles)
    assert_same_bits(stacked.dequantize(), np.stack([q.dequantize() for q in each]))
    for i, one in enumerate(each):
        assert_same_qarray(stacked[i], one)
    assert_same_qarray(stacked.T.T, stacked)
    if scheme is not TENSOR:
        assert_same_qarray(stacked, pr.quantize(weights(), scheme, axis=-2))


def test_mapped_over_layers() -> None:
    q, reference = pair(GROUPS)
    assert_same_bits(jax.vmap(lambda w: w.dequantize())(q), reference.dequantize())
    parts = jax.jit(jax.vmap(lambda w: w[4:]))(q)
    assert_same_qarray(parts, reference[:, 4:])
    x = drawn(generator(5), (4, K), (118, 130)).view(np.float32)
    y = jax.jit(jax.vmap(lambda w: pr.quantized_matmul(jnp.asarray(x), w, scheme="int8_group4_vectorwise")))(q)
    assert_same_bits(y, np.stack([pr.quantized_matmul(x, w, scheme="int8_group4_vectorwise") for w in reference]))


def test_scanned_over_layers() -> None:
    """A loop whose body is compiled once takes a layer (k, n) of the stack at a time, and stacks what it returns."""
    square = drawn(generator(6), (LAYERS, K, K), (118, 128)).view(np.float32)
    q, reference = (pr.quantize(w, GROUPS, axis=-2) for w in (jnp.asarray(square), square))
    x = drawn(generator(5), (4, K), (124, 128)).view(np.float32)

    def layer(x: Any, w: pr.QArray) -> tuple[Any, tuple[Any, pr.QArray]]:
        assert w.shape == (K, K)
        y = pr.quantized_matmul(x, w, scheme="int8_group4_vectorwise", output="fp32")
        y = y / jnp.float32(64) if isinstance(y, jax.Array) else y / np.float32(64)
        return y, (w.dequantize(), pr.quantize(y, axis=-1))

    last, (values, ys) = jax.jit(lambda x, q: jax.lax.scan(layer, x, q))(jnp.asarray(x), q)
    assert_same_bits(values, reference.dequantize())
    assert ys.shape == (LAYERS, 4, K)
    for w, y in zip(reference, [jax.tree.map(lambda leaf, i=i: leaf[i], ys) for i in range(LAYERS)], strict=True):
        x, (_, expected) = layer(x, w)
        assert_same_qarray(y, expected)
    assert_same_bits(last, x)
    assert_same_bits(ys.dequantize()[2], ys[2].dequantize())


# A cache of fixed size


def test_cache_that_is_written_in_place() -> None:
    """Slots of a preallocated, donated cache are overwritten token by token; codes and scales share the index."""
    keys = generator(9).normal(size=(2, 3, 6, 16)).astype(np.float32)
    whole = pr.quantize(keys, KV, axis=-1)

    def append(cache: pr.QArray, key: Any, t: Any) -> pr.QArray:
        token = pr.quantize(key, KV, axis=-1)
        return jax.tree.map(lambda kept, new: jax.lax.dynamic_update_slice_in_dim(kept, new, t, 2), cache, token)

    step = jax.jit(append, donate_argnums=0)
    cache = jax.tree.map(jnp.zeros_like, pr.quantize(jnp.zeros_like(keys), KV, axis=-1))
    for t in range(keys.shape[2]):
        before, cache = cache, step(cache, keys[:, :, t : t + 1], t)
        assert before.codes.is_deleted()
    assert_same_qarray(cache, whole)
    assert cache.nbytes == whole.nbytes == 2 * 3 * 6 * (16 + 2)
