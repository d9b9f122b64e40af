"""Units in the last place, against the values of a format in order."""

from __future__ import annotations

import numpy as np
import pytest
from refusals import refused

import precision as pr
from precision.ulps import codes, ulps_apart

FLOATS = ("e4m3fn", "e5m2", "e4m3fnuz", "e2m1", "fp16", "bf16")


def in_order(name: str) -> np.ndarray:
    """Every value that is no NaN, upwards, -0 before +0: sorted by NumPy, not by codes."""
    fmt = pr.parse_format(name)
    every = np.arange(1 << fmt.bits, dtype=f"u{fmt.code_dtype.itemsize}")
    values = np.asarray(pr.decode(every.view(fmt.code_dtype), fmt))
    values = values[~np.isnan(values)]
    return values[np.lexsort((~np.signbit(values), values))]


@pytest.mark.parametrize("name", FLOATS)
def test_neighbours_are_one_apart(name: str) -> None:
    values = in_order(name)
    both = values[:-1], values[1:]
    zeros = (both[0] == 0) & (both[1] == 0)
    gap = np.where(_without_negative_zero(name) & (both[0] < 0) & (both[1] == 0), 2, 1)  # the place -0 would have
    np.testing.assert_array_equal(ulps_apart(*both, name), gap)
    np.testing.assert_array_equal(ulps_apart(both[1], both[0], name), gap)
    assert zeros.sum() == (0 if _without_negative_zero(name) else 1)


def _without_negative_zero(name: str) -> bool:
    return not pr.parse_format(name).signed_zero


@pytest.mark.parametrize("name", FLOATS)
def test_any_two_values(name: str) -> None:
    """As many steps apart as they are in order."""
    values = in_order(name)
    places = np.arange(values.size) + (_without_negative_zero(name) & (values >= 0))
    i, j = np.random.default_rng(0).integers(0, values.size, (2, 1000))
    np.testing.assert_array_equal(ulps_apart(values[i], values[j], name), np.abs(places[i] - places[j]))


def test_float32() -> None:
    x = np.float32([1, 1, -0.0, 3.4028235e38, np.nan, 0])
    y = np.float32([np.nextafter(np.float32(1), np.float32(2)), -1, 0.0, np.inf, 1, np.nan])
    assert ulps_apart(x, y).tolist() == [1, 2 * 0x3F800000 + 1, 1, 1, -1, -1]


def test_codes() -> None:
    assert [hex(code) for code in codes(np.float32([-1, 65504]), "fp16")] == ["0xbc00", "0x7bff"]
    assert [hex(code) for code in codes(np.float32([-2]))] == ["0xc0000000"]


@pytest.mark.parametrize("name", ["int8", "e8m0"])
def test_other_formats_are_refused(name: str) -> None:
    with refused(ValueError, name, "signed float"):
        ulps_apart(np.float32([1]), np.float32([2]), name)
