"""The oracle of other people's INT8 against the packages themselves; those need the optional extra ``variants``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import variant_oracle as ours
import variant_packages as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import drawn, generator
from variant_cases import FLOATS, differing, factors, finite, matrix

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own deprecations

VARIANTS = ("torchao", "qwix", "aqt", "bnb_cpu", "smoothquant")
each_float = pytest.mark.parametrize("dtype", FLOATS)
each_variant = pytest.mark.parametrize("name", VARIANTS)


def assert_agree(name: str, x: np.ndarray, **options: Any) -> None:
    actual, expected = getattr(theirs, name)(x, **options), getattr(ours, name)(x, **options)
    assert [differing(a, e) for a, e in zip(actual, expected, strict=True)] == [0, 0]


# Codes and scales


@each_variant
@each_float
@pytest.mark.parametrize("shape", [(256, 24), (32, 2), (20, 333)])
def test_every_scale_and_code(name: str, dtype: str, shape: tuple[int, int]) -> None:
    for seed in range(4):
        assert_agree(name, matrix(dtype, seed, shape))


@each_variant
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_absmax_of_16_bits(name: str, dtype: str) -> None:
    kind = FLOATS[dtype]
    largest = finite(np.arange(1 << 15, dtype=np.uint16).view(kind))
    fractions = generator(3).integers(-256, 257, (len(largest), 8)) / np.float32(256)
    x = (largest[:, None].astype(np.float32) * fractions).astype(kind)
    x[:, 0] = largest
    assert_agree(name, x)


@each_variant
@each_float
def test_drawn_patterns(name: str, dtype: str) -> None:
    kind = FLOATS[dtype]
    words = arrays(f"u{kind.itemsize}", (4, 8), elements=st.integers(0, (1 << 8 * kind.itemsize) - 1))

    @settings(max_examples=60)
    @given(words)
    def agrees(x: np.ndarray) -> None:
        assert_agree(name, finite(x.view(kind)))

    agrees()


@each_variant
@each_float
def test_rows_with_infinities_and_nans(name: str, dtype: str) -> None:
    """XLA's maximum of float32 may pass over a NaN, wherever it happens to stand: left out there."""
    x = matrix(dtype, 5)
    x[10:13, 1] = np.inf, -np.inf, np.inf
    x[13, :2] = np.inf, -np.inf
    if (name, dtype) not in (("qwix", "float32"), ("aqt", "float32")):
        x[20:24, 3], x[24], x[25, :2] = np.nan, np.nan, (np.inf, np.nan)
    assert_agree(name, x)


@each_variant
@each_float
def test_one_row_and_one_column(name: str, dtype: str) -> None:
    x = matrix(dtype, 6)
    assert_agree(name, x[7:8])
    if name != "torchao":  # refuses k = 1
        assert_agree(name, x[:, :1].copy())


@each_float
@pytest.mark.parametrize("threshold", [6.0, 5.9990234375, 6.0014, 0.37])
def test_outliers_leave_the_absmax(dtype: str, threshold: float) -> None:
    x = matrix(dtype, 7)
    x[:, 3:] = np.where(np.abs(x[:, 3:].astype(np.float32)) >= 0.3, x.dtype.type(0.25), x[:, 3:])
    x[9, 0] = threshold
    assert_agree("bnb_cpu", x, threshold=threshold)
    assert_agree("bnb_cpu", x[9:10], threshold=threshold)


@each_float
def test_smoothquant_per_tensor(dtype: str) -> None:
    for row in matrix(dtype, 8):
        assert_agree("smoothquant", row.reshape(2, -1), per_tensor=True)


@each_float
@pytest.mark.parametrize("group", [8, 24])
def test_int4_groups(dtype: str, group: int) -> None:
    for seed in range(4):
        assert_agree("torchao_int4", matrix(dtype, seed), group=group)


# Products


def product(name: str, module: Any, dtype: str, bias: bool, **options: Any) -> np.ndarray:
    x, w, b = factors(dtype, 11)
    return getattr(module, f"{name}_product")(x, w, *((b,) if bias else ()), **options)


@each_float
@pytest.mark.parametrize("name", ["torchao", "bnb_cpu"])
@pytest.mark.parametrize("bias", [False, True])
def test_products_of_torch(name: str, dtype: str, bias: bool) -> None:
    assert differing(product(name, theirs, dtype, bias), product(name, ours, dtype, bias)) == 0


@each_float
@pytest.mark.parametrize("name", ["qwix", "aqt"])
@pytest.mark.parametrize("jit", [False, True])
def test_products_of_xla(name: str, dtype: str, jit: bool) -> None:
    assert differing(product(name, theirs, dtype, False, jit=jit), product(name, ours, dtype, False)) == 0


@each_float
@pytest.mark.parametrize("name", ["torchao", "bnb_cpu", "qwix", "aqt"])
def test_sums_beyond_24_bits(name: str, dtype: str) -> None:
    """INT32 to bfloat16 goes through float32."""
    magnitudes = generator(14).integers(100, 128, (14, 2100))
    x, w = magnitudes[:8].astype(FLOATS[dtype]), magnitudes[8:].astype(FLOATS[dtype])
    call = f"{name}_product"
    assert differing(getattr(theirs, call)(x, w), getattr(ours, call)(x, w)) == 0


@pytest.mark.parametrize("bias", [False, True])
def test_one_column_of_outliers(bias: bool) -> None:
    x, w, b = factors("float16", 12)
    x, w = x[::2], w[::2]
    x[np.abs(x) >= 6] = 0.5
    x[3:9, 5] = np.array([6, -6, 100, 7.5, -1000, 6.004], np.float16)
    call = (x, w, b[::2] if bias else None, 6.0)
    assert differing(theirs.bnb_cpu_product(*call), ours.bnb_cpu_product(*call)) == 0


def test_dequantization_of_any_accumulator() -> None:
    rng = generator(13)
    acc = rng.integers(-(2**31), 2**31, (64, 48)).astype(np.int32) >> rng.integers(0, 31, (64, 48)).astype(np.int32)
    row, column = (drawn(rng, (n,), (103, 142)).view(np.float32) for n in (64, 48))
    bias = finite(rng.integers(0, 1 << 16, 48).astype(np.uint16).view(np.float16))
    with np.errstate(over="ignore"):
        expected = ours.bnb_cpu_dequantized(acc, row, column, bias).astype(np.float16)
    assert differing(theirs.bnb_cpu_dequantized(acc, row, column, bias), expected) == 0
