"""``qsim formats``: its figures against the values that the codes of each format stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from command_line import Cli
from small_runs import assert_sentence

import precision as pr
from precision import BLOCK_FORMATS, FORMATS
from qsim.commands.formats import BLOCKS, GROUPS

SMALL = [*(name for name, f in FORMATS.items() if f.bits <= 16), "e6m9", "e2m13", "e8m1", "e3m3"]
WITH_DTYPE = ["fp16", "bf16", "e5m2", "e4m3", "e3m4", "e4m3fn", "e5m2fnuz", "e4m3fnuz", "e4m3b11fnuz", "e8m0", "e3m2",
              "e2m3", "e2m1", "int8", "int4", "int2"]  # fmt: skip


@pytest.fixture
def rows(cli: Cli) -> dict[str, dict[str, Any]]:
    return {row["format"]: row for row in cli.rows("formats", *FORMATS, "e6m9", "e2m13", "e8m1", "e3m3")}


def decoded(name: str) -> np.ndarray:
    """Every code's value."""
    f = pr.parse_format(name)
    codes = np.arange(1 << f.bits).astype(f.code_dtype)
    if f.is_integer:
        codes = (np.arange(1 << f.bits) - (1 << (f.bits - 1))).astype(f.code_dtype)
    return pr.decode(codes, f, backend="numpy").astype(np.float64)


def seen_by_dtype(name: str) -> np.ndarray:
    """The same by NumPy's and ml_dtypes' conversions."""
    f = pr.parse_format(name)
    return np.arange(1 << f.bits).astype(f"u{f.dtype.itemsize}").view(f.dtype).astype(np.float64)


def check(row: dict[str, Any], values: np.ndarray) -> None:
    finite = np.unique(values[np.isfinite(values)])
    positive = finite[finite > 0]
    assert (row["codes"], row["finite values"]) == (values.size, finite.size)
    assert (row["maximum"], row["minimum"]) == (finite[-1], finite[0])
    smallest = row["smallest subnormal"]
    assert positive[0] == (row["smallest normal"] if smallest is None else smallest)
    if 1.0 in positive[:-1]:
        assert row["epsilon"] == positive[np.searchsorted(positive, 1.0) + 1] - 1.0
    assert row["infinities"] == bool(np.isinf(values).any())
    assert (row["NaN"] is not None) == bool(np.isnan(values).any())
    assert row["signed zero"] == bool(np.signbit(values[values == 0]).any())


def test_figures_agree_with_every_code(rows: dict[str, dict[str, Any]]) -> None:
    for name in SMALL:
        check(rows[name], decoded(name))


def test_figures_agree_with_the_types_of_others(rows: dict[str, dict[str, Any]]) -> None:
    with np.errstate(invalid="ignore"):
        for name in WITH_DTYPE:
            check(rows[name], seen_by_dtype(name))


def test_figures_of_wide_formats(rows: dict[str, dict[str, Any]]) -> None:
    for name, dtype, codes in (("fp32", np.float32, 1 << 32), ("fp64", np.float64, 1 << 64)):
        info, row = np.finfo(dtype), rows[name]
        assert (row["maximum"], row["minimum"]) == (float(info.max), float(info.min))
        assert (row["smallest normal"], row["epsilon"]) == (float(info.smallest_normal), float(info.eps))
        assert row["smallest subnormal"] == float(info.smallest_subnormal)
        one_exponent = 1 << row["significand bits"]
        assert (row["codes"], row["finite values"]) == (codes, codes - 2 * one_exponent - 1)


def test_all_formats_by_default(cli: Cli) -> None:
    assert sorted(row["format"] for row in cli.rows("formats")) == sorted([*FORMATS, *BLOCK_FORMATS])


def test_groups_follow_each_other(cli: Cli) -> None:
    names = ["int8", "binary8p3", "e2m1", "bf16", "e4m3fn", "e3m3", "e6m9", "bf16"]
    rows = [(row["group"], row["format"]) for row in cli.rows("formats", *names)]
    expected = [["bf16", "e6m9"], ["e4m3fn"], ["e2m1", "e3m3"], ["int8"], ["binary8p3se"]]
    assert rows == [(group, name) for group, members in zip(GROUPS, expected, strict=True) for name in members]


def test_printed_table(cli: Cli) -> None:
    code, out, err = cli("formats", "fp16", "e5m10", "e4m3fn", "int4")
    assert (code, err) == (0, "")
    head, *lines = out.splitlines()
    assert head.split()[:5] == ["format", "bits", "exp", "sig", "bias"]
    assert [line.split()[:1] for line in lines] == [
        [], ["floating"], ["fp16"], [], ["8"], ["e4m3fn"], [], ["integers"], ["int4"]
    ]  # fmt: skip
    assert lines[2].split()[1:7] == ["16", "5", "10", "15", "65504", "-65504"]
    assert all(line == line.rstrip() for line in lines)


def test_block_formats(cli: Cli) -> None:
    rows = cli.rows("formats", "MXFP4", "nvfp4", "mxint8", "mxfp8_e4m3", "mxfp4")
    assert all(row["group"] == BLOCKS for row in rows)
    columns = ("format", "bits a value", "element", "scale", "block size", "tensor scale", "largest element",
               "smallest element")  # fmt: skip
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("mxfp4", 4.25, "e2m1", "e8m0", 32, None, 6.0, 0.5),
        ("nvfp4", 4.5, "e2m1", "e4m3fn", 16, "fp32", 6.0, 0.5),
        ("mxint8", 8.25, "int8", "e8m0", 32, None, 1.984375, 0.015625),
        ("mxfp8_e4m3", 8.25, "e4m3fn", "e8m0", 32, None, 448.0, 2.0**-9),
    ]


def test_block_formats_are_a_table_of_their_own(cli: Cli) -> None:
    _, out, _ = cli("formats", "mxfp4", "fp16", "nvfp4")
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["format", "bits"], [], ["floating", "point"], ["fp16", "16"], [],
        ["format", "bits"], [], ["block", "formats"], ["mxfp4", "4.25"], ["nvfp4", "4.5"],
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["fp17", "e9m3", "e1m2", "e4m24", "", "binary8p9", "e4m3 fn", "mxfp5"])
def test_unknown_format(cli: Cli, tmp_path, name: str) -> None:
    assert_sentence(cli.refused(tmp_path, "formats", "fp16", name), repr(name), "e4m3fn")
