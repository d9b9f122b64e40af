"""What formats lose, against values rounded one by one; histograms against their definition."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import precision as pr
from qsim.analysis.histograms import histogram
from qsim.analysis.ranges import LossRow, loss_rows, observed, range_row

PATTERNS = arrays(np.uint32, st.integers(0, 40), elements=st.integers(0, 2**32 - 1))
NATIVE = {
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}


def losses(x: np.ndarray) -> dict[str, LossRow]:
    return {row.format: row for row in loss_rows("weights", 0, "w", observed(x, "numpy"))}


@given(PATTERNS)
def test_counts_are_those_of_values_rounded_one_by_one(patterns: np.ndarray) -> None:
    x = patterns.view(np.float32)
    kept = x[np.isfinite(x) & (x != 0)]
    found = losses(x)
    for name, dtype in NATIVE.items():
        with np.errstate(over="ignore"):
            rounded = kept.astype(dtype).astype(np.float32)
        row = found[name]
        assert row.finite == kept.size
        assert row.underflowed == (rounded == 0).sum()
        assert row.overflowed == (~np.isfinite(rounded)).sum()  # e4m3fn overflows to NaN
        flushed = np.abs(rounded) < np.float32(pr.parse_format(name).min_normal)
        assert row.flushed == flushed.sum()


@given(PATTERNS)
def test_ranges_are_those_of_the_bits(patterns: np.ndarray) -> None:
    x = patterns.view(np.float32)
    kept = np.abs(x[np.isfinite(x) & (x != 0)].astype(np.float64))
    exponents = np.frexp(kept)[1] - 1
    row = range_row("activations", 3, "qkv.input", observed(x, "numpy"))
    assert (row.count, row.zero, row.nan, row.infinite) == (
        x.size,
        (x == 0).sum(),
        np.isnan(x).sum(),
        np.isinf(x).sum(),
    )
    assert dict(row.exponents) == dict(zip(*np.unique(exponents, return_counts=True), strict=True))
    assert (row.lowest, row.highest) == ((exponents.min(), exponents.max()) if kept.size else (None, None))


def test_formats_are_all_of_which_binades_tell() -> None:
    assert {"fp16", "bf16", "tf32", "e4m3fn", "e5m2", "e4m3", "e2m1", "e2m3", "e3m2"} <= losses(
        np.ones(1, np.float32)
    ).keys()


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-8, 8, width=32)))
def test_histograms_hold_every_value(x: np.ndarray) -> None:
    row = histogram(0, "w", x, bins=21, symmetric=True)
    assert sum(row.counts) == x.size
    assert row.low == -row.high
    assert row.low <= x.min()
    assert x.max() <= row.high
    assert np.sum(row.density * np.diff(row.edges)) == pytest.approx(1)


def test_values_that_are_all_alike_stand_in_the_middle() -> None:
    row = histogram(None, "g", np.ones(12, np.float32), bins=61, symmetric=False)
    assert (row.low, row.high) == (0.5, 1.5)
    assert row.counts[30] == 12


def test_values_that_are_not_finite_are_in_no_bin() -> None:
    row = histogram(None, "g", np.array([1, np.nan, np.inf, 3], np.float32), bins=2, symmetric=False)
    assert row.counts == (1, 1)
    assert histogram(None, "g", np.array([np.nan]), bins=3, symmetric=False).counts == (0, 0, 0)
