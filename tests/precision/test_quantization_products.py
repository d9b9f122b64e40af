"""Products of quantized matrices in every bit: any two granularities, zero points, groups, batches, empty axes."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import quantized_product_oracle as oracle
from bits_assertions import assert_same_bits
from executors import Executor
from hypothesis import given
from hypothesis import strategies as st
from quantizer_cases import AFFINE, ROUNDED_SCALES, mild, with_granularity
from strategies import drawn, generator

import precision as pr
from precision.backends import get_backend
from precision.quantization.products import quantized_product
from precision.quantization.scheme import VECTOR, MatmulScheme, QScheme

K = 9
INT4 = replace(VECTOR, name="int4", bits=4)


def scheme_of(x: QScheme | None, w: QScheme, **facts: Any) -> MatmulScheme:
    return MatmulScheme(name=f"{x}_{w}", x=x, w=w, integer=x is not None, **facts)


def grouped(base: QScheme, group: int) -> QScheme:
    return with_granularity(base, "group", group)


PAIRS = (
    scheme_of(AFFINE, VECTOR),
    scheme_of(AFFINE, AFFINE),
    scheme_of(VECTOR, replace(AFFINE, bits=4)),
    scheme_of(VECTOR, grouped(VECTOR, 4)),  # 9 elements in 4 + 4 + 1
    scheme_of(grouped(AFFINE, 4), VECTOR),
    scheme_of(grouped(AFFINE, 4), grouped(AFFINE, 4)),
    scheme_of(grouped(VECTOR, 20), grouped(INT4, 2)),
    scheme_of(with_granularity(AFFINE, "tensor"), with_granularity(VECTOR, "tensor")),
    scheme_of(with_granularity(VECTOR, "row"), with_granularity(AFFINE, "column")),
    scheme_of(with_granularity(AFFINE, "column"), with_granularity(AFFINE, "row")),  # a scale for each of k
    scheme_of(with_granularity(VECTOR, "block", 4), with_granularity(VECTOR, "block", 4)),
    scheme_of(VECTOR, with_granularity(AFFINE, "block", 2)),
    scheme_of(ROUNDED_SCALES[0], ROUNDED_SCALES[4]),
    *(scheme_of(None, w) for w in (VECTOR, INT4, grouped(INT4, 4), with_granularity(AFFINE, "block", 4))),
    scheme_of(None, grouped(VECTOR, 2), working="bf16"),
    replace(scheme_of(AFFINE, grouped(INT4, 4)), name="codes_as_floats", integer=False),
    MatmulScheme(name="x_alone", x=AFFINE, w=None, integer=False),
)


def times(x: Any, w: Any, bias: Any, **static: Any) -> Any:
    return pr.quantized_matmul(x, w, bias=bias, **static)


def expected(x: np.ndarray, w: np.ndarray, scheme: MatmulScheme, output: str, bias: Any = None) -> np.ndarray:
    return (oracle.integer if scheme.integer else oracle.of_floats)(x, w, scheme, output, bias)


@pytest.mark.parametrize("scheme", PAIRS, ids=str)
def test_any_two_granularities(scheme: MatmulScheme) -> None:
    for seed, exponents in ((81, (118, 130)), (82, (100, 140))):
        rng = generator(seed)
        x, w, bias = drawn(rng, (4, K), exponents), drawn(rng, (K, 5), exponents), drawn(rng, 5, (110, 130))
        x[1], w[:, 2], x[:, 3] = 0, 1, 0x80000000
        for given_bias, output in ((None, "fp32"), (bias, "fp16"), (bias, "bf16")):
            result = times(
                x.view("f4"),
                w.view("f4"),
                None if given_bias is None else bias.view("f4"),
                scheme=scheme,
                output=output,
            )
            assert_same_bits(result, expected(x, w, scheme, output, given_bias))


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("scheme", [PAIRS[i] for i in (1, 5, 11)], ids=str)
def test_everywhere(backend: Executor, scheme: MatmulScheme) -> None:
    """Leading axes are rows."""
    x, w, bias = mild(83, (2, 3, K)), mild(84, (K, 5)), mild(85, (5,))
    result = backend.call(times, x.view("f4"), w.view("f4"), bias.view("f4"), scheme=scheme, output="fp32")
    assert_same_bits(result, expected(x, w, scheme, "fp32", bias))


@pytest.mark.parametrize("scheme", PAIRS[:13], ids=str)
def test_leading_axes_under_any_granularity(scheme: MatmulScheme) -> None:
    x, w = mild(86, (2, 3, K)), mild(87, (K, 5))
    result = times(x.view("f4"), w.view("f4"), None, scheme=scheme, output="fp32")
    assert_same_bits(result, expected(x, w, scheme, "fp32"))


@pytest.mark.parametrize("scheme", PAIRS, ids=str)
def test_empty_axes(scheme: MatmulScheme) -> None:
    for shape, name in product([(0, 4, 3), (2, 0, 3), (2, 4, 0), (0, 0, 0)], ("numpy", "numba")):
        m, k, n = shape
        result = times(np.ones((m, k), "f4"), np.ones((k, n), "f4"), None, scheme=scheme, output="fp32", backend=name)
        assert_same_bits(result, np.zeros((m, n), np.float32))


def test_no_terms_under_jit() -> None:
    for scheme in (PAIRS[1], PAIRS[5]):
        result = Executor("jax").call(times, np.ones((2, 0), "f4"), np.ones((0, 3), "f4"), None, scheme=scheme)
        assert_same_bits(result, np.zeros((2, 3), np.float32))


@given(st.data())
def test_any_pair(data: st.DataObject) -> None:
    m, k, n = (data.draw(st.integers(1, 5)) for _ in range(3))
    bases = st.sampled_from([VECTOR, INT4, AFFINE])
    group = data.draw(st.integers(1, 5))
    shared = st.sampled_from(["tensor", "vector", "group", "block"])
    x, w = (
        with_granularity(data.draw(bases), kind, group if kind in ("group", "block") else None)
        for kind in (data.draw(shared), data.draw(shared))
    )
    scheme = scheme_of(x, w)
    rng = generator(data.draw(st.integers(0, 1 << 30)))
    a, b = drawn(rng, (m, k), (110, 135)), drawn(rng, (k, n), (110, 135))
    result = times(a.view("f4"), b.view("f4"), None, scheme=scheme, output="fp32", backend="numpy")
    assert_same_bits(result, oracle.integer(a, b, scheme, "fp32"))


def test_arrays_quantized_before() -> None:
    for scheme in PAIRS[:13]:
        x, w = mild(88, (4, K)).view("f4"), mild(89, (K, 5)).view("f4")
        whole = pr.quantized_matmul(x, w, scheme=scheme)
        qx, qw = pr.quantize(x, scheme.x, axis=-1), pr.quantize(w, scheme.w, axis=-2)
        for a, b in ((qx, w), (x, qw), (qx, qw)):
            assert_same_bits(pr.quantized_matmul(a, b, scheme=scheme), whole)


# Refusals


@pytest.mark.parametrize(("x", "w", "k"), [(4, 3, 9), (2, 3, 9), (1, 2, 4)])
def test_groups_of_two_lengths(x: int, w: int, k: int) -> None:
    """9 elements are 3 groups of 4 and 3 of 3: it is lengths that count."""
    message = f"x and w have groups of {x} and {w} along k; quantize both in groups of one length"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        times(
            np.ones((2, k), "f4"),
            np.ones((k, 2), "f4"),
            None,
            scheme=scheme_of(grouped(VECTOR, x), grouped(VECTOR, w)),
        )


def test_a_group_of_all_k_goes_with_any() -> None:
    x, w = mild(90, (3, 8)), mild(91, (8, 2))
    scheme = scheme_of(grouped(VECTOR, 8), grouped(VECTOR, 3))
    assert_same_bits(times(x.view("f4"), w.view("f4"), None, scheme=scheme), expected(x, w, scheme, "fp16"))


def test_jax_weights_on_another_back_end() -> None:
    message = "backend 'numpy' cannot take JAX arrays; convert them with numpy.asarray first"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pr.quantized_matmul(np.ones((2, 3), np.float32), jnp.ones((3, 2)), backend="numpy")


def test_codes_that_a_scheme_does_not_read() -> None:
    """Their scales are absmax, so that the product would be 127 times too large; or codes leave INT8."""
    ones = np.ones((3, 2), np.float32)
    for name in ("bnb_cpu", "smoothquant"):
        with pytest.raises(
            ValueError, match=f"^int8_vectorwise does not read codes of {name}, in which w is quantized"
        ):
            pr.quantized_matmul(ones.T, pr.quantize(ones, name, axis=-2))
    with pytest.raises(ValueError, match=r"^bnb_cpu does not read codes of int8_vector, in which x is quantized"):
        pr.quantized_matmul(pr.quantize(ones, axis=-1), ones.T, scheme="bnb_cpu")


# Batches of matrices, both quantized


@pytest.mark.parametrize("scheme", [*PAIRS[:6], PAIRS[11]], ids=str)
def test_batches(scheme: MatmulScheme) -> None:
    """Where no tile reaches over the batch, each product is the one of its matrices."""
    x, w = mild(92, (3, 4, K)), mild(93, (3, K, 5))
    result = quantized_product(get_backend("numpy"), x.view("f4"), w.view("f4"), scheme)
    for i in range(3):
        assert_same_bits(result[i], oracle.integer(x[i], w[i], scheme, "fp32"))


def test_batches_of_one_scale() -> None:
    """A tensor's scale is that of the largest matrix."""
    tensor = with_granularity(VECTOR, "tensor")
    scheme = scheme_of(tensor, tensor)
    x, w = mild(94, (2, 4, K)), mild(95, (2, K, 5))
    x[1, 2, 3], w[0, 1, 1] = 0x43000000, 0x42C80000
    result = quantized_product(get_backend("numpy"), x.view("f4"), w.view("f4"), scheme)
    for i in range(2):
        a, b = x[i].copy(), w[i].copy()
        padded = np.zeros((5, K + 1), np.uint32), np.zeros((K + 1, 6), np.uint32)  # the other's largest, beside zeros
        padded[0][:4, :K], padded[1][:K, :5] = a, b
        padded[0][4, 0], padded[1][0, 5] = 0x43000000, 0x42C80000
        assert_same_bits(result[i], oracle.integer(*padded, scheme, "fp32")[:4, :5])
