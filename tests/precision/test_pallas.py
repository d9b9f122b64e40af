"""Pallas kernels, interpreted on the CPU: every bit and count of the reference; what they lower to elsewhere."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import environment
from strategies import drawn, generator, patterns, sources, sprinkled

import precision as pr
from precision import pallas
from precision.backends import get_backend
from precision.backends.jax_.pallas import quantized_product, round_and_count, sequential_product
from precision.backends.jax_.pallas.quantized import _as_float
from precision.backends.jax_.pallas.targets import Target
from precision.rounding_modes import Rounding
from precision.statistics import COUNTERS, Statistics

# a CPU's own, which is as a TPU's, and as a GPU's
ORDERED, AT_ONCE = None, Target(ordered=False, interpreted=True)
FEW = settings(max_examples=25)
COUNTS = (*COUNTERS, "count")


def words(*shape: int) -> st.SearchStrategy[np.ndarray]:
    size = int(np.prod(shape))
    return st.lists(patterns, min_size=size, max_size=size).map(lambda u: np.array(u, np.uint32).reshape(shape))


# Rounding and its counters


def check_rounding(u: np.ndarray, name: str, target: Target | None, tabulating: bool = False, **how: Any) -> None:
    fmt, rounding = pr.parse_format(name), Rounding(**how)
    x = u.view(np.float32)
    rounded, counted = round_and_count(jnp.asarray(x), fmt, rounding, significands=tabulating, target=target)
    expected, tally = get_backend("numpy").tally(x, fmt, rounding, None)
    assert_same_bits(rounded, expected, u)
    table = tally.significands if tabulating else None
    for found, wanted in zip(counted, (tally.counts, tally.largest, tally.smallest, table), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("fp16", {"subnormals": "flush", "tabulating": True}),
        ("e4m3fn", {"overflow": "saturate"}),
        ("e8m0", {}),
        ("int8", {}),
    ],
    ids=str,
)
def test_rounds_and_counts_as_the_reference_does(name: str, how: dict[str, Any]) -> None:
    check_rounding(sources(name), name, ORDERED, **how)


@FEW
@given(words(60))
def test_rounds_and_counts_any_patterns(u: np.ndarray) -> None:
    check_rounding(u, "bf16", ORDERED)


@pytest.mark.parametrize("shape", [(0,), (5, 61, 113)], ids=str)
def test_rounds_and_counts_blocks_all_at_once(shape: tuple[int, ...]) -> None:
    """None, and two of which one is not full."""
    rng = generator(len(shape))
    check_rounding(sprinkled(rng, drawn(rng, shape)), "e5m2", AT_ONCE, tabulating=len(shape) > 1)


def test_counts_make_the_record_of_statistics() -> None:
    x = drawn(generator(0), (3, 113)).view(np.float32)
    rounded, counted = pallas.round_and_count(jnp.asarray(x), "e5m2", significands=True)
    expected, whole = pr.round_with_statistics(x, "e5m2", backend="numpy")
    found = Statistics.from_counts(pr.E5M2, x.size, counted.counts, counted.significands)
    assert_same_bits(rounded, expected)
    assert {name: getattr(found, name) for name in COUNTS} == {name: getattr(whole, name) for name in COUNTS}
    np.testing.assert_array_equal(found.significands, whole.significands)
    assert np.asarray(counted.largest).view(np.float32) == whole.largest


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds to nearest even, not up; use round_with_statistics"):
        round_and_count(jnp.zeros(3), pr.FP16, Rounding(mode="up"))


# Quantized products


def weights(k: int, n: int, seed: int = 0) -> pr.QArray:
    return pr.quantize(drawn(generator(seed), (k, n), (110, 140)).view(np.float32), axis=-2, backend="numpy")


def check_quantized(x: np.ndarray, w: pr.QArray, output: str, target: Target | None, unit: Any = "int8") -> None:
    expected = pr.quantized_matmul(x, w, output=output, nonfinite="propagate", backend="numpy")
    fmt, (codes, scale) = pr.parse_format(output), map(jnp.asarray, (w.codes, w.scale))
    y = quantized_product(jnp.asarray(x), codes, scale.reshape(-1), fmt, unit, target=target)
    assert_same_bits(y, expected)


def rows(k: int) -> np.ndarray:
    """Of any binade: zero and almost, small, usual and large; some with NaN or infinity."""
    rng = generator(k)
    ranges = ((0, 0), (0, 14), (14, 16), (15, 15), (100, 140), (120, 130), (252, 254), (0, 254), (0, 255))
    x = np.concatenate([drawn(rng, (4, k), one) for one in ranges]).view(np.float32)
    x[0], x[17, 1], x[18, 0] = 0, np.nan, -np.inf
    return x


@pytest.mark.parametrize(("output", "unit", "target"), [("fp16", "int8", ORDERED), ("fp32", "bf16", AT_ONCE)])
def test_quantized_product_has_the_bits_of_the_composed_one(output: str, unit: str, target: Target | None) -> None:
    check_quantized(rows(150), weights(150, 140), output, target, unit)


@FEW
@given(words(3, 5), words(7))
def test_quantized_product_of_any_patterns(x: np.ndarray, scale: np.ndarray) -> None:
    """Scales of w, too, are whatever they are: results at and below 2^-126, infinite, NaN."""
    w = replace(weights(5, 7), scale=scale.view(np.float32)[None])
    with np.errstate(invalid="ignore", over="ignore"):
        check_quantized(x.view(np.float32), w, "fp32", ORDERED)


def test_products_at_the_edge_of_flushing() -> None:
    """(1 - 2^-24) 2^-126 and its neighbours: judged after rounding with unbounded exponent."""
    x = np.zeros((3, 5), np.float32)
    x[:, 0] = 1, 3, 127
    for start in range(-42, 42, 7):
        near = np.float32(2.0**-126).view(np.uint32) + np.arange(start, start + 7)
        w = replace(weights(5, 7), scale=near.astype(np.uint32).view(np.float32)[None])
        check_quantized(x, w, "fp32", ORDERED)


def test_sums_become_the_nearest_float32() -> None:
    named = [0, 1, -1, 2**24 + 1, -(2**24) - 1, 2**24 + 3, 2**31 - 1, -(2**31), 2**31 - 65, 4095, -4096]
    sums = np.concatenate([named, generator(3).integers(-(2**31), 2**31, 4000)]).astype(np.int32)
    assert_same_bits(jax.jit(_as_float)(jnp.asarray(sums)), sums.astype(np.float32))


def test_long_rows_of_bf16_and_leading_axes() -> None:
    """Sums beyond 2^24; BF16 read as it is."""
    x = np.ones((2, 1, 1300), np.float32)
    w = np.ones((1300, 3), np.float32)
    w[7] = 0.51
    q = pr.quantize(w, axis=-2, backend="numpy")
    found = pallas.quantized_matmul(jnp.asarray(x, jnp.bfloat16), q, output="fp32")
    assert_same_bits(found, pr.quantized_matmul(x, q, output="fp32", backend="numpy"))


def test_quantized_arguments_are_checked() -> None:
    x, w = jnp.zeros((2, 8)), weights(8, 4)
    with pytest.raises(ValueError, match="do not multiply"):
        pallas.quantized_matmul(x[:, :7], w)
    with pytest.raises(ValueError, match="unit 'fp8' is not offered; choose int8 or bf16"):
        pallas.quantized_matmul(x, w, unit="fp8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="symmetric codes with one scale a column, not int8_tensor"):
        pallas.quantized_matmul(x, pr.quantize(np.ones((8, 4), np.float32), "int8_tensorwise", axis=-2))
    with pytest.raises(ValueError, match="k = 23168 is more than a block in fast memory holds; at most 23040"):
        jax.eval_shape(
            partial(quantized_product, output=pr.FP16),
            jax.ShapeDtypeStruct((64, 23168), np.float32),
            jax.ShapeDtypeStruct((23168, 64), np.int8),
            jax.ShapeDtypeStruct((64,), np.float32),
        )


# Ordered sums


def operands(name: str, exponents: tuple[int, int], shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = generator(seed)
    u = sprinkled(rng, drawn(rng, shape, exponents), 0.002)
    return pr.round_to(u.view(np.float32), name, backend="numpy")


def check_sums(
    a: np.ndarray, b: np.ndarray, c: np.ndarray | None, inputs: tuple[str, str], target: Target | None
) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        expected = pr.matmul(a, b, c=c, inputs=inputs, backend="numpy")
    formats = pr.parse_format(inputs[0]), pr.parse_format(inputs[1])
    start = None if c is None else jnp.asarray(c)
    assert_same_bits(sequential_product(jnp.asarray(a), jnp.asarray(b), start, formats, target=target), expected)


@pytest.mark.parametrize(("names", "target"), [(("fp16", "fp16"), ORDERED), (("e4m3fn", "e5m2"), AT_ONCE)], ids=str)
def test_sums_are_ordered(names: tuple[str, str], target: Target | None) -> None:
    a, b = operands(names[0], (100, 142), (9, 150)), operands(names[1], (100, 142), (150, 133), 1)
    a[0], b[:, 0] = -0.0, np.abs(b[:, 0])
    check_sums(a, b, None, names, target)


def test_sums_of_bf16_go_on_from_c() -> None:
    """By tiles where exponents prove them, in integers where not: one compilation for both."""
    a, b = operands("bf16", (110, 140), (9, 20)), operands("bf16", (110, 140), (20, 11), 1)
    c = drawn(generator(2), (9, 11), (110, 140)).view(np.float32)
    a[1], c[1, ::2] = -0.0, -0.0
    check_sums(a, b, c, ("bf16", "bf16"), ORDERED)
    check_sums(
        a * np.float32(2.0**-66), b * np.float32(2.0**-60), c * np.float32(2.0**-126), ("bf16", "bf16"), ORDERED
    )
    check_sums(a * np.float32(2.0**100), b * np.float32(2.0**100), c, ("bf16", "bf16"), ORDERED)


@FEW
@given(words(3, 5), words(5, 2))
def test_sums_of_any_fp16_patterns(a: np.ndarray, b: np.ndarray) -> None:
    values = [pr.round_to(u.view(np.float32), "fp16", backend="numpy") for u in (a, b)]
    check_sums(values[0], values[1], None, ("fp16", "fp16"), ORDERED)


def test_public_sums_take_16_bit_arrays() -> None:
    a, b = operands("fp16", (112, 140), (3, 5)), operands("fp16", (112, 140), (5, 2), 1)
    found = pallas.matmul(a.astype(np.float16), jnp.asarray(b))
    assert_same_bits(found, pr.matmul(a, b, backend="numpy"))


def test_formats_whose_products_are_wider_are_refused() -> None:
    x = jnp.zeros((2, 2))
    with pytest.raises(ValueError, match="products of fp32 and fp16 have 35 significand bits, more than the 24"):
        pallas.matmul(x, x, inputs=("fp32", "fp16"))
    with pytest.raises(ValueError, match="do not multiply"):
        pallas.matmul(x, x[:1])
    with pytest.raises(ValueError, match="c must have the shape of the product"):
        pallas.matmul(x, x, c=x[:1])


# On other platforms

CALLS = {
    "round_and_count": (lambda x: pallas.round_and_count(x, "fp16", significands=True), [(1000, 256)]),
    "quantized_matmul": (lambda x: pallas.quantized_matmul(x, weights(256, 192)), [(64, 256)]),
    "matmul": (lambda a, b: pallas.matmul(a, b, inputs="bf16"), [(64, 256), (256, 192)]),
}


@pytest.mark.parametrize(("platform", "custom_call"), [("tpu", "tpu_custom_call"), ("cuda", "xla.gpu.triton")])
@pytest.mark.parametrize("name", CALLS)
def test_kernels_lower_without_the_platform(name: str, platform: str, custom_call: str) -> None:
    """To Mosaic's and Triton's modules; what compiles those is another matter."""
    function, shapes = CALLS[name]
    traced = jax.jit(function).trace(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))
    assert custom_call in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("name", CALLS)
def test_derivatives_are_refused(name: str) -> None:
    function, shapes = CALLS[name]

    def total(*operands: Any) -> Any:
        result = function(*operands)
        return (result[0] if isinstance(result, tuple) else result).sum()

    with pytest.raises(TypeError, match="a Pallas kernel has no derivative"):
        jax.eval_shape(jax.grad(total), *(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))


COMPILED = ("round_and_count", "quantized_matmul", "longest", "matmul")


TOPOLOGIES = {
    "libtpu": ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"),
    "jax_cuda12_plugin": ("a100:1x1", "h100:1x1", "b200:1x1"),
}


@pytest.mark.parametrize("library", TOPOLOGIES)
def test_kernels_compile_for_what_is_not_here(library: str) -> None:
    """Ahead of time, in a process that looks for no machine."""
    if find_spec(library) is None:
        pytest.skip(f"{library} (extra {'tpu' if library == 'libtpu' else 'gpu'}) is not installed")
    script, topologies = Path(__file__).with_name("absent_pallas.py"), TOPOLOGIES[library]
    alone = environment(1) | {"TPU_SKIP_MDS_QUERY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(script), *topologies]
    done = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=300, check=False)
    if "lockfile" in done.stderr:
        pytest.skip("another process has libtpu")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [f"{topology}/{name}" for topology in topologies for name in COMPILED]
