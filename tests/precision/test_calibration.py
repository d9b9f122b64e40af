"""Static ranges: what batches give, moving averages by hand, limits that clip and limits that are refused."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from qarray_assertions import assert_same_qarray
from refusals import refused
from strategies import drawn, generator

import precision as pr

TENSOR = pr.QScheme(name="int8_tensor", granularity="tensor")
AFFINE = pr.QScheme(name="uint8_tensor", granularity="tensor", symmetric=False)
PERCENTILE = pr.QScheme(
    name="percentile", granularity="tensor", clipping=pr.Clipping(method="percentile", percentile=90)
)
MSE = pr.QScheme(name="mse", granularity="tensor", clipping=pr.Clipping(method="mse", candidates=40))
HALVES = pr.QScheme(name="fp16_source", granularity="tensor", source="fp16")
COLUMNS = pr.QScheme(name="columns", granularity="column")
SCHEMES = (TENSOR, AFFINE, PERCENTILE, MSE, HALVES)


def batch(seed: int, shape: tuple[int, ...] = (6, 7)) -> np.ndarray:
    return drawn(generator(seed), shape, (120, 130)).view(np.float32)


def batches(count: int = 3) -> list[np.ndarray]:
    return [batch(seed) for seed in range(count)]


# One batch


BOTH_OPERANDS = [*SCHEMES, "int8_vectorwise", "int8_affine", COLUMNS]


@pytest.mark.parametrize(
    ("scheme", "axis"),
    [*((scheme, axis) for scheme in BOTH_OPERANDS for axis in (-1, -2)), ("int4_group4", -2)],
    ids=str,
)
@pytest.mark.parametrize("method", ["all", "moving_average"])
def test_one_batch_is_quantized_as_by_its_own_range(scheme: Any, axis: int, method: str) -> None:
    x = batch(5)
    limits = pr.calibrate([x], scheme, axis=axis, method=method)
    assert_same_qarray(pr.quantize(x, scheme, axis=axis, limits=limits), pr.quantize(x, scheme, axis=axis))


def test_ranges_by_hand() -> None:
    x = np.float32([[1, -3, 2], [0.5, 0.25, -0.125]])
    low, high = pr.calibrate([x])
    assert_same_bits(low, np.float32([[-3]]))
    assert_same_bits(high, np.float32([[3]]))
    low, high = pr.calibrate([x], AFFINE)
    assert (low.tolist(), high.tolist()) == ([[-3]], [[2]])
    low, high = pr.calibrate([np.abs(x)], AFFINE)
    assert (low.tolist(), high.tolist()) == ([[0]], [[3]])
    low, high = pr.calibrate([x], "int8_vectorwise", axis=-1)
    assert high.tolist() == [[3], [0.5]]
    low, high = pr.calibrate([x], "int8_vectorwise", axis=-2)
    assert high.tolist() == [[1, 3, 2]]


def test_source_format_comes_first() -> None:
    x = np.float32([[1 + 2.0**-12, 0.25]])
    assert pr.calibrate([x], HALVES).high == 1


# Several


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_all_is_the_range_of_the_joined_batches(scheme: pr.QScheme) -> None:
    parts = [batch(1, (2, 7)), batch(2, (5, 7)), batch(3, (1, 7))]
    whole = np.concatenate(parts)
    limits = pr.calibrate(iter(parts), scheme)
    assert_same_qarray(pr.quantize(whole, scheme, axis=-1, limits=limits), pr.quantize(whole, scheme, axis=-1))


def test_absmax_and_percentile_by_hand() -> None:
    whole = np.sort(np.abs(np.concatenate(batches())).ravel())
    assert pr.calibrate(batches()).high.item() == whole[-1]
    assert pr.calibrate(batches(), PERCENTILE).high.item() == whole[math.ceil(0.9 * whole.size) - 1]


def test_columns_of_joined_batches() -> None:
    """Tiles that span axis 0 join; those along it do not."""
    limits = pr.calibrate(batches(), COLUMNS)
    assert_same_bits(limits.high, np.abs(np.concatenate(batches())).max(0, keepdims=True))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("scheme", [TENSOR, AFFINE, COLUMNS], ids=str)
def test_moving_average_by_hand(scheme: pr.QScheme, momentum: float) -> None:
    kept, added = np.float32(momentum), np.float32(1 - momentum)
    ranges = [pr.calibrate([x], scheme) for x in batches(4)]
    low, high = ranges[0]
    for new in ranges[1:]:
        low, high = low * kept + new.low * added, high * kept + new.high * added
    found = pr.calibrate(batches(4), scheme, method="moving_average", momentum=momentum)
    assert_same_bits(found.low, low)
    assert_same_bits(found.high, high)


def test_moving_average_of_vectors() -> None:
    """Batches of one shape: a range for each row."""
    found = pr.calibrate(batches(2), "int8_vectorwise", method="moving_average", momentum=0.5)
    assert_same_bits(found.high, sum(np.abs(x).max(1, keepdims=True) * np.float32(0.5) for x in batches(2)))


@pytest.mark.parametrize(
    ("scheme", "method"), [*((scheme, "all") for scheme in SCHEMES), (AFFINE, "moving_average")], ids=str
)
def test_every_back_end(backend: Executor, scheme: pr.QScheme, method: str) -> None:
    def calibrated(*arrays: Any, backend: str) -> tuple[Any, Any]:
        return tuple(pr.calibrate(arrays, scheme, method=method, momentum=0.7, backend=backend))

    found = backend.call(calibrated, *batches())
    for one, other in zip(found, calibrated(*batches(), backend="numpy"), strict=True):
        assert_same_bits(one, other)


def test_arrays_of_jax() -> None:
    x = [jnp.asarray(one) for one in batches()]
    limits = pr.calibrate(x, AFFINE)
    assert isinstance(limits.low, jax.Array)
    expected = pr.quantize(batch(8), AFFINE, axis=-1, limits=pr.calibrate(batches(), AFFINE))
    assert_same_qarray(pr.quantize(jnp.asarray(batch(8)), AFFINE, axis=-1, limits=limits), expected)
    step = jax.jit(lambda x, limits: pr.quantize(x, AFFINE, axis=-1, limits=limits))
    assert_same_qarray(step(batch(8), limits), expected)


# Limits


def test_static_limits_clip() -> None:
    x = np.float32([[-40, -12.7, -1, 0, 0.04, 0.06, 5, 12.7, 1e30]])
    q = pr.quantize(x, TENSOR, axis=-1, limits=12.7)
    assert q.codes.tolist() == [[-127, -127, -10, 0, 0, 1, 50, 127, 127]]
    assert_same_bits(q.scale, np.float32([[np.float32(12.7) * (np.float32(1) / np.float32(127))]]))
    assert_same_qarray(q, pr.quantize(x, TENSOR, axis=-1, limits=(-12.7, 12.7)))
    assert_same_qarray(q, pr.quantize(x, TENSOR, axis=-1, limits=np.float32([[12.7]])))
    assert_same_qarray(q, pr.quantize(x, TENSOR, axis=-1, limits=(np.float32([[-12.7]]), np.float32([[12.7]]))))


def test_affine_limits() -> None:
    """255 steps of 1/16 from -4 on: z = -64."""
    x = np.float32([[-9, -4, -1 / 16, 0, 1 / 32, 3 / 32, 1, 11.9375, 100]])
    q = pr.quantize(x, AFFINE, axis=-1, limits=(-4, 11.9375))
    assert (q.scale.item(), q.zero_point.item()) == (0.0625, -64)
    assert q.codes.tolist() == [[-128, -128, -65, -64, -64, -62, -48, 127, 127]]
    assert_same_bits(q.dequantize(), np.float32([[-4, -4, -1 / 16, 0, 0, 1 / 8, 1, 11.9375, 11.9375]]))


@pytest.mark.parametrize("ends", [(2, 15.9375), (100, 101), (-101, -100), (-15.9375, -2)])
def test_affine_limits_without_zero_are_widened_to_hold_it(ends: tuple[float, float]) -> None:
    """0 is one of the values, and codes less their zero point stay within 255."""
    x = np.float32([[-100, -3, 0, 3, 100]])
    q = pr.quantize(x, AFFINE, axis=-1, limits=ends)
    wider = (min(ends[0], 0), max(ends[1], 0))
    assert_same_qarray(q, pr.quantize(x, AFFINE, axis=-1, limits=wider))
    assert q.zero_point.item() in (-128, 127)
    assert q.dequantize()[0, 2] == 0


@pytest.mark.parametrize("ends", [(-3, 1), (-3, -1), (1, 3)])
def test_symmetric_limits_are_those_of_the_larger_magnitude(ends: tuple[float, float]) -> None:
    x = np.float32([[-3, -1, 0.5, 2]])
    assert_same_qarray(pr.quantize(x, TENSOR, axis=-1, limits=ends), pr.quantize(x, TENSOR, axis=-1, limits=3))


def test_limits_of_zero_make_zeros() -> None:
    for scheme in (TENSOR, AFFINE):
        q = pr.quantize(batch(1), scheme, axis=-1, limits=0)
        assert_same_bits(q.dequantize(), np.zeros((6, 7), np.float32))


@pytest.mark.parametrize("scheme", [TENSOR, AFFINE], ids=str)
def test_limits_that_are_refused(scheme: pr.QScheme) -> None:
    x = batch(1)
    for limits in (np.ones((6, 1), np.float32), (np.ones(7), np.ones((1, 1))), np.ones(7)):
        with refused(ValueError, "do not fit scales of shape (1, 1)", "one a tile"):
            pr.quantize(x, scheme, axis=-1, limits=limits)
    for limits in (np.nan, (1, -1), (np.nan, 1), (0, np.float32([[np.nan]])), np.inf, (-np.inf, 1)):
        for array in (x, jnp.asarray(x)):
            with refused(ValueError, "low <= high"):
                pr.quantize(array, scheme, axis=-1, limits=limits)


# Refusals


def test_refusals() -> None:
    x = batches()
    with refused(ValueError, "method 'mean'", "all, moving_average"):
        pr.calibrate(x, method="mean")
    for momentum in (-0.1, 1.0, float("nan")):
        with refused(ValueError, f"momentum {momentum}", "0 <= momentum < 1"):
            pr.calibrate(x, method="moving_average", momentum=momentum)
    with refused(ValueError, "no batch"):
        pr.calibrate([])
    with refused(ValueError, "axis 2 does not exist"):
        pr.calibrate(x, axis=2)
    with refused(ValueError, "int8_everything"):
        pr.calibrate(x, "int8_everything")
    with refused(TypeError, "mxint8", "nothing to calibrate"):
        pr.calibrate(x, "mxint8")
    with refused(ValueError, "int8_vector", "axis 0", "moving_average"):
        pr.calibrate(x, "int8_vectorwise")
    with refused(ValueError, "(6, 7), (6, 5)", "do not join along axis 0"):
        pr.calibrate([batch(1), batch(2, (6, 5))])
    with refused(ValueError, "(6, 7), (7,)", "do not join along axis 0"):
        pr.calibrate([batch(1), batch(2, (7,))])
    with refused(ValueError, "(1, 5), (1, 7)", "one shape"):
        pr.calibrate([batch(1), batch(2, (6, 5))], COLUMNS, method="moving_average")
    x[1][2, 3] = np.nan
    for method in ("all", "moving_average"):
        for arrays in (x, [jnp.asarray(one) for one in x]):
            with refused(ValueError, "nan", "int8_tensor"):
                pr.calibrate(arrays, TENSOR, method=method)
