"""Formats: every derived fact against the standards' numbers and against NumPy and ml_dtypes; names; refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import oracles
import pytest

import precision as pr
from precision.format import Format
from precision.rounding_modes import Constants

NAMES = ("fp32", "tf32", "fp16", "bf16", "e5m2", "int8", "int4")
FLOATS = tuple(oracles.FLOATS)
INTEGERS = tuple(oracles.INTEGERS)
DTYPES: dict[str, Any] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e5m2": ml_dtypes.float8_e5m2,
    "int8": np.int8,
    "int4": ml_dtypes.int4,
}
FLOAT_DTYPES = [name for name in DTYPES if name in FLOATS]

# Records outside the registry: the layouts of IEEE 754 with other widths, as ml_dtypes has them.
E4M3 = Format(name="e4m3", exponent_bits=4, significand_bits=3, bias=7)
E3M4 = Format(name="e3m4", exponent_bits=3, significand_bits=4, bias=3)
UNREGISTERED = [(E4M3, ml_dtypes.float8_e4m3), (E3M4, ml_dtypes.float8_e3m4)]
IEEE = [(pr.FORMATS[name], DTYPES[name]) for name in FLOAT_DTYPES] + UNREGISTERED


# Derived facts


@pytest.mark.parametrize(
    ("name", "bits", "precision", "exponents", "quantum"),
    [
        ("fp32", 32, 24, (-126, 127), -149),
        ("tf32", 19, 11, (-126, 127), -136),
        ("fp16", 16, 11, (-14, 15), -24),
        ("bf16", 16, 8, (-126, 127), -133),
        ("e5m2", 8, 3, (-14, 15), -16),
        ("int8", 8, 7, (7, 6), 0),
        ("int4", 4, 3, (3, 2), 0),
    ],
)
def test_widths_and_exponents(name: str, bits: int, precision: int, exponents: tuple[int, int], quantum: int) -> None:
    fmt = pr.FORMATS[name]
    assert (fmt.bits, fmt.precision) == (bits, precision)
    assert (fmt.min_normal_exponent, fmt.max_exponent) == exponents
    assert fmt.min_subnormal_exponent == quantum
    assert fmt.is_integer == (name in INTEGERS)


@pytest.mark.parametrize(
    ("name", "maximum", "min_normal", "min_subnormal", "epsilon"),
    [
        ("fp32", "0x1.fffffep127", "0x1p-126", "0x1p-149", "0x1p-23"),
        ("tf32", "0x1.ffcp127", "0x1p-126", "0x1p-136", "0x1p-10"),
        ("fp16", "65504", "0x1p-14", "0x1p-24", "0x1p-10"),
        ("bf16", "0x1.fep127", "0x1p-126", "0x1p-133", "0x1p-7"),
        ("e5m2", "57344", "0x1p-14", "0x1p-16", "0x1p-2"),
        ("int8", "127", "1", "1", "1"),
        ("int4", "7", "1", "1", "1"),
    ],
)
def test_extreme_values(name: str, maximum: str, min_normal: str, min_subnormal: str, epsilon: str) -> None:
    def number(text: str) -> float:
        return float.fromhex(text) if "x" in text else float(text)

    fmt = pr.FORMATS[name]
    assert fmt.maximum == number(maximum)
    assert fmt.minimum == -number(maximum) - (1 if fmt.is_integer else 0)
    assert fmt.min_normal == number(min_normal)
    assert fmt.min_subnormal == number(min_subnormal)
    assert fmt.epsilon == number(epsilon)


@pytest.mark.parametrize(("fmt", "dtype"), IEEE, ids=str)
def test_facts_of_floats_are_those_of_finfo(fmt: Format, dtype: Any) -> None:
    info = ml_dtypes.finfo(dtype)  # NumPy's own for NumPy's types
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
    assert (fmt.minimum, fmt.maximum) == (info.min, info.max) == oracles.INTEGERS[name]
    assert fmt.bits == info.bits


@pytest.mark.parametrize("name", FLOATS)
def test_facts_of_floats_are_those_of_the_oracle(name: str) -> None:
    fmt, layout = pr.FORMATS[name], oracles.FLOATS[name]
    assert (fmt.precision, fmt.min_normal_exponent, fmt.max_exponent) == layout
    assert fmt.maximum == float((2 - oracles.power(1 - layout.p)) * oracles.power(layout.emax))


@pytest.mark.parametrize("name", FLOATS)
def test_epsilon_is_the_distance_from_one_to_the_next_value(name: str) -> None:
    fmt = pr.FORMATS[name]
    steps = np.float32([1 + fmt.epsilon, 1 + fmt.epsilon / 2])
    assert pr.round_to(steps[:1], fmt, backend="numpy") == steps[0]
    if fmt is not pr.FP32:  # float32 has nothing between the two
        assert pr.round_to(steps[1:], fmt, backend="numpy") == 1


# dtypes and codes


@pytest.mark.parametrize("name", NAMES)
def test_dtype(name: str) -> None:
    fmt = pr.FORMATS[name]
    if name in DTYPES:
        assert fmt.dtype == np.dtype(DTYPES[name])
        assert isinstance(fmt.dtype, np.dtype)
    else:
        with pytest.raises(ValueError, match="tf32 has no NumPy dtype; carry its values in float32"):
            fmt.dtype


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("fp32", np.uint32),
        ("tf32", np.uint32),
        ("fp16", np.uint16),
        ("bf16", np.uint16),
        ("e5m2", np.uint8),
        ("int8", np.int8),
        ("int4", np.int8),
    ],
)
def test_code_dtype_holds_the_codes(name: str, dtype: type) -> None:
    fmt = pr.FORMATS[name]
    assert fmt.code_dtype == np.dtype(dtype)
    assert fmt.code_dtype.itemsize * 8 >= fmt.bits
    assert pr.encode(np.zeros(3, np.float32), fmt).dtype == fmt.code_dtype


@pytest.mark.parametrize(("fmt", "dtype"), IEEE, ids=str)
def test_codes_are_the_bit_patterns_of_the_dtype(fmt: Format, dtype: Any) -> None:
    def value(code: Any) -> float:
        return float(np.array([code]).astype(fmt.code_dtype).view(dtype)[0])

    constants = fmt.constants
    assert value(constants.largest_code) == fmt.maximum
    assert value(constants.infinity_code) == np.inf
    assert np.isnan(value(constants.nan_code))
    assert constants.nan_code == np.float32(np.nan).astype(dtype).view(fmt.code_dtype)
    assert value(1) == fmt.min_subnormal
    assert value(1 << fmt.significand_bits) == fmt.min_normal


@pytest.mark.parametrize(("fmt", "dtype"), UNREGISTERED, ids=str)
def test_record_outside_the_registry_is_a_format_like_any_other(fmt: Format, dtype: Any) -> None:
    codes = np.arange(256, dtype=np.uint8)
    values = codes.view(dtype).astype(np.float32)
    canonical = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))
    assert np.array_equal(pr.decode(codes, fmt).view(np.uint32), canonical)
    number = ~np.isnan(values)
    assert np.array_equal(pr.encode(values[number], fmt), codes[number])
    halfway = np.float32(values[:0x70] + fmt.min_subnormal / 2)
    with np.errstate(over="ignore"):
        assert np.array_equal(pr.round_to(halfway, fmt), halfway.astype(dtype).astype(np.float32))


def test_int4_codes_are_sign_extended_bytes() -> None:
    codes = pr.encode(np.arange(-8, 8, dtype=np.float32), "int4")
    assert (codes.view(np.uint8) & 0xF).tolist() == [x % 16 for x in range(-8, 8)]


# Constants


@pytest.mark.parametrize("fmt", [*pr.FORMATS.values(), E4M3, E3M4], ids=str)
def test_constants_are_the_facts_as_words(fmt: Format) -> None:
    constants = fmt.constants
    assert isinstance(constants, Constants)
    assert all(type(word) is np.uint32 for word in constants)

    def value(word: np.uint32) -> float:
        return float(word.view(np.float32))

    assert value(constants.smallest) == fmt.min_subnormal
    assert value(constants.smallest_normal) == 2.0**fmt.min_normal_exponent
    assert value(constants.largest) == fmt.maximum
    assert value(constants.largest + constants.asymmetry) == -fmt.minimum
    assert value(constants.half_smallest) == (fmt.min_subnormal / 2 if fmt is not pr.FP32 else 0)
    assert value(constants.overflow) == (fmt.maximum if fmt.is_integer else np.inf)
    assert int(constants.smallest_normal_exponent) == fmt.min_normal_exponent + 127
    assert int(constants.drop) == 23 - fmt.significand_bits
    assert int(constants.magnitude_bits) == fmt.bits - 1
    assert constants.unsigned_zero == constants.twos_complement == int(fmt.is_integer)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_have_no_codes_for_infinity_and_nan(name: str) -> None:
    constants = pr.FORMATS[name].constants
    assert constants.infinity_code == constants.largest_code == pr.FORMATS[name].maximum
    assert constants.nan_code == 0


def test_constants_are_derived_once() -> None:
    assert pr.FP16.constants is pr.FP16.constants


@pytest.mark.parametrize(
    "fmt",
    [
        Format(name="double", exponent_bits=11, significand_bits=52, bias=1023),
        Format(name="e8m24", exponent_bits=8, significand_bits=24, bias=127),  # 2^-150
        Format(name="e5m24", exponent_bits=5, significand_bits=24, bias=15),  # 25 digits
    ],
    ids=str,
)
def test_format_that_float32_cannot_carry_is_refused(fmt: Format) -> None:
    with pytest.raises(ValueError, match="so no float32 carrier can hold this format"):
        fmt.constants


# Records


def test_registry_holds_each_format_under_its_name() -> None:
    assert tuple(pr.FORMATS) == NAMES
    assert all(fmt.name == name == str(fmt) for name, fmt in pr.FORMATS.items())
    assert tuple(pr.FORMATS.values()) == (pr.FP32, pr.TF32, pr.FP16, pr.BF16, pr.E5M2, pr.INT8, pr.INT4)


@pytest.mark.parametrize("field", ["name", "bias", "significand_bits"])
def test_formats_are_frozen(field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(pr.FP16, field, 1)
    with pytest.raises(AttributeError):
        pr.FP16.maximum = 1.0  # type: ignore[misc]


def test_formats_are_values() -> None:
    twin = Format(name="fp16", exponent_bits=5, significand_bits=10, bias=15)
    assert twin == pr.FP16
    assert hash(twin) == hash(pr.FP16)
    assert twin.constants == pr.FP16.constants
    assert len(set(pr.FORMATS.values())) == len(NAMES)


def test_fields_are_keywords() -> None:
    with pytest.raises(TypeError):
        Format("fp16", 5, 10, 15)  # type: ignore[misc]


# Names


@pytest.mark.parametrize("name", NAMES)
def test_parse_format_takes_a_name_in_either_case_or_the_format(name: str) -> None:
    fmt = pr.FORMATS[name]
    assert pr.parse_format(name) is fmt
    assert pr.parse_format(name.upper()) is fmt
    assert pr.parse_format(fmt) is fmt


@pytest.mark.parametrize("name", DTYPES)
def test_parse_format_takes_a_dtype(name: str) -> None:
    assert pr.parse_format(np.dtype(DTYPES[name])) is pr.FORMATS[name]
    assert pr.parse_format(DTYPES[name]) is pr.FORMATS[name]
    assert pr.parse_format(pr.FORMATS[name].dtype) is pr.FORMATS[name]


def test_parse_format_leaves_a_record_outside_the_registry_alone() -> None:
    assert pr.parse_format(E4M3) is E4M3


def assert_names_the_known_formats(error: BaseException, given: str) -> None:
    """One sentence: what was given, what there is."""
    message = str(error)
    assert message == f"unknown number format {given!r}; known formats: {', '.join(NAMES)}"
    assert "\n" not in message


@pytest.mark.parametrize("name", ["fp8", "", "fp16 ", "half", "float64"])
def test_parse_format_refuses_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match="unknown number format") as refusal:
        pr.parse_format(name)
    assert_names_the_known_formats(refusal.value, name)


@pytest.mark.parametrize(
    "dtype",
    [
        np.float64,
        np.dtype(np.float64),
        np.uint8,
        np.int32,
        np.dtype(">f4"),  # its bit patterns are not the codes
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2fnuz,
        bool,
        None,  # which NumPy takes for float64
    ],
    ids=str,
)
def test_parse_format_refuses_other_dtypes(dtype: Any) -> None:
    with pytest.raises(ValueError, match="unknown number format") as refusal:
        pr.parse_format(dtype)
    assert_names_the_known_formats(refusal.value, str(dtype))


@pytest.mark.parametrize("thing", [5, 3.5, b"fp16", (5, 10), len], ids=["int", "float", "bytes", "tuple", "function"])
def test_parse_format_refuses_what_is_no_name_and_no_dtype(thing: Any) -> None:
    with pytest.raises(ValueError, match="unknown number format") as refusal:
        pr.parse_format(thing)
    assert_names_the_known_formats(refusal.value, str(thing))


@pytest.mark.parametrize(("exponent_bits", "significand_bits"), [(1, 6), (-1, 6), (5, 0), (0, 0)])
def test_format_without_enough_bits_is_refused(exponent_bits: int, significand_bits: int) -> None:
    with pytest.raises(ValueError, match="it needs at least 2") as refusal:
        Format(name="odd", exponent_bits=exponent_bits, significand_bits=significand_bits)
    assert "\n" not in str(refusal.value)


def test_a_format_that_only_borrows_a_name_has_no_dtype() -> None:
    with pytest.raises(ValueError, match="has no NumPy dtype"):
        _ = Format(name="fp16", exponent_bits=4, significand_bits=11, bias=7).dtype
