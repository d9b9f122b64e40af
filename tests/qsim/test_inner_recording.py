"""Roundings inside a site: the same bits as unrecorded, and counts that a reader can make by hand."""

from __future__ import annotations

import numpy as np
import pytest
from bits_assertions import assert_same_bits

from qsim.inner_recording import InnerRecording
from qsim.layers import layernorm_backward, layernorm_forward
from qsim.policy import POLICIES
from qsim.recorders import Recorder
from qsim.sites import Calculator
from qsim.training import as_statistics

ROWS = np.array([[1, -1, 3, -3], [0.25, 0.25, 0.5, 1]], np.float32)
GAIN, BIAS = np.array([1, 2, 1, 0.5], np.float32), np.array([0, 0.5, 0, 1], np.float32)
SUM = 4 + 3 + 1  # values into the tree, additions, its root once more
# sum, mean, differences, squares, sum, variance, epsilon, root, inverse; of each value product, gain, bias, output
FORWARD = SUM + 1 + 4 + 4 + SUM + 1 + 1 + 1 + 1 + 4 * 4


def both_ways(ar: Calculator) -> tuple[np.ndarray, ...]:
    y, cache = layernorm_forward(ar, "layernorm_1", ROWS, GAIN, BIAS, 1e-5)
    return (y, *layernorm_backward(ar, "layernorm_1", cache, GAIN, ROWS, 1))


@pytest.mark.parametrize("policy", ["fp16-ln16", "fp16"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_recording_changes_no_bit(policy: str, backend: str) -> None:
    recorded = both_ways(InnerRecording(POLICIES[policy], backend, Recorder(), ("layernorm_1",)))
    for a, b in zip(recorded, both_ways(Calculator(POLICIES[policy], "numpy")), strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize(("policy", "roundings"), [("fp16-ln16", FORWARD), ("fp16", 4)])
def test_every_rounding_of_a_row_is_seen_once(policy: str, roundings: int) -> None:
    recorder = Recorder()
    ar = InnerRecording(POLICIES[policy], "numpy", recorder, ("layernorm_1",))
    both_ways(ar)
    counts = as_statistics(recorder.results(ar.backend), recorder.formats)
    assert counts["layernorm_1.fprop.roundings"].count == roundings * len(ROWS)
    assert counts["layernorm_1.fprop"].count == ROWS.size


def test_other_sites_and_roundings_unrecorded_are_not_seen() -> None:
    recorder = Recorder()
    ar = InnerRecording(POLICIES["fp16-ln16"], "numpy", recorder, ("layernorm_2",))
    both_ways(ar)
    assert not any(key.endswith("roundings") for key in recorder.formats)
    recorder = Recorder()
    ar = InnerRecording(POLICIES["fp16-ln16"], "numpy", recorder, ("layernorm_1",))
    with ar.unrecorded():
        both_ways(ar)
    assert recorder.formats == {}
