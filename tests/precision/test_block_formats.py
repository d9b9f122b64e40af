"""Block formats against their specifications in exact rationals, and every small case by search; three back ends."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import block_oracle as oracle
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from block_cases import assert_blocks, blocks
from block_oracle import MICROSCALING, RULES
from executors import Executor
from format_search import as_codes, every_value
from hypothesis import given
from hypothesis import strategies as st
from strategies import EDGES, drawn, finite_patterns, generator

import precision as pr

NARROW = [name for name in MICROSCALING if name != "mxint8"]  # floats
MODES = ["nearest_even", "nearest_away", "toward_zero", "up", "down", "to_odd"]
BF16 = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)


# The records


def test_formats_are_those_of_the_specification() -> None:
    fields = {f.name: (f.element, f.scale, f.block_size, f.max_exponent) for f in pr.BLOCK_FORMATS.values()}
    assert fields == {
        "mxfp8_e5m2": (pr.E5M2, pr.E8M0, 32, 15),
        "mxfp8_e4m3": (pr.E4M3FN, pr.E8M0, 32, 8),
        "mxfp6_e3m2": (pr.E3M2, pr.E8M0, 32, 4),
        "mxfp6_e2m3": (pr.E2M3, pr.E8M0, 32, 2),
        "mxfp4": (pr.E2M1, pr.E8M0, 32, 2),
        "mxint8": (pr.INT8, pr.E8M0, 32, 0),
        "nvfp4": (pr.E2M1, pr.E4M3FN, 16, 2),
    }
    assert [pr.BLOCK_FORMATS[name].max_exponent for name in MICROSCALING] == [f.emax for f in MICROSCALING.values()]


def test_names() -> None:
    assert pr.parse_block_format("MXFP8_E4M3") is pr.BLOCK_FORMATS["mxfp8_e4m3"]
    fmt = replace(pr.BLOCK_FORMATS["mxfp4"], block_size=8)
    assert pr.parse_block_format(fmt) is fmt
    for wrong in ("mxfp5", "", None, 8):
        with pytest.raises(ValueError, match=r"unknown block format .*nvfp4"):
            pr.parse_block_format(wrong)


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"block_size": 0}, "block_size 0"),
        ({"scale": pr.FP16}, "scales in fp16"),
        ({"element": pr.BF16}, "elements of 16 bits"),
        ({"element": pr.E8M0}, "no sign or no zero"),
        ({"element": pr.parse_format("binary8p1se")}, "elements from"),
        ({"factor_exponent": -16}, "elements from"),
        ({"scale": pr.E4M3FN, "factor_exponent": -1}, "factor"),
        ({"scale": pr.E4M3FN, "element": pr.E2M3}, "elements in e2m3 under e4m3fn"),
    ],
)
def test_contradictions_are_refused(change: dict[str, Any], because: str) -> None:
    with pytest.raises(ValueError, match=f"mxfp4: .*{because}"):
        replace(pr.BLOCK_FORMATS["mxfp4"], **change)


# Scales


def absmax_patterns(name: str) -> np.ndarray:
    """Every non-negative bf16, and in each binade, subnormals too, the fractions at which a rule may carry."""
    fmt = pr.BLOCK_FORMATS[name]
    thresholds = np.array([fmt.carry_above(rule) for rule in RULES], np.uint32)
    fractions = np.concatenate([thresholds, thresholds + 1, thresholds - 1]) & np.uint32(0x7FFFFF)
    binades = (np.arange(255, dtype=np.uint32) << 23)[:, None] | fractions
    subnormals = (fractions | np.uint32(0x800000))[:, None] >> np.arange(1, 24, dtype=np.uint32)
    everything = [BF16.view(np.uint32)[: 1 << 15], binades.ravel(), subnormals.ravel(), EDGES & 0x7FFFFFFF]
    return np.unique(np.concatenate(everything))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MICROSCALING)
def test_scale_of_every_absmax(backend: Executor, name: str, rule: str) -> None:
    fmt = pr.BLOCK_FORMATS[name]
    largest = absmax_patterns(name).view(np.float32)[:, None]
    rules = {"threshold": fmt.carry_above(rule), "largest_exponent": fmt.max_exponent}
    scale = backend.apply("shared_scales", np.where(np.isnan(largest), np.nan, largest), **rules)
    assert_same_bits(scale, oracle.searched_scales(largest, name, rule), largest)


@pytest.mark.parametrize("name", MICROSCALING)
def test_scales_in_rationals(name: str) -> None:
    words = absmax_patterns(name)[::11]
    words = words[words < 0x7F800000]
    for rule in RULES:
        expected = [
            oracle.scale_exponent(v.magnitude, MICROSCALING[name], rule) + 127 for v in oracles.read_all(words)
        ]
        assert_same_bits(
            oracle.searched_scales(words.view(np.float32)[:, None], name, rule)[:, 0], np.array(expected, np.uint8)
        )


# Quantizing


def cases() -> np.ndarray:
    """Rows of a block of 32 and one of 8, among them zeros, an infinity and a NaN."""
    x = blocks(3, (6, 40))
    x[4, 3], x[5, 35] = np.inf, np.nan
    x[3, :32] = 0
    return x


@cache
def expected(name: str, rule: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patterns of the elements, scale codes and patterns of the values of ``cases``."""
    parts = [part for row in cases().view(np.uint32) for part in (row[:32], row[32:])]
    pairs = [oracle.quantized_block(oracles.read_all(part), name, rule) for part in parts]
    elements = oracles.write_all(v for part, _ in pairs for v in part)
    scale = np.array([code for _, code in pairs], np.uint8).reshape(6, 2)
    values = oracles.write_all(oracle.value_in_block(v, code, name) for part, code in pairs for v in part)
    return elements.reshape(6, 40), scale, values.reshape(6, 40)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MICROSCALING)
def test_quantized_in_rationals(backend: Executor, name: str, rule: str) -> None:
    x = cases()
    elements, scale, values = expected(name, rule)
    q = pr.quantize_blocks(backend.array(x), name, scale_rule=rule, nonfinite="propagate", backend=backend.name)
    assert_blocks(q, elements, scale, x)
    assert_same_bits(q.dequantize(backend=backend.name), values, x)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("name", MICROSCALING)
def test_every_bf16_in_a_block(backend: Executor, name: str) -> None:
    """Beside three others, so that it is the absmax, or far below it, under every scale it can meet."""
    fmt = replace(pr.BLOCK_FORMATS[name], block_size=4)
    x = np.stack([BF16, *(np.full_like(BF16, v) for v in (1.5, -(2.0**-12), 2.0**-130))], axis=-1)
    elements, scale, values = oracle.searched_blocks(x, name)
    q = backend.call(pr.quantize_blocks, x, fmt=fmt, nonfinite="propagate")
    assert_blocks(q, elements, scale, x)
    assert_same_bits(backend.call(pr.round_to_blocks, x, fmt=fmt), values, x)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["mxfp8_e5m2", "mxint8"])
def test_every_mode(backend: Executor, name: str, mode: str) -> None:
    x = blocks(5, (60, 32))
    elements, scale, values = oracle.searched_blocks(x, name, "floor", mode)
    q = pr.quantize_blocks(backend.array(x), name, rounding=mode, backend=backend.name)
    assert_blocks(q, elements, scale, x)
    assert_same_bits(q.dequantize(backend=backend.name), values, x)


@pytest.mark.parametrize("name", ["mxfp8_e5m2", "mxfp4", "mxint8"])
def test_stochastic(backend: Executor, name: str) -> None:
    """Element i takes the word of index i, whatever the axis of the blocks."""
    x = blocks(7, (64, 32))
    words = pr.random_bits((0, 11), np.arange(5, 5 + x.size, dtype=np.uint64).reshape(x.shape))
    how = {"rounding": "stochastic", "key": 11, "random_bits": 9}
    expected = oracle.searched_blocks(x, name, "floor", "stochastic", words=words, random_bits=9)[2]
    assert_same_bits(backend.call(pr.round_to_blocks, x, fmt=name, counter=5, **how), expected, x)
    index = np.arange(5, 5 + x.size, dtype=np.uint64).reshape(x.shape).T
    moved = pr.round_to_blocks(np.ascontiguousarray(x.T), name, axis=0, counter=index, backend="numpy", **how)
    assert_same_bits(moved, expected.T)


@pytest.mark.parametrize("name", NARROW)
def test_codes_are_those_of_ml_dtypes(name: str) -> None:
    fmt = pr.BLOCK_FORMATS[name]
    x = drawn(generator(9), (200, 32), (100, 126)).view(np.float32)
    q = pr.quantize_blocks(x, name, backend="numba")
    quotient = np.ldexp(x, 127 - q.scale.astype(int).repeat(32, axis=-1)).astype(np.float32)
    clipped = np.clip(quotient, -fmt.element.maximum, fmt.element.maximum)
    assert_same_bits(q.codes, clipped.astype(fmt.element.dtype).view(np.uint8), x)
    seen = q.codes.view(fmt.element.dtype).astype(np.float32)
    assert_same_bits(q.dequantize(), np.ldexp(seen, q.scale.astype(int).repeat(32, axis=-1) - 127), x)


# Dequantizing


@pytest.mark.parametrize("name", MICROSCALING)
def test_every_code_under_every_scale(backend: Executor, name: str) -> None:
    fmt = replace(pr.BLOCK_FORMATS[name], block_size=1 << pr.BLOCK_FORMATS[name].element.bits)
    elements = np.broadcast_to(every_value(fmt.element.name), (256, fmt.block_size))
    codes = np.arange(fmt.block_size).astype(np.uint8)
    codes = np.broadcast_to(as_codes(codes, fmt.element.name), elements.shape)
    scale = np.arange(256, dtype=np.uint8)[:, None]
    q = pr.BlockArray(codes=backend.array(codes), scale=backend.array(scale), format=fmt, axis=-1)
    expected = oracle.searched_values(np.ascontiguousarray(elements), scale, name)
    assert_same_bits(q.dequantize(backend=backend.name), expected)


# Laws

rows = st.lists(finite_patterns, min_size=1, max_size=40).map(
    lambda words: np.array(words, np.uint32).view(np.float32)
)


@given(rows, st.sampled_from(NARROW))
def test_rounding_again_changes_nothing(x: np.ndarray, name: str) -> None:
    """By the rule of the specification, which never changes the exponent of an absmax."""
    once = pr.round_to_blocks(x, name)
    assert_same_bits(pr.round_to_blocks(once, name), once, x)


@given(rows, st.sampled_from(sorted(MICROSCALING)))
def test_nothing_saturates_under_rceil(x: np.ndarray, name: str) -> None:
    q = pr.quantize_blocks(x, name, scale_rule="rceil")
    top = q.format.element.maximum * 2.0**q.format.factor_exponent
    limit = np.ldexp(top, q.scale.astype(int) - 127).repeat(32)[: len(x)]
    at_the_end = q.scale.repeat(32)[: len(x)] == 254
    assert ((np.abs(x.astype(np.float64)) <= limit) | at_the_end).all()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40), st.integers(-40, 40))
def test_a_power_of_two_goes_into_the_scale(words: list[int], shift: int) -> None:
    u = np.array(words, np.uint32)
    x = ((u & np.uint32(0x807FFFFF)) | (np.uint32(110) + (u >> 23) % 40) << 23).astype(np.uint32).view(np.float32)
    for name in MICROSCALING:
        q, moved = (pr.quantize_blocks(v, name) for v in (x, np.ldexp(x, shift)))
        assert_same_bits(moved.codes, q.codes)
        assert (moved.scale.astype(int) == q.scale.astype(int) + shift).all()
