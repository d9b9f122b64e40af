"""The named variants give the bits of their packages on every back end; the oracle stands for the packages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import variant_oracle
from executors import Executor
from variant_cases import FLOATS, differing, factors, finite, matrix

import precision as pr
from precision.quantization.variants import VARIANTS

SUFFIXES = {"float32": ("", "fp32"), "bfloat16": ("_bf16", "bf16"), "float16": ("_fp16", "fp16")}
OF_EVERY_FLOAT = [(name, dtype) for name in ("torchao", "qwix", "aqt") for dtype in FLOATS]
CASES = [*OF_EVERY_FLOAT, ("bnb_cpu", "float16"), ("bnb_cuda", "float16")]
BIASED = [case for case in CASES if case[0] in ("torchao", "bnb_cpu", "bnb_cuda")]
by_case = pytest.mark.parametrize(("name", "dtype"), CASES)


def scheme_name(name: str, dtype: str) -> str:
    return name + SUFFIXES[dtype][0] if (name, dtype) in OF_EVERY_FLOAT else name


def every_absmax(dtype: str) -> np.ndarray:
    """A row for each finite value of a 16-bit float, the largest of the row."""
    largest = finite(np.arange(1 << 15, dtype=np.uint16).view(FLOATS[dtype]))
    fractions = np.arange(-256, 256, 73, np.float32) / np.float32(256)
    x = (largest[:, None].astype(np.float32) * fractions).astype(FLOATS[dtype])
    x[:, 0] = largest
    return x


def quantized(backend: Executor, scheme: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and dequantized values."""
    return backend.call(parts, x.astype(np.float32), scheme=scheme, **propagate(backend))


def parts(x: Any, backend: str, **options: Any) -> tuple[Any, Any, Any]:
    q = pr.quantize(x, axis=-1, backend=backend, **options)
    return q.codes, q.scale, q.dequantize(backend=backend)


def assert_codes_and_scales(backend: Executor, name: str, dtype: str, x: np.ndarray) -> None:
    codes, scale, _ = quantized(backend, scheme_name(name, dtype), x)
    expected_codes, expected_scale = getattr(variant_oracle, name)(x)
    assert differing(codes, expected_codes) == 0
    assert differing(scale.reshape(-1), expected_scale.astype(np.float32).reshape(-1)) == 0


def propagate(backend: Executor) -> dict[str, Any]:
    """Traced code cannot raise for what it finds in an array."""
    return {"nonfinite": "propagate"} if backend.name == "jax" else {}


def test_every_variant_is_compared_but_one() -> None:
    """The mixed product of a GPU is nominal: its parts are the others' and its order of addition is cuBLAS'."""
    compared = {scheme_name(*case) for case in CASES} | {"bnb_cpu_mixed", "smoothquant"}
    assert {variant.name for variant in VARIANTS} == compared | {"bnb_cuda_mixed"}


@pytest.mark.thinned(0.25)
@by_case
def test_codes_and_scales(backend: Executor, name: str, dtype: str) -> None:
    for seed in range(4):
        assert_codes_and_scales(backend, name, dtype, matrix(dtype, seed))


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize(("name", "dtype"), [case for case in CASES if case[1] != "float32"])
def test_every_absmax_of_16_bits(backend: Executor, name: str, dtype: str) -> None:
    assert_codes_and_scales(backend, name, dtype, every_absmax(dtype))


def product(
    backend: Executor, scheme: str, dtype: str, x: np.ndarray, w: np.ndarray, *bias: np.ndarray
) -> np.ndarray:
    """x w^T, and the bias, in the dtype of the operands."""
    arrays = [np.ascontiguousarray(a.astype(np.float32)) for a in (x, w.T, *bias)]
    options = {"scheme": scheme, "output": SUFFIXES[dtype][1], **propagate(backend)}
    return backend.call(multiplied, *arrays, **options).astype(FLOATS[dtype])


def multiplied(x: Any, w: Any, bias: Any = None, **options: Any) -> Any:
    return pr.quantized_matmul(x, w, bias=bias, **options)


@pytest.mark.thinned(0.25)
@by_case
def test_products(backend: Executor, name: str, dtype: str) -> None:
    x, w, _ = factors(dtype, 11)
    expected = getattr(variant_oracle, f"{name}_product")(x, w)
    assert differing(product(backend, scheme_name(name, dtype), dtype, x, w), expected) == 0


@pytest.mark.parametrize(("name", "dtype"), BIASED)
def test_biased_products(backend: Executor, name: str, dtype: str) -> None:
    x, w, bias = factors(dtype, 11)
    expected = getattr(variant_oracle, f"{name}_product")(x, w, bias)
    assert differing(product(backend, scheme_name(name, dtype), dtype, x, w, bias), expected) == 0


@pytest.mark.parametrize("outliers", [False, True])
def test_mixed_products(backend: Executor, outliers: bool) -> None:
    """With one column of outliers, as the order in which libraries add more is theirs."""
    x, w, _ = factors("float16", 12)
    x, w = x[::2], w[::2]
    x[np.abs(x) >= 6] = 0.5
    if outliers:
        x[3:9, 5] = np.array([6, -6, 100, 7.5, -1000, 6.004], np.float16)
    expected = variant_oracle.bnb_cpu_product(x, w, None, 6.0)
    assert differing(product(backend, "bnb_cpu_mixed", "float16", x, w), expected) == 0


def test_smoothquant(backend: Executor) -> None:
    """Values and scales; codes have no sign of zero, which the fake quantization in fp16 keeps."""
    for seed in range(4):
        x = matrix("float16", seed)
        _, scale, values = quantized(backend, "smoothquant", x)
        expected_values, expected_scale = variant_oracle.smoothquant(x)
        np.testing.assert_array_equal(values, expected_values.astype(np.float32))
        assert differing(scale, expected_scale.astype(np.float32)) == 0
