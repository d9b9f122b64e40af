"""Formats: every derived fact against the standards' numbers and against NumPy and ml_dtypes; records; constants."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import oracles
import pytest
from format_oracle import FLOATS, INTEGERS, P3109, STANDARDS, standard
from reals import exponent_of

import precision as pr
from precision import Format

DTYPES: dict[str, Any] = {
    "fp64": np.float64,
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "int8": np.int8,
    "int4": ml_dtypes.int4,
    "int2": ml_dtypes.int2,
}
FLOAT_DTYPES = [name for name in DTYPES if name not in INTEGERS]
IEEE = ("fp64", "fp32", "fp16", "bf16", "e5m2", "e4m3", "e3m4")

# Records outside the registry.
TINY = Format(name="tiny", exponent_bits=3, significand_bits=1, bias=3)
FINITE = Format(name="finite", exponent_bits=5, significand_bits=4, bias=12, infinities=False, nan="all_ones")


# Derived facts

FACTS = [
    # name, bits, precision, exponents of normal values, log2 of the quantum
    ("fp64", 64, 53, (-1022, 1023), -1074),
    ("fp32", 32, 24, (-126, 127), -149),
    ("tf32", 19, 11, (-126, 127), -136),
    ("fp16", 16, 11, (-14, 15), -24),
    ("bf16", 16, 8, (-126, 127), -133),
    ("e5m2", 8, 3, (-14, 15), -16),
    ("e4m3", 8, 4, (-6, 7), -9),
    ("e4m3fn", 8, 4, (-6, 8), -9),
    ("e4m3fnuz", 8, 4, (-7, 7), -10),
    ("e5m2fnuz", 8, 3, (-15, 15), -17),
    ("e4m3b11fnuz", 8, 4, (-10, 4), -13),
    ("e3m4", 8, 5, (-2, 3), -6),
    ("e8m0", 8, 1, (-127, 127), -127),
    ("e3m2", 6, 3, (-2, 4), -4),
    ("e2m3", 6, 4, (0, 2), -3),
    ("e2m1", 4, 2, (0, 2), -1),
    ("int8", 8, 7, (7, 6), 0),
    ("int4", 4, 3, (3, 2), 0),
    ("int2", 2, 1, (1, 0), 0),
    ("binary8p1se", 8, 1, (-63, 62), -63),
    ("binary8p1sf", 8, 1, (-63, 63), -63),
    ("binary8p3se", 8, 3, (-15, 15), -17),
    ("binary8p4sf", 8, 4, (-7, 7), -10),
    ("binary8p7se", 8, 7, (0, 0), -6),
    ("binary8p1ue", 8, 1, (-127, 125), -127),
    ("binary8p1uf", 8, 1, (-127, 126), -127),
    ("binary8p3ue", 8, 3, (-31, 31), -33),
    ("binary8p8uf", 8, 8, (0, 0), -7),
]


@pytest.mark.parametrize(("name", "bits", "precision", "exponents", "quantum"), FACTS)
def test_widths_and_exponents(name: str, bits: int, precision: int, exponents: tuple[int, int], quantum: int) -> None:
    fmt = pr.FORMATS[name]
    assert (fmt.bits, fmt.precision) == (bits, precision)
    assert (fmt.min_normal_exponent, fmt.max_exponent) == exponents
    assert fmt.min_subnormal_exponent == quantum
    assert fmt.is_integer == (name in INTEGERS)


EXTREMES = [
    # name, maximum, smallest normal, smallest positive, epsilon
    ("fp64", "0x1.fffffffffffffp1023", "0x1p-1022", "0x1p-1074", "0x1p-52"),
    ("fp32", "0x1.fffffep127", "0x1p-126", "0x1p-149", "0x1p-23"),
    ("tf32", "0x1.ffcp127", "0x1p-126", "0x1p-136", "0x1p-10"),
    ("fp16", "65504", "0x1p-14", "0x1p-24", "0x1p-10"),
    ("bf16", "0x1.fep127", "0x1p-126", "0x1p-133", "0x1p-7"),
    ("e5m2", "57344", "0x1p-14", "0x1p-16", "0x1p-2"),
    ("e4m3", "240", "0x1p-6", "0x1p-9", "0x1p-3"),
    ("e4m3fn", "448", "0x1p-6", "0x1p-9", "0x1p-3"),
    ("e4m3fnuz", "240", "0x1p-7", "0x1p-10", "0x1p-3"),
    ("e5m2fnuz", "57344", "0x1p-15", "0x1p-17", "0x1p-2"),
    ("e4m3b11fnuz", "30", "0x1p-10", "0x1p-13", "0x1p-3"),
    ("e3m4", "15.5", "0x1p-2", "0x1p-6", "0x1p-4"),
    ("e3m2", "28", "0x1p-2", "0x1p-4", "0x1p-2"),
    ("e2m3", "7.5", "1", "0.125", "0.125"),
    ("e2m1", "6", "1", "0.5", "0.5"),
    ("int8", "127", "1", "1", "1"),
    ("int4", "7", "1", "1", "1"),
    ("int2", "1", "1", "1", "1"),
    ("binary8p3se", "49152", "0x1p-15", "0x1p-17", "0.25"),
    ("binary8p3sf", "57344", "0x1p-15", "0x1p-17", "0.25"),
    ("binary8p4se", "224", "0x1p-7", "0x1p-10", "0.125"),
]


@pytest.mark.parametrize(("name", "maximum", "min_normal", "min_subnormal", "epsilon"), EXTREMES)
def test_extreme_values(name: str, maximum: str, min_normal: str, min_subnormal: str, epsilon: str) -> None:
    def number(text: str) -> float:
        return float.fromhex(text) if "x" in text else float(text)

    fmt = pr.FORMATS[name]
    assert fmt.maximum == number(maximum)
    assert fmt.minimum == -number(maximum) - (1 if fmt.is_integer else 0)
    assert fmt.min_normal == number(min_normal)
    assert fmt.min_subnormal == number(min_subnormal)
    assert fmt.epsilon == number(epsilon)


@pytest.mark.parametrize("name", [name for name in STANDARDS if not standard(name).signed])
def test_extremes_of_unsigned_formats(name: str) -> None:
    fmt = pr.FORMATS[name]
    assert fmt.minimum == (2.0**-127 if name == "e8m0" else 0)
    assert not fmt.signed
    assert not fmt.signed_zero
    if name == "e8m0":
        assert (fmt.maximum, fmt.min_normal, fmt.min_subnormal, fmt.epsilon) == (2.0**127, 2.0**-127, 2.0**-127, 1)


@pytest.mark.parametrize("name", FLOAT_DTYPES)
def test_facts_of_floats_are_those_of_finfo(name: str) -> None:
    fmt, info = pr.FORMATS[name], ml_dtypes.finfo(DTYPES[name])  # NumPy's own for NumPy's types
    assert fmt.bits == info.bits
    assert fmt.significand_bits == info.nmant
    assert fmt.exponent_bits == info.nexp
    assert fmt.max_exponent + 1 == info.maxexp
    assert fmt.min_normal_exponent == info.minexp
    assert fmt.maximum == float(info.max)
    assert fmt.minimum == float(info.min)
    assert fmt.min_normal == float(info.smallest_normal)
    assert fmt.min_subnormal == float(info.smallest_subnormal)
    assert fmt.epsilon == float(info.eps)


@pytest.mark.parametrize("name", INTEGERS)
def test_facts_of_integers_are_those_of_iinfo(name: str) -> None:
    fmt, info = pr.FORMATS[name], ml_dtypes.iinfo(DTYPES[name])
    assert (fmt.minimum, fmt.maximum) == (info.min, info.max) == INTEGERS[name]
    assert fmt.bits == info.bits


@pytest.mark.parametrize("name", STANDARDS)
def test_facts_are_those_of_the_oracle(name: str) -> None:
    fmt, written = pr.FORMATS[name], standard(name)
    assert (fmt.bits, fmt.significand_bits, fmt.signed) == (written.bits, written.fraction_bits, written.signed)
    assert fmt.signed_zero == written.signed_zero
    assert fmt.maximum == float(written.magnitude(written.last))
    assert fmt.max_exponent == exponent_of(written.magnitude(written.last))
    if name in FLOATS:
        assert (fmt.precision, fmt.bias, fmt.min_normal_exponent) == (written.p, written.bias, written.emin)
        assert fmt.min_subnormal == float(written.magnitude(1 if written.zero else 0))
        assert (fmt.has_nan, fmt.infinities) == (written.has_nan, written.infinity is not None)


@pytest.mark.parametrize("name", FLOATS)
def test_epsilon_is_the_distance_from_one_to_the_next_value(name: str) -> None:
    fmt = pr.FORMATS[name]
    steps = np.float32([1, 1 + fmt.epsilon])
    assert (pr.round_to(steps, fmt, backend="numpy") == steps).all()
    if fmt is not pr.FP32:  # float32 has nothing between the two
        between = np.nextafter(steps[1:], np.float32(0))
        assert pr.round_to(between, fmt, rounding="toward_zero", backend="numpy") == 1


# dtypes and codes


@pytest.mark.parametrize("name", pr.FORMATS)
def test_dtype(name: str) -> None:
    fmt = pr.FORMATS[name]
    if name in DTYPES:
        assert fmt.dtype == np.dtype(DTYPES[name])
        assert isinstance(fmt.dtype, np.dtype)
    else:
        with pytest.raises(ValueError, match=f"{name} has no NumPy dtype; carry its values in float32"):
            fmt.dtype


@pytest.mark.parametrize("name", STANDARDS)
def test_code_dtype_holds_the_codes(name: str) -> None:
    fmt = pr.FORMATS[name]
    smallest = next(size for size in (1, 2, 4) if fmt.bits <= 8 * size)
    assert fmt.code_dtype == np.dtype(np.int8 if name in INTEGERS else f"u{smallest}")
    assert pr.encode(np.ones(3, np.float32), fmt).dtype == fmt.code_dtype


@pytest.mark.parametrize("name", IEEE)
def test_codes_are_the_bit_patterns_of_the_dtype(name: str) -> None:
    fmt, dtype = pr.FORMATS[name], DTYPES[name]

    def value(code: Any) -> float:
        return float(np.array([code]).astype(fmt.code_dtype).view(dtype)[0])

    assert value(fmt.largest_code) == fmt.maximum
    assert value(fmt.infinity_code) == np.inf
    assert np.isnan(value(fmt.nan_code))
    assert fmt.nan_code == np.float32(np.nan).astype(dtype).view(fmt.code_dtype)
    assert value(1) == fmt.min_subnormal
    assert value(1 << fmt.significand_bits) == fmt.min_normal


@pytest.mark.parametrize("name", FLOATS)
def test_special_codes_are_those_of_the_standard(name: str) -> None:
    fmt, written = pr.FORMATS[name], standard(name)
    assert (fmt.largest_code, fmt.infinity_code, fmt.nan_code) == (written.last, written.infinity, written.nan)


def test_record_outside_the_registry_is_a_format_like_any_other() -> None:
    codes = np.arange(1 << FINITE.bits, dtype=np.uint16)
    values = pr.decode(codes, FINITE)
    fraction, field = codes & 15, codes >> 4 & 31
    magnitude = np.where(field == 0, fraction / 16.0 * 2.0**-11, (1 + fraction / 16.0) * 2.0 ** (field - 12.0))
    expected = np.where(codes >> 9, -magnitude, magnitude).astype(np.float32)
    number = (codes & 0x1FF) != 0x1FF
    assert np.array_equal(values[number].view(np.uint32), expected[number].view(np.uint32))
    assert np.isnan(values[~number]).all()
    assert np.array_equal(pr.encode(values[number], FINITE), codes[number])


def test_int4_codes_are_sign_extended_bytes() -> None:
    codes = pr.encode(np.arange(-8, 8, dtype=np.float32), "int4")
    assert (codes.view(np.uint8) & 0xF).tolist() == [x % 16 for x in range(-8, 8)]


# Constants


@pytest.mark.parametrize("fmt", [*(pr.FORMATS[name] for name in STANDARDS), TINY, FINITE], ids=str)
def test_constants_are_the_facts_as_words(fmt: Format) -> None:
    constants = fmt.constants
    assert all(type(word) is np.uint32 for word in constants)

    def value(word: np.uint32) -> float:
        return float(word.view(np.float32))

    assert value(constants.smallest) == fmt.min_subnormal
    assert value(constants.largest) == fmt.maximum
    assert value(constants.lowest) == abs(min(fmt.minimum, 0))
    assert int(constants.magnitude_bits) == fmt.bits - fmt.signed


def test_constants_are_derived_once() -> None:
    assert pr.FP16.constants is pr.FP16.constants


@pytest.mark.parametrize(
    "fmt",
    [
        pr.FORMATS["fp64"],
        Format(name="double", exponent_bits=11, significand_bits=52, bias=1023),
        Format(name="e8m24", exponent_bits=8, significand_bits=24, bias=127),  # 2^-150
        Format(name="e5m24", exponent_bits=5, significand_bits=24, bias=15),  # 25 digits
    ],
    ids=str,
)
def test_format_that_float32_cannot_carry_is_refused(fmt: Format) -> None:
    with pytest.raises(ValueError, match="no float32 carrier can hold this format"):
        fmt.constants


# Records


def test_registry_holds_each_format_under_its_name() -> None:
    assert set(pr.FORMATS) == {"fp64", *STANDARDS}
    assert all(fmt.name == name == str(fmt) for name, fmt in pr.FORMATS.items())
    assert sum(name in P3109 for name in pr.FORMATS) == 30
    for name in ("fp32", "tf32", "fp16", "bf16", "e5m2", "e4m3fn", "e8m0", "e2m1", "int8", "int4", "int2"):
        assert getattr(pr, name.upper()) is pr.FORMATS[name]


@pytest.mark.parametrize("field", ["name", "bias", "significand_bits", "nan"])
def test_formats_are_frozen(field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(pr.FP16, field, 1)
    with pytest.raises(AttributeError):
        pr.FP16.maximum = 1.0


def test_formats_are_values() -> None:
    twin = Format(name="fp16", exponent_bits=5, significand_bits=10, bias=15)
    assert twin == pr.FP16
    assert hash(twin) == hash(pr.FP16)
    assert twin.constants == pr.FP16.constants
    assert len(set(pr.FORMATS.values())) == len(pr.FORMATS)


def test_fields_are_keywords() -> None:
    with pytest.raises(TypeError):
        Format("fp16", 5, 10, 15)


@pytest.mark.parametrize(
    "fields",
    [
        {"exponent_bits": 1, "significand_bits": 6},  # no room for IEEE's special values
        {"exponent_bits": 5, "significand_bits": 0},
        {"exponent_bits": -1, "significand_bits": 6},
        {"exponent_bits": 4, "significand_bits": -1, "nan": "none", "infinities": False},
        {"exponent_bits": 4, "significand_bits": 3, "infinities": False},  # an IEEE NaN stands beside infinities
        {"exponent_bits": 4, "significand_bits": 3, "nan": "quiet"},
        {"exponent_bits": 4, "significand_bits": 3, "nan": "negative_zero", "signed": False},
        {"exponent_bits": 0, "significand_bits": 7},  # an integer with infinities and NaN
        {"exponent_bits": 0, "significand_bits": 0, "nan": "none", "infinities": False},
        {"exponent_bits": 0, "significand_bits": 7, "nan": "none", "infinities": False, "signed": False},
        {"exponent_bits": 15, "significand_bits": 112},
    ],
)
def test_contradictory_facts_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*odd[^\n]*\Z"):
        Format(name="odd", **fields)


def test_a_format_that_only_borrows_a_name_has_no_dtype() -> None:
    with pytest.raises(ValueError, match="has no NumPy dtype"):
        _ = Format(name="fp16", exponent_bits=4, significand_bits=11, bias=7).dtype


def test_oracle_and_registry_name_the_same_integers() -> None:
    assert set(oracles.INTEGERS) == {name for name, fmt in pr.FORMATS.items() if fmt.is_integer}
