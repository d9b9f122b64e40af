"""Hashes: written out by hand once, then sensitive to all that counts and to nothing else."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from bits_assertions import assert_same_bits

from qsim.hashing import scalar_hash, stack, tree_hash, unstack

NAN_PATTERNS = (0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF, 0x7FC00001)


def from_bits(*patterns: int) -> np.ndarray:
    return np.array(patterns, np.uint32).view(np.float32)


def tree() -> dict[str, np.ndarray]:
    """Three layers of two tensors, and two that are not stacked."""
    random = np.random.default_rng(5)
    shapes = {
        "logits.weight": (4, 3),
        "blocks.qkv.weight": (3, 2, 5),
        "blocks.qkv.bias": (3, 5),
        "embedding.tokens": (7, 2),
    }
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_hash_written_out_by_hand() -> None:
    """Names sorted, layers apart, shape as a list, little-endian float32 in C order."""
    small = {
        "weight": np.array([[1.0, -2.0], [0.5, -0.0]], np.float32),
        "blocks.b.gain": np.array([[3.0], [np.nan]], np.float32),
    }
    text = b"layer.0.b.gain [1]\n" + struct.pack("<f", 3.0)
    text += b"layer.1.b.gain [1]\n" + struct.pack("<I", 0x7FC00000)
    text += b"weight [2, 2]\n" + struct.pack("<4f", 1.0, -2.0, 0.5, -0.0)
    assert tree_hash(small) == hashlib.sha256(text).hexdigest()


def test_scalar_hash_written_out_by_hand() -> None:
    expected = hashlib.sha256(b"loss []\n" + struct.pack("<f", 5.5)).hexdigest()
    for five_and_a_half in (5.5, np.float32(5.5), np.array(5.5, np.float32)):
        assert scalar_hash(five_and_a_half) == expected
    nan = hashlib.sha256(b"loss []\n" + struct.pack("<I", 0x7FC00000)).hexdigest()
    assert scalar_hash(from_bits(0xFFC01234)[0]) == nan


def test_empty_tree_is_the_empty_hash() -> None:
    assert tree_hash({}) == hashlib.sha256().hexdigest()


@pytest.mark.parametrize("pattern", NAN_PATTERNS)
def test_every_nan_hashes_as_the_canonical_one(pattern: int) -> None:
    canonical = tree_hash({"w": from_bits(0x3F800000, 0x7FC00000)})
    given = from_bits(0x3F800000, pattern)
    assert tree_hash({"w": given}) == canonical
    assert_same_bits(given, np.array([0x3F800000, pattern], np.uint32))  # the tensor itself is left alone


def test_stacked_and_layer_by_layer_have_one_hash() -> None:
    assert tree_hash(unstack(tree())) == tree_hash(tree())


def test_order_of_the_dict_does_not_count() -> None:
    assert tree_hash(dict(reversed(tree().items()))) == tree_hash(tree())


def test_layout_and_byte_order_do_not_count() -> None:
    fortran = {name: np.asfortranarray(w) for name, w in tree().items()}
    big_endian = {name: w.astype(">f4") for name, w in tree().items()}
    strided = {name: np.repeat(w, 2, axis=-1)[..., ::2] for name, w in tree().items()}
    assert tree_hash(fortran) == tree_hash(big_endian) == tree_hash(strided) == tree_hash(tree())


def test_arrays_of_jax_hash_alike() -> None:
    import jax.numpy as jnp

    assert tree_hash({name: jnp.asarray(w) for name, w in tree().items()}) == tree_hash(tree())


def test_every_bit_of_every_value_counts() -> None:
    hashes = {tree_hash(tree())}
    for bit in range(32):
        changed = tree()
        changed["logits.weight"].view(np.uint32)[2, 1] ^= np.uint32(1 << bit)
        hashes.add(tree_hash(changed))
    for name, w in tree().items():
        for i in range(w.size):
            changed = tree()
            changed[name].reshape(-1)[i] += np.float32(1)
            hashes.add(tree_hash(changed))
    assert len(hashes) == 1 + 32 + sum(w.size for w in tree().values())


def test_sign_of_zero_counts() -> None:
    assert tree_hash({"w": from_bits(0)}) != tree_hash({"w": from_bits(0x80000000)})


def test_names_count() -> None:
    values = np.arange(4, dtype=np.float32)
    names = ("w", "v", "w.", "blocks.w", "layer.0.w", "w [4]")
    assert len({tree_hash({name: values}) for name in names}) == len(names)
    swapped = {"a": values, "b": -values}
    assert tree_hash(swapped) != tree_hash({"a": swapped["b"], "b": swapped["a"]})


def test_shape_counts() -> None:
    values = np.arange(12, dtype=np.float32)
    shapes = [(12,), (1, 12), (12, 1), (3, 4), (4, 3), (2, 6), (1, 12, 1)]
    assert len({tree_hash({"w": values.reshape(shape)}) for shape in shapes}) == len(shapes)


# Layers


def test_unstack_names_layers_and_keeps_bits() -> None:
    flat = unstack(tree())
    layers = {f"layer.{i}.qkv.{part}" for i in range(3) for part in ("weight", "bias")}
    assert set(flat) == layers | {"logits.weight", "embedding.tokens"}
    for i in range(3):
        assert_same_bits(flat[f"layer.{i}.qkv.weight"], tree()["blocks.qkv.weight"][i])


@pytest.mark.parametrize("layers", [1, 2, 10, 12])
def test_stack_is_the_inverse_of_unstack(layers: int) -> None:
    """From ten layers on, the order of names is not the order of layers."""
    patterns = np.arange(layers * 6, dtype=np.uint32) * 0x9E3779B1  # NaN patterns among them
    stacked = {"blocks.x": patterns.view(np.float32).reshape(layers, 3, 2), "y": from_bits(*NAN_PATTERNS)}
    again = stack(dict(sorted(unstack(stacked).items())))
    assert set(again) == set(stacked)
    for name, value in stacked.items():
        assert_same_bits(again[name], value)


def test_stack_refuses_a_missing_layer() -> None:
    flat = unstack(tree())
    del flat["layer.1.qkv.bias"]
    with pytest.raises(KeyError):
        stack(flat)
