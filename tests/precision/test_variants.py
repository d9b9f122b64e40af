"""INT8 of named packages as records of this project: codes, scales and products against an oracle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import variant_oracle as oracle
from bits_assertions import assert_same_bits
from executors import Executor
from strategies import generator

import precision as pr
from precision.backends import BACKENDS, get_backend
from precision.quantization.approximate_division import approximate_quotient
from precision.quantization.variants import VARIANTS

ROWS, COLUMNS = 120, 40
DTYPES = {"": np.dtype(np.float32), "_bf16": np.dtype(ml_dtypes.bfloat16), "_fp16": np.dtype(np.float16)}
EXPONENTS = {"": (-140, 120), "_bf16": (-130, 120), "_fp16": (-20, 13)}
RECORDED = "6c75958602e09e9f0cea88ef035d4a2a5208a93969e2c220ed1e1b7b96844af2"
IN_DTYPES = [(name, suffix) for name in ("torchao", "qwix", "aqt") for suffix in DTYPES]
ORACLES: dict[str, Callable] = {"torchao": oracle.torchao, "qwix": oracle.qwix, "aqt": oracle.aqt}
PRODUCTS: dict[str, Callable] = {
    "torchao": oracle.torchao_product,
    "qwix": oracle.qwix_product,
    "aqt": oracle.aqt_product,
}


def hard_rows(suffix: str) -> np.ndarray:
    """(ROWS, COLUMNS) of the dtype: many scales, zeros, ties at half, one huge value among small ones, subnormals."""
    rng, dtype = generator(61), DTYPES[suffix]
    low, high = EXPONENTS[suffix]
    x = rng.normal(size=(ROWS, COLUMNS)) * 2.0 ** rng.integers(low, high, size=(ROWS, 1))
    x[:4] = [[0.0], [-0.0], [0.0], [1.0]]
    ties = slice(4, 40)
    x[ties] = np.round(x[ties] / np.abs(x[ties]).max(axis=1, keepdims=True) * 255) / 2
    x[40:50] = rng.normal(size=(10, COLUMNS)) * 1e-5
    x[40:50, 3] = 3e4 if suffix == "_fp16" else 1e30
    x[50:60] = rng.normal(size=(10, COLUMNS)) * (2.0**-23 if suffix == "_fp16" else 2.0**-127)
    with np.errstate(over="ignore", under="ignore"):
        x = x.astype(dtype)
    return np.where(np.isfinite(x.astype(np.float32)), x, 0).astype(dtype)


def float32(x: Any) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(x).astype(np.float32))


def parts(x: Any, *, name: str, axis: int, backend: str | None = None) -> tuple[Any, Any]:
    q = pr.quantize(x, name, axis=axis, nonfinite="propagate", backend=backend)
    return q.codes, q.scale


@pytest.mark.parametrize(("package", "suffix"), IN_DTYPES)
def test_codes_and_scales(backend: Executor, package: str, suffix: str) -> None:
    x = hard_rows(suffix)
    codes, scale = backend.call(parts, float32(x), name=package + suffix, axis=-1)
    expected, expected_scale = ORACLES[package](x)
    assert_same_bits(codes, expected)
    assert_same_bits(scale, float32(expected_scale))


@pytest.mark.parametrize(("package", "suffix"), IN_DTYPES)
def test_columns_of_the_transpose(package: str, suffix: str) -> None:
    x = hard_rows(suffix)
    codes, scale = parts(float32(x).T, name=package + suffix, axis=-2)
    expected, expected_scale = ORACLES[package](x)
    assert_same_bits(codes, np.ascontiguousarray(expected.T))
    assert_same_bits(scale, float32(np.asarray(expected_scale).T))


@pytest.mark.parametrize("name", ["bnb_cpu", "bnb_cuda"])
def test_bitsandbytes(backend: Executor, name: str) -> None:
    x = hard_rows("_fp16")
    codes, scale = backend.call(parts, float32(x), name=name, axis=-1)
    expected, absmax = getattr(oracle, name)(x)
    assert_same_bits(codes, expected)
    assert_same_bits(scale[:, 0], float32(absmax))


def test_smoothquant(backend: Executor) -> None:
    """Dequantized values, of which codes lose a zero's sign; they go beyond 127 where the scale is an fp16 subnormal."""
    x = hard_rows("_fp16")
    values, scale = oracle.smoothquant(x)
    assert_same_bits(backend.call(dequantized, float32(x)), float32(values) + np.float32(0))
    codes, own_scale = backend.call(parts, float32(x), name="smoothquant", axis=-1)
    assert_same_bits(own_scale, float32(scale))
    assert codes.dtype == np.int16
    assert np.abs(codes).max() > 127


def dequantized(x: Any, *, backend: str | None = None) -> Any:
    return pr.quantize(x, "smoothquant", axis=-1, backend=backend).dequantize()


def test_sources_are_rounded_first() -> None:
    """bitsandbytes and SmoothQuant see fp16, whatever they are given."""
    x = generator(62).normal(size=(20, COLUMNS)).astype(np.float32)
    for name in ("bnb_cpu", "bnb_cuda", "smoothquant", "torchao_bf16"):
        source = pr.parse_scheme(name).operand(-1).source
        assert_same_bits(*(parts(v, name=name, axis=-1)[0] for v in (x, pr.round_to(x, source))))


# Products


def operands(suffix: str) -> tuple[np.ndarray, np.ndarray]:
    """x (24, 64) and w (18, 64), rows of outputs."""
    rng = generator(63)
    x = rng.normal(size=(24, 64)) * 2.0 ** rng.integers(-6, 6, size=(24, 1))
    w = rng.normal(size=(18, 64)) * 0.1
    x[0], w[0] = 0, 0
    return x.astype(DTYPES[suffix]), w.astype(DTYPES[suffix])


def product(x: Any, w: Any, bias: Any = None, *, name: str, output: str, backend: str | None = None) -> Any:
    return pr.quantized_matmul(x, w, scheme=name, output=output, bias=bias, backend=backend)


@pytest.mark.parametrize(("package", "suffix"), IN_DTYPES)
def test_products(backend: Executor, package: str, suffix: str) -> None:
    x, w = operands(suffix)
    output = suffix[1:] or "fp32"
    y = backend.call(product, float32(x), float32(w).T, name=package + suffix, output=output)
    assert_same_bits(y, float32(PRODUCTS[package](x, w)))


@pytest.mark.parametrize("name", ["bnb_cpu", "bnb_cuda"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_products_of_bitsandbytes(backend: Executor, name: str, with_bias: bool) -> None:
    x, w = operands("_fp16")
    bias = generator(64).normal(size=18).astype(np.float16) if with_bias else None
    expected = getattr(oracle, f"{name}_product")(x, w, bias)
    arguments = (float32(x), float32(w).T, *(() if bias is None else (float32(bias),)))
    assert_same_bits(backend.call(product, *arguments, name=name, output="fp16"), float32(expected))


def test_one_outlier_column_of_bitsandbytes(backend: Executor) -> None:
    """Of one column the sum has no order."""
    x, w = operands("_fp16")
    x = np.clip(x, -5, 5)
    x[3, 5] = 7
    expected = oracle.bnb_cpu_product(x, w, None, 6.0)
    y = backend.call(product, float32(x), float32(w).T, name="bnb_cpu_mixed", output="fp16")
    assert_same_bits(y, float32(expected))


# The recorded divide


@pytest.mark.parametrize("name", BACKENDS)
def test_recorded_divide(name: str) -> None:
    """All 31,743 positive fp16 values: the hash of what an H100 gave."""
    module = get_backend(name)
    values = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    quotients = np.asarray(approximate_quotient(module, jnp.asarray(values) if name == "jax" else values))
    assert hashlib.sha256(quotients.astype("<f4").tobytes()).hexdigest() == RECORDED
    assert (quotients != np.float32(127) / values).sum() == 9185


def test_variants_differ_from_the_canon() -> None:
    """None is the canon under another name: on plain normal rows each has other codes, or another scale."""
    x = pr.round_to(generator(65).normal(size=(400, 256)).astype(np.float32), pr.FP16)
    canon = parts(x, name="int8_vectorwise", axis=-1)
    for variant in VARIANTS:
        codes, scale = parts(x, name=variant.name, axis=-1)
        assert (np.asarray(codes) != canon[0]).any() or (scale != canon[1]).any(), variant.name
