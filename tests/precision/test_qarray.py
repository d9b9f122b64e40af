"""Quantized arrays as arrays: sizes, parts, axes, joining; what stays refused."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from qarray_assertions import assert_same_qarray
from refusals import refused
from strategies import drawn, generator

import precision as pr

SHAPE = (3, 8, 10)


def scheme(granularity: str, **facts: Any) -> pr.QScheme:
    group = {"group": 4, "block": 4}.get(granularity)
    return pr.QScheme(name=f"int8_{granularity}", granularity=granularity, group=group, **facts)


SCHEMES = {
    **{name: scheme(name) for name in ("tensor", "row", "column", "vector", "group", "block")},
    "affine_group": scheme("group", symmetric=False),
    "affine_tensor": scheme("tensor", symmetric=False),
    "int4_block": scheme("block", bits=4),
    "not_clamped": scheme("vector", clamps=False),
    "fp16_scales": scheme("vector", scale_format="fp16", quotient="inverse"),
    "absmax": scheme("row", scale_step="absmax"),
}


def drawn_array(shape: tuple[int, ...] = SHAPE, seed: int = 1) -> np.ndarray:
    return drawn(generator(seed), shape, (118, 130)).view(np.float32)


def quantized(name: str, axis: int = -1, shape: tuple[int, ...] = SHAPE) -> pr.QArray:
    return pr.quantize(drawn_array(shape), SCHEMES[name], axis=axis)


def spread(scale: np.ndarray, q: pr.QArray) -> np.ndarray:
    """One scale for each element, by repetition."""
    for axis, (n, edge) in enumerate(zip(q.shape, q.own_tiles, strict=True)):
        scale = np.repeat(scale, n if edge is None else edge, axis)[(slice(None),) * axis + (slice(n),)]
    return scale


# What it says of itself


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("name", SCHEMES)
def test_facts(name: str, axis: int) -> None:
    q = quantized(name, axis)
    assert (q.shape, q.ndim, q.size, len(q)) == (SHAPE, 3, 240, 3)
    assert q.dtype == q.codes.dtype == (np.int16 if name == "not_clamped" else np.int8)
    counts = tuple(1 if edge is None else math.ceil(n / edge) for n, edge in zip(SHAPE, q.tiles, strict=True))
    assert q.scale.shape == counts
    assert q.scale.dtype == np.float32
    assert q.axis == axis
    if q.zero_point is not None:
        assert (q.zero_point.shape, q.zero_point.dtype) == (counts, np.int32)


def test_tiles_of_each_granularity() -> None:
    along_k = {"vector": (1, 1, None), "group": (1, 1, 4), "tensor": (None,) * 3, "block": (1, 4, 4)}
    assert {name: quantized(name).tiles for name in along_k} == along_k
    along_rows = {"vector": (1, None, 1), "group": (1, 4, 1), "row": (1, 1, None), "column": (1, None, 1)}
    assert {name: quantized(name, -2).tiles for name in along_rows} == along_rows


def test_tiles_are_the_schemes_by_default() -> None:
    q = quantized("block", -2)
    again = pr.QArray(codes=q.codes, scale=q.scale, axis=-2, scheme=q.scheme)
    assert again.tiles == q.tiles
    assert_same_bits(again.dequantize(), q.dequantize())


def test_axes_of_a_record() -> None:
    codes, scale = np.ones((2, 3), np.int8), np.ones((2, 1), np.float32)
    with refused(ValueError, "axis 1", "from the back"):
        pr.QArray(codes=codes, scale=scale, axis=1)
    with refused(ValueError, "axis -3 does not exist", "(2, 3)"):
        pr.QArray(codes=codes, scale=scale, axis=-3)


@pytest.mark.parametrize(
    ("facts", "nbytes"),
    [
        ({"granularity": "vector"}, 15 * 7 + 15 * 4),
        ({"granularity": "tensor"}, 15 * 7 + 4),
        ({"granularity": "group", "group": 3}, 15 * 7 + 15 * 3 * 4),
        ({"granularity": "block", "group": 4}, 15 * 7 + 3 * 2 * 2 * 4),
        ({"bits": 4}, 15 * 4 + 15 * 4),  # seven codes take four bytes
        ({"bits": 2}, 15 * 2 + 15 * 4),
        ({"bits": 5}, 15 * 7 + 15 * 4),
        ({"scale_format": "fp16", "quotient": "inverse"}, 15 * 7 + 15 * 2),
        ({"scale_format": "bf16", "quotient": "inverse", "bits": 4}, 15 * 4 + 15 * 2),
        ({"scale_format": "e8m0", "quotient": "inverse", "bits": 4}, 15 * 4 + 15),
        ({"symmetric": False}, 15 * 7 + 15 * 5),
        ({"clamps": False}, 15 * 14 + 15 * 4),
    ],
    ids=str,
)
def test_nbytes(facts: dict[str, Any], nbytes: int) -> None:
    assert pr.quantize(drawn_array((3, 5, 7)), pr.QScheme(name="any", **facts), axis=-1).nbytes == nbytes


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("name", SCHEMES)
def test_what_codes_stand_for(name: str, axis: int) -> None:
    q = quantized(name, axis)
    zero = 0 if q.zero_point is None else spread(q.zero_point, q)
    expected = (q.codes.astype(np.int32) - zero).astype(np.float32) * spread(q.scale, q)
    if name == "absmax":
        expected = expected * (np.float32(1) / np.float32(127))
    assert_same_bits(q.dequantize(), expected)
    step = spread(q.scale, q) / (127 if name == "absmax" else 1)
    assert (np.abs(expected - drawn_array()) <= step * 0.5001).all()


def test_repr_is_one_short_line() -> None:
    assert repr(quantized("vector")) == "QArray(int8_vector, (3, 8, 10), axis=-1, scales (3, 8, 1))"
    assert repr(quantized("affine_tensor", -2)) == (
        "QArray(int8_tensor, (3, 8, 10), axis=-2, scales (1, 1, 1), zero points)"
    )
    assert "codes='int8'" in repr(pr.QArray(codes="int8", scale="float32"))


def test_equality_is_identity() -> None:
    q = quantized("vector")
    assert q == q
    assert q != replace(q)
    assert len({q, q, replace(q)}) == 2


@pytest.mark.parametrize(
    "convert", [np.asarray, np.array, jnp.asarray, lambda q: np.add(q, 1), lambda q: np.ones(1) * q]
)
def test_it_is_no_array_of_numbers(convert: Any) -> None:
    with refused(TypeError, "int8_vector", ".dequantize()", ".codes"):
        convert(quantized("vector"))


# Parts


def places(n: int) -> st.SearchStrategy:
    ends = st.one_of(st.none(), st.integers(-n - 3, n + 3))
    return st.one_of(st.slices(n), st.builds(slice, ends, ends), st.integers(-n, n - 1), st.just(slice(None)))


@st.composite
def indices(draw: st.DrawFn) -> Any:
    """An index of one to three axes, perhaps with an ellipsis."""
    whole = [draw(places(n)) for n in SHAPE]
    first, last = draw(st.sampled_from([(0, 3), (1, 3), (2, 3), (3, 3), (0, 0), (0, 1), (0, 2), (1, 2)]))
    if (first, last) == (0, 3):
        return tuple(whole)
    if last == 3:
        return whole[0] if first == 1 and draw(st.booleans()) else (*whole[:first],)
    return (*whole[:first], Ellipsis, *whole[last:])


def spans(index: Any) -> list[Any]:
    """The index along each axis."""
    listed = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis not in listed:
        listed.append(Ellipsis)
    at = listed.index(Ellipsis)
    return listed[:at] + [slice(None)] * (len(SHAPE) - len(listed) + 1) + listed[at + 1 :]


def is_whole(place: Any, n: int, edge: int | None) -> bool:
    """Whether the elements of a slice are those of whole tiles, in order."""
    chosen = list(range(n))[place]
    if edge in (None, 1) or not chosen:
        return True
    tiles = [list(range(n))[i : i + edge] for i in range(0, n, edge)]
    return any(chosen == list(chain(*tiles[i:j])) for i in range(len(tiles)) for j in range(i, len(tiles) + 1))


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("name", ["tensor", "row", "column", "vector", "group", "block", "affine_group"])
@settings(max_examples=25)
@given(index=indices())
def test_parts_stand_for_parts_of_the_values(name: str, axis: int, index: Any) -> None:
    q = quantized(name, axis)
    along = spans(index)
    whole = all(
        not isinstance(place, slice) or is_whole(place, n, edge)
        for place, n, edge in zip(along, SHAPE, q.tiles, strict=True)
    )
    if not isinstance(along[axis], slice):
        with refused(IndexError, f"axis {axis} is the contraction axis"):
            q[index]
    elif not whole:
        with refused(ValueError, "cuts tiles of 4", "cut where a tile begins"):
            q[index]
    else:
        part = q[index]
        assert_same_bits(part.codes, q.codes[index])
        assert_same_bits(part.dequantize(), q.dequantize()[index])
        assert part.own_tiles == part.tiles
        kept = [i for i, place in enumerate(along) if isinstance(place, slice)]
        assert kept[part.axis] == axis % 3


def test_parts_of_parts() -> None:
    q = quantized("group", -2)
    part = q[1:, 4:][0][:, ::-3]
    assert part.shape == (4, 4)
    assert_same_bits(part.dequantize(), q.dequantize()[1:, 4:][0][:, ::-3])


def test_a_part_is_what_it_would_be_alone() -> None:
    """Tiles do not know of each other."""
    x = drawn_array()
    for name in ("vector", "group", "block"):
        q = pr.quantize(x, SCHEMES[name], axis=-1)
        assert_same_qarray(q[1:, 4:], pr.quantize(x[1:, 4:], SCHEMES[name], axis=-1))
        assert_same_qarray(q[2], pr.quantize(x[2], SCHEMES[name], axis=-1))


@pytest.mark.parametrize(
    "index",
    [
        True,
        1.0,
        "a",
        [0, 1],
        np.array([0, 1]),
        np.True_,
        (0, 0, slice(None), 0),
        (Ellipsis, Ellipsis),
        (0, None),
    ],
    ids=str,
)
def test_other_indices(index: Any) -> None:
    with refused(IndexError, "3 axes", "slices and integers"):
        quantized("vector")[index]


def test_an_axis_in_front() -> None:
    q = quantized("vector")
    assert q[None].shape == (1, *q.shape)
    assert_same_qarray(q[None][0], q)
    assert_same_bits(q[None].dequantize(), q.dequantize()[None])


@pytest.mark.parametrize("place", [3, -4, np.int64(3)])
def test_out_of_bounds(place: int) -> None:
    with refused(IndexError, f"index {place}", "axis of 3"):
        quantized("vector")[place]


def test_iteration() -> None:
    q = quantized("group")
    parts = list(q)
    assert len(parts) == 3
    for part, values in zip(parts, q.dequantize(), strict=True):
        assert_same_bits(part.dequantize(), values)
    with refused(IndexError, "contraction axis"):
        list(quantized("vector", -2, (4, 5)))


def test_empty_arrays() -> None:
    q = quantized("vector", shape=(0, 4, 5))
    assert (q.size, q.nbytes, len(q), list(q)) == (0, 0, 0, [])
    assert_same_bits(quantized("group")[:, 3:3, 5:2].dequantize(), np.ones((3, 0, 0), np.float32))


# Axes

ORDERS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0), (-1, 0, -2)]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("name", SCHEMES)
def test_axes_move(name: str, order: tuple[int, ...]) -> None:
    for axis in (-1, -2):
        q = quantized(name, axis)
        moved = q.transpose(*order)
        assert_same_bits(moved.dequantize(), q.dequantize().transpose(order))
        assert [i % 3 for i in order][moved.axis] == axis % 3
        back = moved.transpose([int(i) for i in np.argsort([i % 3 for i in order])])
        assert_same_qarray(back, q)
        assert_same_qarray(q.transpose(order), moved)


def test_names_of_transpositions() -> None:
    q = quantized("block")
    assert_same_qarray(q.T, q.transpose(2, 1, 0))
    assert_same_qarray(q.transpose(), q.T)
    assert_same_qarray(q.swapaxes(-1, 0), q.T)
    assert_same_qarray(q.swapaxes(1, 2), q.transpose(0, 2, 1))
    assert_same_qarray(q.swapaxes(1, 1), q)
    assert_same_bits(q.T[4:8].dequantize(), q.dequantize().T[4:8])


@pytest.mark.parametrize("wrong", [(0, 1), (0, 0, 1), (0, 1, 3), (0, 1, -4), (0, 1, 2, 0)], ids=str)
def test_axes_that_are_not_there(wrong: tuple[int, ...]) -> None:
    with refused(ValueError):
        quantized("vector").transpose(*wrong)
    with refused(ValueError, "axis 3 does not exist"):
        quantized("vector").swapaxes(0, 3)


def test_weights_of_a_transposed_layer_multiply() -> None:
    """What was quantized as (n, k) along k serves as w (k, n)."""
    x, w = drawn_array((5, 10)), drawn_array((4, 10), 2)
    stored = pr.quantize(w, axis=-1)
    assert_same_qarray(stored.T, pr.quantize(np.ascontiguousarray(w.T), axis=-2))
    assert_same_bits(pr.quantized_matmul(x, stored.T), pr.quantized_matmul(x, np.ascontiguousarray(w.T)))


# Joining


@pytest.mark.parametrize(
    ("name", "axis", "cuts"),
    [
        ("vector", 0, [1, 2]), ("vector", 1, [1, 6]), ("vector", -2, [3, 3]), ("row", -2, [5]), ("group", 1, [7]),
        ("group", 2, [4, 8]), ("affine_group", -1, [4]), ("block", 1, [4]), ("block", 0, [2]), ("int4_block", 2, [8]),
    ],
)  # fmt: skip
def test_parts_join_to_the_whole(name: str, axis: int, cuts: list[int]) -> None:
    x = drawn_array()
    parts = [pr.quantize(part, SCHEMES[name], axis=-1) for part in np.split(x, cuts, axis)]
    assert_same_qarray(pr.QArray.concatenate(parts, axis), pr.quantize(x, SCHEMES[name], axis=-1))
    assert_same_qarray(pr.QArray.concatenate(iter(parts), axis=axis), pr.quantize(x, SCHEMES[name], axis=-1))


def test_joining_is_refused() -> None:
    q, group = quantized("vector"), quantized("group")
    for arrays, axis, part in (
        ([], 0, "at least one"),
        ([q, quantized("column")], 0, "different schemes"),
        ([q, quantized("vector", -2)], 0, "different schemes or axes"),
        ([q, q[0]], 0, "different schemes or axes"),
        ([q, q], -1, "along axis -1 tiles would be cut"),
        ([q, q], 3, "axis 3 does not exist"),
        ([group, group], 2, "tiles would be cut"),
        ([quantized("tensor")] * 2, 0, "tiles would be cut"),
    ):
        with refused(ValueError, part):
            pr.QArray.concatenate(arrays, axis)
