"""The oracle of the accumulators against vectors worked out by hand, and the older oracle of three of them."""

from __future__ import annotations

import accumulator_oracle
import numpy as np
import oracles
import pytest
from accumulator_oracle import counted, dot
from strategies import drawn, generator, sprinkled

INFINITY, NAN = 0x7F800000, 0x7FC00000
MINUS = 1 << 31


def words(*values: float) -> list[int]:
    return np.array(values, np.float32).view(np.uint32).tolist()


def word(value: float) -> int:
    return words(value)[0]


@pytest.mark.parametrize("name", oracles.ACCUMULATORS)
def test_the_older_oracle_agrees(name: str) -> None:
    rng = generator(31)
    for exponents in ((110, 140), (0, 254), (40, 90)):
        a, b, c = (
            oracles.nearest(sprinkled(rng, drawn(rng, shape, exponents)).view(np.float32), "fp16").view(np.uint32)
            for shape in ((3, 10), (10, 4), (3, 4))
        )
        assert np.array_equal(accumulator_oracle.matmul(a, b, name, "fp16", c), oracles.matmul(a, b, name, c))


# Tensor cores


def test_sixteen_products_far_below_the_normal_range() -> None:
    """Each 2^-152 is 2^6 multiples of 2^(-133 - 25)."""
    assert dot(words(*[2.0**-76] * 16), words(*[2.0**-76] * 16), 0, "h100", "bf16") == word(2.0**-148)


def test_lowest_exponent_of_a_half_precision_sum() -> None:
    """2^-25 + 2^-47 lies above the tie at 2^-25, but 2^-47 is below 2^(-21 - 25)."""
    a, b = words(2.0**-12, 2.0**-24), words(2.0**-13, 2.0**-23)
    assert dot(a, b, 0, "h100_fp16", "fp16") == 0
    a, b = words(2.0**-12, 2.0**-23), words(2.0**-13, 2.0**-23)
    assert dot(a, b, 0, "h100_fp16", "fp16") == word(2.0**-24)


def test_a_zero_factor_has_no_exponent() -> None:
    assert dot(words(0, 2.0**-30), words(2.0**127, 1), 0, "h100", "bf16") == word(2.0**-30)


def test_products_are_not_normalised() -> None:
    """1.5 x 1.5 has exponent 0, 1 x 2.25 has 1: of 1 - 2^-23 or so a bit more is kept beside the first."""
    tiny = 2.0**-24
    for factors, kept in (((1.5, 1.5), 2.0**-24), ((1.0, 2.25), 0.0)):
        a, b = words(factors[0], -factors[0], tiny), words(factors[1], factors[1], 1)
        assert dot(a, b, 0, "a100", "fp16") == word(kept)


def test_magnitudes_are_truncated() -> None:
    """1 - 3 x 2^-25 at F = 24: 1.5 units each way lose their half, so 1 - 2^-24; a floor would give 1 - 2^-23."""
    assert dot(words(1, -3 * 2.0**-15), words(1, 2.0**-10), 0, "a100", "fp16") == word(1 - 2.0**-24)


def test_sums_are_truncated_and_overflow_to_infinity() -> None:
    large = float(np.float32(2.0**127))
    assert dot(words(large), words(1), word(large), "h100", "bf16") == INFINITY
    assert dot(words(-large), words(1), word(-large), "h100", "bf16") == INFINITY | MINUS
    assert dot(words(1), words(2.0**-24 * 1.5), word(1), "h100", "bf16") == word(1)
    assert dot(words(65504.0), words(1), word(16), "h100_fp16", "fp16") == INFINITY


def test_fourteen_bits_of_an_fp8_sum() -> None:
    assert dot(words(1, 2.0**-4), words(1, 2.0**-9), 0, "h100_fp8_wgmma", "e4m3fn") == word(1 + 2.0**-13)
    assert dot(words(1, 2.0**-5), words(1, 2.0**-9), 0, "h100_fp8_wgmma", "e4m3fn") == word(1)
    assert dot(words(1, 2.0**-5), words(1, 2.0**-9), 0, "h100_fp8_mma", "e4m3fn") == word(1 + 2.0**-14)


def test_zeros_and_nans_of_a_tensor_core() -> None:
    minus = [MINUS] * 4
    assert dot(minus, words(1, 1, 1, 1), MINUS, "h100", "fp16") == 0
    assert dot([], [], MINUS, "h100", "fp16") == MINUS
    assert dot(words(-(2.0**-76)), words(2.0**-76), MINUS, "h100", "bf16") == 0
    assert dot(words(*[-(2.0**-76)] * 4), words(*[2.0**-76] * 4), MINUS, "cdna1", "bf16") == MINUS
    assert dot(words(-(2.0**-13)), words(2.0**-12), 0, "h100_fp16", "fp16") == 0
    assert dot([NAN], words(1), 0, "h100", "fp16") == 0x7FFFFFFF
    assert dot([INFINITY], words(0), 0, "h100", "fp16") == 0x7FFFFFFF
    assert dot([INFINITY, INFINITY | MINUS], words(1, 1), 0, "h100", "fp16") == 0x7FFFFFFF
    assert dot([INFINITY], words(2), word(-1), "h100", "fp16") == INFINITY
    assert dot([NAN], words(1), 0, "h100_fp16", "fp16") == 0x7FFFE000
    assert dot([NAN], words(1), 0, "h100", "fp16", "fp32") == NAN


# Matrix cores


def test_exact_sum_of_four_products() -> None:
    """1 + 2^-24 + 2^-24: one rounding keeps both."""
    a, b = words(2.0**-12, 2.0**-12), words(2.0**-12, 2.0**-12)
    assert dot(a, b, word(1), "cdna1", "fp16") == word(1 + 2.0**-23)
    assert dot(a, b, word(1), "fp32_fma", "fp16") == word(1)


def test_subnormals_vanish_in_cdna2() -> None:
    assert dot(words(2.0**-15), words(2.0**10), 0, "cdna2", "fp16") == 0
    assert dot(words(2.0**-14), words(2.0**10), 0, "cdna2", "fp16") == word(2.0**-4)


def test_rounding_down_in_cdna3() -> None:
    """-2^-40 beside 1 becomes -2^-31, and 1 - 2^-31 rounds to 1; 2^-40 becomes 0.  s goes down to 2^-24 of 1."""
    assert dot(words(-(2.0**-20)), words(2.0**-20), word(1), "cdna3", "fp16") == word(1)
    assert dot(words(1), words(1), word(-(2.0**-30)), "cdna3", "fp16") == word(1 - 2.0**-24)
    assert dot(words(1), words(1), word(2.0**-30), "cdna3", "fp16") == word(1)
    assert dot(words(2.0**100), words(2.0**30), 0, "cdna3", "bf16") == INFINITY
    assert dot(words(2.0**100, -(2.0**100)), words(2.0**30, 2.0**30), 0, "cdna3", "bf16") == NAN


# Processors


def test_flush_after_rounding_without_bounds() -> None:
    """2^-126 (1 - 2^-26), the tie (1 - 2^-25), and below the tie (1 - 1.5 x 2^-25)."""
    for term, expected in ((2.0**-152, 2.0**-126), (2.0**-151, 2.0**-126), (1.5 * 2.0**-151, 0.0)):
        factors = words(-term * 2.0**100), words(2.0**-100)
        assert dot(*factors, word(2.0**-126), "tpu_mxu_nominal", "bf16") == word(expected)


def test_odd_element_first() -> None:
    """2^24 + 1 + 1: rounded after each, in the order 1, 0."""
    assert dot(words(1, -(2.0**24)), words(1, 1), word(2.0**24), "avx512_bf16", "bf16") == word(1)
    assert dot(words(-(2.0**24), 1), words(1, 1), word(2.0**24), "avx512_bf16", "bf16") == 0


def test_two_chains_a_tile() -> None:
    """c enters after even and odd are added: one by one, the ones would be lost beside 2^25, whose unit is 4."""
    ones = words(1, 1)
    assert dot(ones, ones, word(2.0**25), "amx_bf16", "bf16") == word(2.0**25)
    assert dot(words(*[1] * 6), words(*[1] * 6), word(2.0**25), "amx_bf16", "bf16") == word(2.0**25 + 8)


def test_payloads() -> None:
    signalling, other = 0x7F810000, 0xFF820000
    assert dot([signalling], [other], 0, "avx512_bf16", "bf16") == 0x7FC10000
    assert dot(words(0), [INFINITY], 0x7F812345, "avx512_bf16", "bf16") == 0x7FC12345
    assert dot(words(0), [INFINITY], 0, "avx512_bf16", "bf16") == 0xFFC00000
    assert dot([other], words(1), 0x7FC00001, "amx_bf16", "bf16") == 0x7FC00001
    assert dot([other], words(1), 0, "amx_bf16", "bf16") == 0xFFC20000


def test_padding_turns_minus_zero_into_zero() -> None:
    assert dot([MINUS] * 2, words(1, 1), MINUS, "avx512_bf16", "bf16") == MINUS
    assert dot([MINUS], words(1), MINUS, "avx512_bf16", "bf16") == 0
    assert dot([MINUS] * 2, words(1, 1), MINUS, "amx_bf16", "bf16") == 0


def test_rounding_to_odd() -> None:
    assert dot(words(1, 0), words(2.0**-40, 0), word(1), "arm_bfdot", "bf16") == word(1 + 2.0**-23)


# Definitions


def test_orders_of_the_definitions() -> None:
    values = words(2.0**24, 1, 1, 1), words(1, 1, 1, 1)
    assert dot(*values, 0, "fp32_sequential", "bf16") == word(2.0**24)
    assert dot(*values, 0, "fp32_pairwise", "bf16") == word(2.0**24 + 2)
    assert dot(*values, 0, "fp32_split2", "bf16") == word(2.0**24 + 2)
    assert dot(*values, 0, "kahan", "bf16") == word(2.0**24 + 4)
    assert dot(*values, 0, "exact", "bf16") == word(2.0**24 + 4)
    assert dot([MINUS], words(1), MINUS, "exact", "bf16") == MINUS
    assert dot([127] * 3, [-127] * 3, -(2**31), "int32", "int8") == 2**31 - 3 * 127**2


# Events


@pytest.mark.parametrize(
    ("name", "inputs", "a", "b", "c", "events"),
    [
        ("fp32_sequential", "fp16", [1, 0], [2.0**-14, 1], 2.0**24, {"swamped": 1}),
        ("fp32_mul_add", "bf16", [2.0**-100], [2.0**-100], 1, {"underflowed": 1}),
        ("fp32_sequential", "bf16", [2.0**-100], [2.0**-100], 1, {"swamped": 1}),
        ("avx512_bf16", "bf16", [2.0**-130], [1], 1, {"underflowed": 1}),
        ("h100", "fp16", [1, 2.0**-12, 0.75], [1, 2.0**-14, 2.0**-24], 0, {"misaligned": 2, "swamped": 1}),
        ("h100", "bf16", [2.0**100], [2.0**100], 0, {"overflowed": 1}),
        ("cdna1", "fp16", [1, -1, 1], [2.0**-14, 2.0**-14, 2.0**-14], 2.0**24, {"swamped": 1}),
        ("cdna3", "bf16", [2.0**100], [2.0**100], 0, {"overflowed": 1}),
        ("cdna3", "fp16", [1], [1], 2.0**-30, {"misaligned": 1, "swamped": 1}),
        ("fp32_pairwise", "fp16", [1, 2.0**-14, 1], [2.0**10, 2.0**-14, 2.0**-14], 2.0**30, {"swamped": 2}),
        ("exact", "fp16", [1, 1], [1, 2.0**-24], 0, {"inexact": 1}),
    ],
)
def test_events(name: str, inputs: str, a: list, b: list, c: float, events: dict[str, int]) -> None:
    expected = dict.fromkeys(counted([], [], 0, name, inputs), 0) | {"products": len(a)} | events
    output = "fp16" if name == "exact" else None
    assert counted(words(*a), words(*b), word(c), name, inputs, output) == expected
