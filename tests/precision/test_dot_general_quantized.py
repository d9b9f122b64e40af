"""Quantized products inside dot_general: by hand from quantized_matmul, every scheme, draws by key, mapped axes."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from strategies import drawn, generator

import precision as pr
from precision.passes import Passes
from precision.quantization.products import quantized_product
from precision.quantization.scheme import MatmulScheme, QScheme
from precision.quantization.schemes import SCHEMES
from precision.random_bits import fold_in

Array = Any
DENSE = (((1,), (0,)), ((), ()))
KEY = (0x01234567, 0x89ABCDEF)
VECTORWISE = SCHEMES["int8_vectorwise"]
DRAWN = QScheme(name="drawn", rounding="stochastic")
BY_X, BY_W = dataclasses.replace(VECTORWISE, x=DRAWN), dataclasses.replace(VECTORWISE, w=DRAWN)
BOTH = dataclasses.replace(VECTORWISE, x=DRAWN, w=DRAWN)
INTEGER = [name for name, scheme in SCHEMES.items() if scheme.integer]
SPANNING = [
    "int8_tensorwise",
    "int8_rowwise",
    "int8_affine",
    "llm_int8",
    "bnb_cpu_mixed",
]  # scales or columns of rows


def gemm(scheme: str | MatmulScheme) -> pr.Gemm:
    return pr.Gemm(inputs="bf16", output="fp32", quantization=scheme)


# gradients drawn, as in training
TRAINING = pr.DotGeneral(fprop=gemm(VECTORWISE), dgrad=gemm(BY_X), wgrad=gemm(BY_W))


def operands(*shapes: tuple[int, ...], seed: int = 81) -> list[np.ndarray]:
    """Values of bf16 and fp16 about 1, with outliers of 8 in the first operand."""
    rng = generator(seed)
    arrays = [pr.round_to(drawn(rng, shape, (120, 127)).view(np.float32), "bf16") for shape in shapes]
    arrays[0][..., 1] *= np.float32(8)
    return arrays


def refuses(message: str) -> Any:
    return pytest.raises(ValueError, match=rf"^{re.escape(message)}\Z")


def by_hand(a: np.ndarray, b: np.ndarray, scheme: str | MatmulScheme, key: Any = None) -> np.ndarray:
    return pr.quantized_matmul(a, b, scheme=scheme, output="fp32", key=key, backend="numpy")


# Nearest


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("name", INTEGER)
def test_every_integer_scheme(name: str) -> None:
    a, b = operands((5, 12), (12, 4))
    expected = by_hand(a, b, name)
    assert_same_bits(gemm(name)(a[None], b[None])[0], expected)
    assert_same_bits(jax.jit(gemm(name))(a[None], b[None])[0], expected)


@pytest.mark.parametrize("name", ["llm_int8", "bnb_cuda_mixed"])
def test_outliers_are_looked_for_block_by_block(name: str) -> None:
    """The second block has none."""
    a, b = operands((2, 5, 12), (2, 12, 4))
    a[1, :, 1] /= np.float32(8)
    expected = np.stack([by_hand(x, w, name) for x, w in zip(a, b, strict=True)])
    assert_same_bits(gemm(name)(a, b), expected)
    assert_same_bits(jax.jit(gemm(name))(a, b), expected)
    assert gemm(name)(a[:0], b[:0]).shape == (0, 5, 4)


def test_one_keyword_quantizes_all_three_products() -> None:
    x, w, dy = operands((6, 8), (8, 5), (6, 5))
    dot_general = pr.make_dot_general(inputs="bf16", output="bf16", quantization="int8_vectorwise")
    plain = pr.Gemm(inputs="bf16", output="bf16", quantization="int8_vectorwise")
    assert dot_general == pr.DotGeneral(fprop=plain, dgrad=plain, wgrad=plain)
    y, vjp = jax.vjp(lambda x, w: dot_general(x, w, DENSE), x, w)
    dx, dw = vjp(jnp.asarray(dy))
    for result, (a, b) in ((y, (x, w)), (dx, (dy, w.T)), (dw, (x.T, dy))):
        assert_same_bits(result, pr.quantized_matmul(a, b, output="bf16"))


def test_float_schemes_are_refused() -> None:
    message = "scheme int8_weight_only multiplies no integers; name one of both operands, or None"
    with refuses(message):
        pr.make_dot_general(quantization="int8_weight_only")


# Draws


@pytest.mark.parametrize("scheme", [BY_X, BY_W, BOTH], ids=["x", "w", "both"])
def test_draws_by_hand(backend: Executor, scheme: MatmulScheme) -> None:
    """x by the first child of the key, w by the second; the other operand to nearest."""
    a, b = operands((2, 5, 12), (2, 12, 4))
    if backend.name == "jax":
        result = jax.jit(gemm(scheme))(a, b, np.array(KEY, np.uint32))
    else:
        result = quantized_product(backend.module, a, b, scheme, KEY)
    for i, (x, w) in enumerate(zip(a, b, strict=True)):
        qx = pr.quantize(x, scheme.x, axis=-1, key=fold_in(KEY, 0), counter=i * x.size)
        qw = pr.quantize(w, scheme.w, axis=-2, key=fold_in(KEY, 1), counter=i * w.size)
        assert_same_bits(result[i], pr.quantized_matmul(qx, qw, output="fp32"))
    assert np.any(result[0] != by_hand(a[0], b[0], VECTORWISE))


def test_quantized_matmul_draws_alike() -> None:
    a, b = operands((5, 12), (12, 4))
    expected = gemm(BOTH)(a[None], b[None], KEY)[0]
    assert_same_bits(by_hand(a, b, BOTH, KEY), expected)
    traced = jax.jit(lambda a, b, key: pr.quantized_matmul(a, b, scheme=BOTH, output="fp32", key=key))
    assert_same_bits(traced(a, b, np.array(KEY, np.uint32)), expected)


def test_kinds_of_keys() -> None:
    """A number, two words, a raw and a typed JAX key are one key."""
    a, b = (x[None] for x in operands((5, 12), (12, 4)))
    expected = gemm(BOTH)(a, b, KEY)
    raw = jnp.array(KEY, jnp.uint32)
    kinds = [KEY[0] << 32 | KEY[1], np.array(KEY, np.uint32), raw, jax.random.wrap_key_data(raw), (raw[0], raw[1])]
    for key in kinds:
        a_too = a if isinstance(key, int | np.ndarray) else jnp.asarray(a)
        assert_same_bits(gemm(BOTH)(a_too, b, key), expected)


def drawn_products(x: np.ndarray, w: np.ndarray, dy: np.ndarray, key: Any) -> list[np.ndarray]:
    """y, dx, dw of TRAINING."""
    first, second = (Passes.key_of(p, key) for p in ("dgrad", "wgrad"))
    return [by_hand(x, w, VECTORWISE), by_hand(dy, w.T, BY_X, first), by_hand(x.T, dy, BY_W, second)]


def value_and_gradients(x: Array, w: Array, dy: Array, key: Array) -> list[Array]:
    y, vjp = jax.vjp(lambda x, w: TRAINING(x, w, DENSE, key=key), x, w)
    return [y, *vjp(dy)]


def test_gradients_take_children_of_the_key() -> None:
    x, w, dy = operands((6, 8), (8, 5), (6, 5))
    expected = drawn_products(x, w, dy, KEY)
    key = jax.random.wrap_key_data(jnp.array(KEY, jnp.uint32))
    for result, one in zip(jax.jit(value_and_gradients)(x, w, dy, key), expected, strict=True):
        assert_same_bits(result, one)
    assert_same_bits(TRAINING(x, w, DENSE, key=KEY), expected[0])
    again = drawn_products(x, w, dy, fold_in(KEY, 9))
    assert [np.array_equal(a, b) for a, b in zip(expected, again, strict=True)] == [True, False, False]


def test_second_derivatives_take_children_of_those() -> None:
    """The gradient of dx by dy is g w, drawn by a grandchild of the key where the forward product draws."""
    drawing = pr.DotGeneral(fprop=gemm(BOTH), dgrad=gemm(BY_X), wgrad=gemm(BY_W))
    x, w, dy, g = operands((6, 8), (8, 5), (6, 5), (6, 8))

    def dx(dy: Array) -> Array:
        return jax.vjp(lambda x: drawing(x, w, DENSE, key=KEY), x)[1](dy)[0]

    (second,) = jax.jit(lambda dy, g: jax.vjp(dx, dy)[1](g))(dy, g)
    assert_same_bits(second, by_hand(g, w, BOTH, fold_in(fold_in(KEY, 2), 2)))


def test_keys_of_passes_and_operands_differ() -> None:
    """Also from those of second derivatives."""
    products = [KEY, *(Passes.key_of(p, KEY) for p in ("dgrad", "wgrad"))]
    products += [Passes.key_of(p, key) for key in products[1:] for p in ("dgrad", "wgrad")]
    assert len({fold_in(key, operand) for key in products for operand in (0, 1)}) == 2 * len(products)


def test_a_key_is_asked_for() -> None:
    x, w = operands((6, 8), (8, 5))
    keys = "an int, two uint32 words or a JAX key"
    for array in (np.asarray, jnp.asarray):
        with refuses(f"dgrad and wgrad of this dot_general round stochastically; pass key, {keys}"):
            TRAINING(array(x), array(w), DENSE)
    with refuses(f"scheme int8_vectorwise rounds stochastically and needs key: {keys}"):
        gemm(BY_X)(x[None], w[None])
    with refuses(f"rounding 'stochastic' needs key: {keys}"):
        pr.quantized_matmul(x, w, scheme=BY_W)
    with refuses("scheme llm_int8 keeps outliers apart; a Gemm rounds it to nearest only"):
        pr.Gemm(quantization=dataclasses.replace(SCHEMES["llm_int8"], x=DRAWN))


def test_a_key_is_left_alone_where_nothing_draws() -> None:
    x, w = operands((6, 8), (8, 5))
    nearest = pr.make_dot_general(inputs="bf16", output="fp32", quantization="int8_vectorwise")
    assert_same_bits(nearest(x, w, DENSE, key="none of its business"), by_hand(x, w, VECTORWISE))


# Mapped axes


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("name", ["int8_vectorwise", *SPANNING])
def test_vmap_gives_the_bits_of_single_products(name: str, mapped: tuple) -> None:
    """Also where a scale, or a choice of columns, belongs to all rows of one product."""
    dot_general = pr.make_dot_general(inputs="bf16", output="fp32", quantization=name)
    a, b = operands((3, 5, 12), (3, 12, 4))
    a, b = (x if axis == 0 else x[0] for x, axis in zip((a, b), mapped, strict=True))
    result = jax.jit(jax.vmap(lambda a, b: dot_general(a, b, DENSE), mapped))(a, b)
    for i in range(3):
        one = [x if axis is None else x[i] for x, axis in zip((a, b), mapped, strict=True)]
        assert_same_bits(result[i], by_hand(*one, name))


@pytest.mark.parametrize("one_key", [False, True])
def test_vmap_draws_as_single_products_do(one_key: bool) -> None:
    x, w, dy = operands((3, 6, 8), (8, 5), (3, 6, 5))
    keys = np.array([fold_in(KEY, 0 if one_key else i) for i in range(3)], np.uint32)
    in_axes = (0, None, 0, None if one_key else 0)
    results = jax.jit(jax.vmap(value_and_gradients, in_axes))(x, w, dy, keys[0] if one_key else keys)
    for i, key in enumerate(keys):
        for result, expected in zip(results, drawn_products(x[i], w, dy[i], key), strict=True):
            assert_same_bits(result[i], expected)


def test_scan_and_remat_draw_alike() -> None:
    x, w, dy = operands((6, 8), (8, 5), (6, 5))
    keys = np.array([fold_in(KEY, i) for i in range(3)], np.uint32)

    def loss(w: Array) -> Array:
        def body(total: Array, key: Array) -> tuple[Array, None]:
            y = jax.checkpoint(lambda w: TRAINING(x, w, DENSE, key=key))(w)
            return total + (y * dy).sum(), None

        return jax.lax.scan(body, jnp.float32(0), keys)[0]

    expected = np.float32(0)
    for key in keys[::-1]:  # the backward scan adds from the last one on
        expected = expected + drawn_products(x, w, dy, key)[2]
    assert_same_bits(jax.jit(jax.grad(loss))(w), expected)


# Transposed products


@pytest.mark.parametrize("name", ["int8_rowwise", "int8_affine", "int4_group4_vectorwise"])
def test_the_transposed_product_quantizes_each_operand_as_before(name: str) -> None:
    scheme = gemm(name).scheme
    swapped = gemm(name).swapped().scheme
    assert scheme is not None
    assert swapped is not None
    assert (swapped.x, swapped.w) == (scheme.w, scheme.x)
    assert gemm(name).swapped().swapped().scheme == scheme
    assert gemm("int8_vectorwise").swapped().quantization == "int8_vectorwise"


def test_scales_of_rows_become_scales_of_columns() -> None:
    rows = QScheme(name="rows", granularity="row")
    scheme = dataclasses.replace(VECTORWISE, x=rows)
    a, b = operands((5, 12), (12, 4))
    swapped = gemm(scheme).swapped()
    assert swapped.scheme is not None
    assert swapped.scheme.w.granularity == "column"
    qa, qb = pr.quantize(a, rows, axis=-1), pr.quantize(b, axis=-2)
    expected = pr.quantized_matmul(qb.T, qa.T, output="fp32")
    assert_same_bits(swapped(np.ascontiguousarray(b.T)[None], np.ascontiguousarray(a.T)[None])[0], expected)
