"""Comparisons, extremes and conversions: from their definitions, subnormals, NaN and both zeros included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from format_oracle import code_of, rounded, value_of_code
from format_search import encoded, every_value, searched
from hypothesis import given
from reals import NAN, Real, read, write
from strategies import EDGES, drawn, every_pair, generator, patterns

import precision as pr

RELATIONS = {
    "equal": lambda x, y: not (x.is_nan or y.is_nan) and value(x) == value(y),
    "less": lambda x, y: not (x.is_nan or y.is_nan) and value(x) < value(y),
    "less_equal": lambda x, y: not (x.is_nan or y.is_nan) and value(x) <= value(y),
}


def value(x: Real) -> object:
    """The number, infinities too; both zeros are 0."""
    return -x.magnitude if x.negative else x.magnitude


def key(x: Real) -> tuple:
    """-0 below +0."""
    return value(x), not x.negative


def minimum(x: Real, y: Real) -> Real:
    return NAN if x.is_nan or y.is_nan else min(x, y, key=key)


def maximum(x: Real, y: Real) -> Real:
    return NAN if x.is_nan or y.is_nan else max(x, y, key=key)


def minimum_number(x: Real, y: Real) -> Real:
    return (y if x.is_nan else x) if x.is_nan or y.is_nan else minimum(x, y)


def maximum_number(x: Real, y: Real) -> Real:
    return (y if x.is_nan else x) if x.is_nan or y.is_nan else maximum(x, y)


EXTREMES = {f.__name__: f for f in (minimum, maximum, minimum_number, maximum_number)}


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Edges with edges, drawn patterns, and patterns next to each other, of either sign."""
    rng = generator(81)
    x, y = every_pair(EDGES)
    a, b, c = drawn(rng, 3000), drawn(rng, 3000), drawn(rng, 3000, (0, 2))
    near = (c + rng.integers(-1, 2, c.size)).astype(np.uint32) ^ (rng.integers(0, 2, c.size, np.uint32) << 31)
    return np.concatenate([x, a, c]), np.concatenate([y, b, near])


def run(name: str, backend: Executor, *words: np.ndarray) -> np.ndarray:
    return np.asarray(getattr(pr, name)(*(backend.array(w.view(np.float32)) for w in words), backend=backend.name))


@pytest.mark.parametrize("name", RELATIONS)
def test_relations(name: str, backend: Executor) -> None:
    words = pairs()
    expected = [RELATIONS[name](read(a), read(b)) for a, b in zip(*words, strict=True)]
    result = run(name, backend, *words)
    assert result.dtype == np.bool_
    assert np.array_equal(result, expected)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name: str, backend: Executor) -> None:
    words = pairs()
    expected = [write(EXTREMES[name](read(a), read(b))) for a, b in zip(*words, strict=True)]
    assert_same_bits(run(name, backend, *words), np.array(expected, np.uint32), *words)


@given(patterns, patterns)
def test_any_two_patterns(a: int, b: int) -> None:
    x, y = (np.array(u, np.uint32).view(np.float32) for u in (a, b))
    for name, relation in RELATIONS.items():
        assert bool(getattr(pr, name)(x, y)) == relation(read(a), read(b))
    for name, extreme in EXTREMES.items():
        assert_same_bits(getattr(pr, name)(x, y), np.array(write(extreme(read(a), read(b))), np.uint32))


def test_subnormals_count_where_xla_flushes_them() -> None:
    x = jnp.full(4, 1e-40, jnp.float32)
    assert pr.less(jnp.zeros(4), x).all()
    assert jax.jit(pr.less)(jnp.zeros(4), x).all()
    assert not pr.equal(jnp.zeros(4), x).any()
    assert_same_bits(jax.jit(pr.maximum)(jnp.zeros(4), x), np.full(4, 1e-40, np.float32))


def test_shapes_broadcast_and_carriers_widen(backend: Executor) -> None:
    x = backend.array(np.float16([[1], [2]]))
    result = pr.less(x, backend.array(np.float32([1, 1.5, 3])), backend=backend.name)
    assert np.array_equal(result, [[False, True, True], [False, False, True]])
    assert pr.minimum(x, x, backend=backend.name).shape == (2, 1)
    assert pr.maximum(backend.array(np.float32(1)), np.float32(2), backend=backend.name).shape == ()
    with pytest.raises(TypeError, match="float64"):
        pr.equal(x, np.zeros(1))
    with pytest.raises(ValueError, match="broadcast"):
        pr.less(np.zeros(2, np.float32), np.zeros(3, np.float32))


CONVERSIONS = [("e4m3fn", "e5m2"), ("e5m2", "e4m3fn"), ("fp16", "bf16"), ("bf16", "fp16"), ("e2m1", "e4m3fn")]


@pytest.mark.parametrize(("source", "target"), CONVERSIONS)
@pytest.mark.parametrize("mode", ["nearest_even", "toward_zero"])
def test_conversion_is_one_rounding(source: str, target: str, mode: str, backend: Executor) -> None:
    values = every_value(source)
    codes = np.arange(values.size).astype(pr.parse_format(source).code_dtype)
    expected = encoded(searched(values.view(np.float32), target, mode), target)
    result = pr.convert(backend.array(codes), source, target, rounding=mode, backend=backend.name)
    assert result.dtype == pr.parse_format(target).code_dtype
    assert np.array_equal(np.asarray(result), expected)


def test_conversion_in_fractions() -> None:
    for code in range(256):
        exact = code_of(rounded(value_of_code(code, "e5m2"), "e4m3fnuz", overflow="saturate"), "e4m3fnuz")
        assert int(pr.convert(np.uint8([code]), "e5m2", "e4m3fnuz", overflow="saturate")[0]) == exact


def test_conversion_to_a_wider_format_and_back(backend: Executor) -> None:
    codes = np.arange(256, dtype=np.uint8)[np.isfinite(every_value("e4m3fn").view(np.float32))]
    wide = pr.convert(backend.array(codes), "e4m3fn", "fp16", backend=backend.name)
    assert np.array_equal(pr.convert(wide, "fp16", "e4m3fn", backend=backend.name), codes)


def test_conversion_options(backend: Executor) -> None:
    codes = backend.array(np.arange(0x3C00, 0x3C10, dtype=np.uint16))
    how = {"rounding": "stochastic", "key": 5, "random_bits": 7}
    result = pr.convert(codes, "fp16", "e5m2", counter=3, backend=backend.name, **how)
    expected = pr.convert(np.asarray(codes), "fp16", "e5m2", counter=3, backend="numpy", **how)
    assert np.array_equal(result, expected)
    with pytest.raises(TypeError, match="codes of fp16 are uint16"):
        pr.convert(np.zeros(2, np.uint8), "fp16", "e5m2")
    with pytest.raises(ValueError, match="int8 has no NaN"):
        pr.convert(np.uint16([0x7E00]), "fp16", "int8")
