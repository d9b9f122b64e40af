"""INT8 row quantization recorded on a GPU: the published steps, given the GPU's quotients, give each recorded bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from recorded import quantizer_inputs
from recorded.quantizer_inputs import THRESHOLDS, dequantized, matrix, quantized, quotients, sums

RECORDINGS = Path(__file__).resolve().parents[1] / "recorded" / "hopper"


@cache
def recording() -> dict[str, np.ndarray]:
    with np.load(RECORDINGS / "quantizer.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_codes_and_scales(threshold):
    parts = quantized(matrix(), threshold, quotients(recording()["fdividef_ulps"]))
    for part, values in zip(("codes", "absmax", "scale"), parts, strict=True):
        assert_same_bits(values, recording()[f"{part} {threshold}"])


def test_outputs():
    assert_same_bits(dequantized(*sums()), recording()["dequantized"])


def test_the_approximate_quotient_lies_within_its_published_error():
    """2 ulp from the rounded quotient, and not the rounded quotient everywhere."""
    distances = recording()["fdividef_ulps"]
    assert len(distances) == len(quantizer_inputs.positive_halves())
    assert 0 < np.abs(distances).max() <= 2
