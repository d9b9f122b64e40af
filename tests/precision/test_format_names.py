"""parse_format: names, dtypes, e<k>m<n>, refusals."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from format_oracle import P3109, standard

import precision as pr
from precision import Format

DTYPES = {name: fmt.dtype for name, fmt in pr.FORMATS.items() if name not in (*P3109, "tf32")}


@pytest.mark.parametrize("name", pr.FORMATS)
def test_a_name_in_either_case_or_the_format(name: str) -> None:
    fmt = pr.FORMATS[name]
    assert pr.parse_format(name) is fmt
    assert pr.parse_format(name.upper()) is fmt
    assert pr.parse_format(fmt) is fmt


@pytest.mark.parametrize("name", DTYPES)
def test_a_dtype(name: str) -> None:
    assert pr.parse_format(DTYPES[name]) is pr.FORMATS[name]
    assert pr.parse_format(DTYPES[name].type) is pr.FORMATS[name]


def test_a_record_outside_the_registry_is_left_alone() -> None:
    mine = Format(name="mine", exponent_bits=3, significand_bits=1, bias=3)
    assert pr.parse_format(mine) is mine


@pytest.mark.parametrize("precision", range(1, 8))
def test_p3109_is_signed_and_extended_unless_it_says_more(precision: int) -> None:
    assert pr.parse_format(f"binary8p{precision}") is pr.FORMATS[f"binary8p{precision}se"]


@pytest.mark.parametrize(
    ("name", "known"),
    [("e8m23", "fp32"), ("e8m10", "tf32"), ("e5m10", "fp16"), ("e8m7", "bf16"), ("e5m2", "e5m2"), ("e4m3", "e4m3"),
     ("e3m4", "e3m4"), ("e3m2", "e3m2"), ("e2m3", "e2m3"), ("e2m1", "e2m1")],
)  # fmt: skip
def test_exponent_and_significand_bits_of_a_known_format(name: str, known: str) -> None:
    assert pr.parse_format(name) is pr.FORMATS[known]


@pytest.mark.parametrize("exponent_bits", range(2, 9))
@pytest.mark.parametrize("significand_bits", range(1, 24))
def test_exponent_and_significand_bits(exponent_bits: int, significand_bits: int) -> None:
    name = f"e{exponent_bits}m{significand_bits}"
    fmt, written = pr.parse_format(name), standard(name)
    assert fmt.bits == written.bits == 1 + exponent_bits + significand_bits
    assert (fmt.bias, fmt.significand_bits) == (written.bias, significand_bits)
    assert fmt.maximum == float(written.magnitude(written.last))
    assert (fmt.infinity_code, fmt.nan_code) == (written.infinity, written.nan)
    assert pr.parse_format(fmt.name) == fmt


def refused(thing: Any) -> str:
    with pytest.raises(ValueError, match=r"^unknown number format [^\n]*\Z") as refusal:
        pr.parse_format(thing)
    return str(refusal.value)


@pytest.mark.parametrize(
    "name",
    ["fp8", "", "fp16 ", "half", "float64", "e9m3", "e1m3", "e5m0", "e5m24", "e05m2", "e5m2x", "binary8p8",
     "binary8p0", "binary8p9ue", "binary16p3", "int3", "uint8"],
)  # fmt: skip
def test_unknown_names(name: str) -> None:
    message = refused(name)
    assert message.startswith(f"unknown number format {name!r}; known formats: fp64, fp32, ")
    assert "e<k>m<n>" in message
    assert all(known in message for known in pr.FORMATS if known not in P3109)


@pytest.mark.parametrize(
    "dtype",
    [
        np.uint8,
        np.int32,
        np.dtype(">f4"),  # its bit patterns are not the codes
        ml_dtypes.uint4,
        np.complex64,
        bool,
        None,  # which NumPy takes for float64
    ],
    ids=str,
)
def test_other_dtypes(dtype: Any) -> None:
    assert f"{dtype!s}" in refused(dtype)


@pytest.mark.parametrize("thing", [5, 3.5, b"fp16", (5, 10), len], ids=["int", "float", "bytes", "tuple", "function"])
def test_what_is_no_name_and_no_dtype(thing: Any) -> None:
    assert str(thing) in refused(thing)
