"""Ordered sums: each operation from its definition in fractions, in the stated order, three back ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arithmetic_oracle import DEFINITIONS
from bits_assertions import assert_same_bits
from executors import Executor
from format_oracle import rounded
from reals import ZERO, Real, read_all, write
from strategies import drawn, generator, sprinkled

import precision as pr

Operation = Callable[[Real, Real], Real]


def operation(which: str, name: str, mode: str) -> Operation:
    return lambda x, y: rounded(DEFINITIONS[which](x, y, mode), name, mode)


def tree(terms: Sequence[Real], add: Operation, _: Operation) -> Real:
    """Split after the largest power of two below the number of terms: the neighbours' tree, from its root."""
    if len(terms) == 1:
        return terms[0]
    left = 1 << (len(terms) - 1).bit_length() - 1
    return add(tree(terms[:left], add, _), tree(terms[left:], add, _))


def sequential(terms: Sequence[Real], add: Operation, _: Operation) -> Real:
    total = terms[0]
    for term in terms[1:]:
        total = add(total, term)
    return total


def kahan(terms: Sequence[Real], add: Operation, sub: Operation) -> Real:
    total, lost = terms[0], ZERO
    for term in terms[1:]:
        corrected = sub(term, lost)
        following = add(total, corrected)
        total, lost = following, sub(sub(following, total), corrected)
    return total


ORDERS = {"tree": tree, "sequential": sequential, "kahan": kahan}


def expected(words: np.ndarray, order: str, name: str, mode: str) -> np.ndarray:
    """Sums along the last of two axes."""
    add, sub = operation("add", name, mode), operation("sub", name, mode)
    rows = ([rounded(x, name, mode) for x in read_all(row)] for row in words)
    return np.array([write(ORDERS[order](row, add, sub)) for row in rows], np.uint32)


def run(words: np.ndarray, backend: Executor, **options: object) -> np.ndarray:
    return np.asarray(pr.ordered_sum(backend.array(words.view(np.float32)), backend=backend.name, **options))


@pytest.mark.thinned(0.12)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "mode"),
    [("fp32", "nearest_even"), ("fp16", "nearest_even"), ("bf16", "down"), ("e4m3fn", "to_odd"), ("e4m3fn", "up")],
)
def test_sums_are_their_definitions(order: str, name: str, mode: str, backend: Executor) -> None:
    for count in (1, 7):
        rng = generator(90 + count)
        near = drawn(rng, (24, count), (115, 132))
        words = np.concatenate([near, sprinkled(rng, near, 0.2), drawn(rng, (12, count), (0, 3))])
        assert_same_bits(
            run(words, backend, order=order, fmt=name, rounding=mode), expected(words, order, name, mode)
        )


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("order", ORDERS)
def test_subnormals_and_cancellation(order: str, backend: Executor) -> None:
    words = np.array([[1, 2, 0x80000001, 0x007FFFFF], [0x00800000, 0x80000001, 0x80800000, 5]], np.uint32)
    assert_same_bits(run(words, backend, order=order), expected(words, order, "fp32", "nearest_even"))


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("order", ORDERS)
def test_any_axis(order: str, backend: Executor) -> None:
    words = drawn(generator(99), (3, 3, 3), (115, 135))
    for axis in (0, 1, 2, -1, -3):
        moved = np.ascontiguousarray(np.moveaxis(words, axis, -1))
        result = run(words, backend, axis=axis, order=order, fmt="fp16")
        flat = run(moved.reshape(-1, moved.shape[-1]), backend, order=order, fmt="fp16")
        assert_same_bits(result, flat.reshape(moved.shape[:-1]))


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("order", ORDERS)
def test_many_columns_are_each_their_own_sum(order: str, backend: Executor) -> None:
    words = drawn(generator(98), (9, 1000), (110, 140))
    result = run(words, backend, axis=0, order=order)
    assert_same_bits(result, pr.ordered_sum(words.view(np.float32), 0, order=order, backend="numpy"))
    assert_same_bits(result[::100], expected(words[:, ::100].T, order, "fp32", "nearest_even"))


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", ["nearest_even", "down"])
def test_zeros_keep_their_sign(order: str, mode: str, backend: Executor) -> None:
    words = np.array([[0x80000000] * 3, [0] * 3, [0x80000000, 0, 0]], np.uint32)
    assert_same_bits(run(words, backend, order=order, rounding=mode), expected(words, order, "fp32", mode))


@pytest.mark.parametrize("order", ORDERS)
def test_an_empty_axis_gives_zero(order: str, backend: Executor) -> None:
    assert_same_bits(run(np.zeros((2, 0), np.uint32), backend, order=order), np.zeros(2, np.float32))
    assert run(np.zeros((0, 3), np.uint32), backend, order=order).shape == (0,)
    assert run(np.zeros(3, np.uint32), backend, order=order).shape == ()


def test_kahan_recovers_what_a_sequential_sum_loses(backend: Executor) -> None:
    terms = np.array([1] + [2.0**-24] * 512, np.float32).view(np.uint32)
    assert float(run(terms, backend, order="sequential")) == 1
    assert float(run(terms, backend, order="kahan")) == 1 + 2.0**-15


def test_float32_sums_are_the_processors() -> None:
    x = drawn(generator(97), (17, 40), (100, 150)).view(np.float32)
    total = x[0]
    for row in x[1:]:
        total = total + row
    for backend in ("numpy", "numba", "jax"):
        summed = pr.ordered_sum(jnp.asarray(x) if backend == "jax" else x, 0, order="sequential", backend=backend)
        assert_same_bits(np.asarray(summed), total)


def test_inside_jit_and_vmap() -> None:
    words = drawn(generator(96), (6, 11), (115, 135))
    x = jnp.asarray(words.view(np.float32))
    for order in ORDERS:
        result = jax.jit(lambda x, order=order: pr.ordered_sum(x, order=order, fmt="bf16"))(x)
        assert_same_bits(result, expected(words, order, "bf16", "nearest_even"))
        rows = jax.vmap(lambda row, order=order: pr.ordered_sum(row, order=order, fmt="bf16"))(x)
        assert_same_bits(rows, result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "pairwise"}, "order 'pairwise' is not offered; choose one of tree, sequential, kahan"),
        ({"rounding": "stochastic"}, "does not round at random"),
        ({"rounding": "odd"}, "rounding 'odd' is not offered"),
        ({"fmt": "fp12"}, "unknown number format"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pr.ordered_sum(np.zeros(3, np.float32), **options)


def test_what_cannot_be_summed_is_refused() -> None:
    with pytest.raises(TypeError, match="float32"):
        pr.ordered_sum(np.zeros(3, np.complex64))
    with pytest.raises(ValueError, match="int8 has no NaN"):
        pr.ordered_sum(np.float32([1, np.nan]), fmt="int8")
    with pytest.raises(ValueError, match="axis"):
        pr.ordered_sum(np.float32(1))
