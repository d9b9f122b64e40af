"""``qsim quantizers``: every record whole, a table for 120 columns, comparisons on the same matrices, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from command_line import Cli
from small_runs import assert_sentence

import precision as pr
from qsim.commands.quantizers import matrices, read_matrix, sqnr

COLUMNS = ["name", "x", "w", "definition", "evidence"]
COMPARED = ["name", "x codes differ", "x SQNR dB", "w codes differ", "w SQNR dB", "y SQNR dB", "y not finite"]
TERMINAL = 120
FEW = ("int8_vectorwise", "int8_weight_only", "torchao_bf16", "mxint8", "llm_int8")


def rebuilt(row: dict[str, Any]) -> pr.MatmulScheme:
    """The record that the JSON describes."""
    return pr.MatmulScheme(**row | {name: operand(row[name]) for name in ("x", "w")})


def operand(fields: dict[str, Any] | None) -> pr.QScheme | pr.BlockFormat | None:
    if fields is None:
        return None
    if "block_size" in fields:
        return pr.BlockFormat(**fields | {name: pr.Format(**fields[name]) for name in ("element", "scale")})
    return pr.QScheme(**fields | {"clipping": pr.Clipping(**fields["clipping"])})


# Records


def test_json_has_every_field(cli: Cli) -> None:
    rows = cli.rows("quantizers")
    assert [row["name"] for row in rows] == list(pr.SCHEMES)
    for row in rows:
        assert list(row) == [field.name for field in dataclasses.fields(pr.MatmulScheme)]
        assert rebuilt(row) == pr.SCHEMES[row["name"]]


def test_named_records_as_json(cli: Cli) -> None:
    names = ("int4_group128", "LLM_int8", "int8_group32_vectorwise", "llm_int8")
    assert [rebuilt(row) for row in cli.rows("quantizers", *names)] == [pr.parse_scheme(name) for name in names[:3]]


def test_printed_table(cli: Cli) -> None:
    code, out, err = cli("quantizers")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == COLUMNS
    assert max(map(len, lines)) <= TERMINAL
    assert all(line == line.rstrip() for line in lines)
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ")] == list(pr.SCHEMES)


def cells(lines: list[str]) -> list[list[str]]:
    """Rows of a table whose cells may go on below."""
    starts = [lines[0].index(column) for column in COLUMNS[1:]]
    found: list[list[str]] = []
    for line in lines[1:]:
        row = [line[i:j].strip() for i, j in zip([0, *starts], [*starts, None], strict=True)]
        last = [""] * len(row) if row[0] else found.pop()
        found.append([f"{above} {below}".strip() for above, below in zip(last, row, strict=True)])
    return found


def test_every_definition_is_printed_whole(cli: Cli) -> None:
    found = cells(cli("quantizers")[1].splitlines())
    for (name, *_, definition, evidence), scheme in zip(found, pr.SCHEMES.values(), strict=True):
        assert (name, definition, evidence) == (scheme.name, scheme.description, scheme.evidence)
    operands = {name: (x, w) for name, x, w, *_ in found}
    assert operands["int8_vectorwise"] == ("int8, vector", "int8, vector")
    assert operands["int8_affine"] == ("affine int8, tensor", "int8, vector")
    assert operands["int4_columnwise_weight_only"] == ("fp16", "int4, vector")
    assert operands["mxfp4"] == ("mxfp4", "mxfp4")


def test_named_records_are_printed_in_full(cli: Cli) -> None:
    code, out, err = cli("quantizers", "int4_group128", "mxfp4", "int4_group128")
    assert (code, err) == (0, "")
    texts = out.split("\n\n")
    assert len(texts) == 2
    assert max(map(len, out.splitlines())) <= TERMINAL
    shown = dict(line.split(maxsplit=1) for line in texts[0].splitlines()[1:])
    assert texts[0].split()[:2] == ["field", "value"]
    fields = [field.name for field in dataclasses.fields(pr.MatmulScheme)]
    of_w = [f"w.{field.name}" for field in dataclasses.fields(pr.QScheme)]
    assert list(shown) == ["name", "x", *of_w, *fields[3:]]
    expected = {"name": "int4_group128", "x": "-", "w.bits": "4", "w.group": "128", "w.symmetric": "yes"}
    assert {key: shown[key] for key in expected} == expected
    assert shown["w.clipping"] == "method absmax, percentile 99.9, candidates 64"
    assert [line.split() for line in texts[1].splitlines() if line.startswith("w ")] == [["w", "as", "x"]]


# Comparisons


def saved(folder: Path, name: str, array: Any) -> str:
    path = folder / f"{name}.npy"
    np.save(path, array)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """x (6, 16) and w (16, 4)."""
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(6, 16)), rng.normal(size=(16, 4))
    return saved(tmp_path, "x", x.astype(np.float32)), saved(tmp_path, "w", w.astype(np.float16))


def compared(cli: Cli, files: tuple[str, str], *names: str) -> dict[str, dict[str, Any]]:
    rows = cli.rows("quantizers", *names, "--compare", "--x", files[0], "--w", files[1])
    assert all(list(row) == COMPARED for row in rows)
    return {row["name"]: row for row in rows}


def test_comparison_of_all(cli: Cli, files: tuple[str, str]) -> None:
    rows = compared(cli, files)
    assert list(rows) == list(pr.SCHEMES)
    assert rows["int8_vectorwise"]["x codes differ"] == rows["int8_vectorwise"]["w codes differ"] == 0
    assert {row["y not finite"] for row in rows.values()} == {0}
    assert all(10 < row["y SQNR dB"] < 60 for row in rows.values())
    assert rows["mxfp4"]["y SQNR dB"] < rows["mxint8"]["y SQNR dB"] < rows["int8_weight_only"]["y SQNR dB"]


def test_figures_by_hand(cli: Cli, files: tuple[str, str]) -> None:
    x, w = (np.load(path).astype(np.float32) for path in files)
    exact = x.astype(np.float64) @ w

    def decibels(true: np.ndarray, found: np.ndarray) -> float:
        ratio = np.sum(true.astype(np.float64) ** 2) / np.sum((true.astype(np.float64) - found) ** 2)
        return pytest.approx(10 * np.log10(ratio), abs=0.006)

    rows = compared(cli, files, *FEW)
    assert list(rows) == list(FEW)
    for name, row in rows.items():
        scheme = pr.parse_scheme(name)
        output = "fp32" if scheme.working == "fp32" else scheme.working
        assert row["y SQNR dB"] == decibels(exact, pr.quantized_matmul(x, w, scheme=scheme, output=output))
        assert row["w SQNR dB"] == decibels(w, pr.quantize(w, scheme, axis=-2).dequantize())
    of_x, canon = (pr.quantize(x, name, axis=-1).codes for name in ("torchao_bf16", "int8_vectorwise"))
    assert rows["torchao_bf16"]["x codes differ"] == np.sum(of_x != canon) > 0
    assert rows["int8_weight_only"]["x codes differ"] is rows["int8_weight_only"]["x SQNR dB"] is None
    assert rows["mxint8"]["x codes differ"] is None
    assert rows["mxint8"]["x SQNR dB"] > 30


def test_comparison_is_printed(cli: Cli, files: tuple[str, str]) -> None:
    code, out, err = cli("quantizers", *FEW, "--compare", "--x", files[0], "--w", files[1])
    assert (code, err) == (0, "")
    head, *lines = out.splitlines()
    assert [head.index(column) for column in COMPARED] == sorted(head.index(column) for column in COMPARED)
    assert [line.split()[0] for line in lines] == list(FEW)
    assert max(map(len, out.splitlines())) <= TERMINAL
    rows = compared(cli, files, *FEW)
    for line, row in zip(lines, rows.values(), strict=True):
        assert line.split() == ["-" if value is None else str(value) for value in row.values()]


def test_what_overflows_in_a_format_is_counted(cli: Cli, tmp_path: Path) -> None:
    """1e10 is infinity in fp16, which spoils that row; float32 schemes go on, their fp16 output does not."""
    x, w = np.ones((3, 8), np.float32), np.ones((8, 2), np.float32)
    x[1, 2] = 1e10
    rows = compared(cli, (saved(tmp_path, "x", x), saved(tmp_path, "w", w)), "torchao_fp16", "torchao", "mxfp4")
    assert rows["torchao_fp16"]["x SQNR dB"] is None
    assert rows["torchao_fp16"]["y SQNR dB"] is None
    assert [row["y not finite"] for row in rows.values()] == [2, 2, 0]
    assert rows["torchao"]["x SQNR dB"] is not None


def test_no_error_has_no_ratio() -> None:
    x = np.ones((2, 2), np.float32)
    assert sqnr(x, x) is None
    assert sqnr(x, np.float32([[np.nan, 1], [1, 1]])) is None
    assert sqnr(0 * x, x) is None
    assert sqnr(x, x * np.float32(0.5)) == 6.02
    assert sqnr(x * 10, x * 9) == 20


def test_drawn_matrices() -> None:
    x, w = matrices(None, None, 5)
    assert (x.shape, w.shape) == ((512, 1024), (1024, 512))
    for one, again in zip((x, w), matrices(None, None, 5), strict=True):
        assert_same_bits(one, again)
        assert_same_bits(pr.round_to(one, "fp16"), one)
    assert not np.array_equal(x, matrices(None, None, 6)[0])
    columns = np.sqrt(np.mean(np.square(x), axis=0))
    assert set(np.argsort(columns)[-3:]) == {7, 300, 511}
    assert columns[7] / np.median(columns) == pytest.approx(20, rel=0.2)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", ">f4"])
def test_matrices_of_every_float(tmp_path: Path, dtype: str) -> None:
    array = np.array([[1.5, -2, 0.25]], dtype)
    found = read_matrix(saved(tmp_path, "x", np.asfortranarray(array)))
    assert_same_bits(found, np.float32([[1.5, -2, 0.25]]))


# Refusals


def test_unknown_scheme(cli: Cli, tmp_path: Path) -> None:
    for name in ("int7", "", "int4_group0", "int4_group", "vectorwise"):
        assert_sentence(cli.refused(tmp_path, "quantizers", "llm_int8", name), repr(name), "int4_group<g>", "mxfp4")


def test_matrices_come_in_pairs(cli: Cli, tmp_path: Path, files: tuple[str, str]) -> None:
    for option, path in zip(("--x", "--w"), files, strict=True):
        message = cli.refused(tmp_path, "quantizers", "--compare", option, path)
        assert_sentence(message, "one matrix", "both --x and --w")
    message = cli.refused(tmp_path, "quantizers", "--x", files[0], "--w", files[1])
    assert_sentence(message, "add --compare")
    message = cli.refused(tmp_path, "quantizers", "--compare", "--x", files[1], "--w", files[1])
    assert_sentence(message, "(16, 4)", "do not multiply", files[1])
    assert_sentence(cli.refused(tmp_path, "quantizers", "--compare", "--seed", "-1"), "seed -1", "0 or more")
    assert "--seed" in cli.refused(tmp_path, "quantizers", "--compare", "--seed", "many")


WITH_NAN = np.ones((2, 16), np.float32)
WITH_NAN[1, 3] = np.nan
WITH_INFINITY = np.ones((2, 16), np.float16)
WITH_INFINITY[0, 5] = -np.inf


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (WITH_NAN, ("nan at [1, 3]",)),
        (WITH_INFINITY, ("-inf at [0, 5]",)),
        (np.full((2, 16), 0.1), ("float64", "save it as float32")),
        (np.full((2, 16), 1e300), ("float64", "save it as float32")),
        (np.full((2, 16), 0.1, np.longdouble), ("would round",)),
        (np.ones((2, 16), np.int8), ("int8", "matrix of floats")),
        (np.ones((2, 16), complex), ("complex128", "matrix of floats")),
        (np.ones(16, np.float32), ("(16,)", "matrix of floats")),
        (np.ones((0, 16), np.float32), ("(0, 16)", "matrix of floats")),
        (np.array([[1, None]], object), ("no .npy file",)),
    ],
    ids=str,
)
def test_matrices_that_are_refused(
    cli: Cli, tmp_path: Path, files: tuple[str, str], array: np.ndarray, parts: tuple[str, ...]
) -> None:
    path = saved(tmp_path, "bad", array)
    message = cli.refused(tmp_path, "quantizers", "llm_int8", "--compare", "--x", path, "--w", files[1])
    assert_sentence(message, path, *parts)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\x05\x00{'a':"]
)
def test_files_that_are_no_arrays(cli: Cli, tmp_path: Path, files: tuple[str, str], content: bytes) -> None:
    path = tmp_path / "bad.npy"
    path.write_bytes(content)
    message = cli.refused(tmp_path, "quantizers", "--compare", "--x", path, "--w", files[1])
    assert_sentence(message, str(path), "no .npy file")


def test_cut_and_missing_and_zipped_files(cli: Cli, tmp_path: Path, files: tuple[str, str]) -> None:
    whole = Path(files[0]).read_bytes()
    cut = tmp_path / "cut.npy"
    for length in (7, 40, 100, len(whole) - 1):
        cut.write_bytes(whole[:length])
        assert_sentence(cli.refused(tmp_path, "quantizers", "--compare", "--x", cut, "--w", files[1]), str(cut))
    for path in (tmp_path / "none.npy", tmp_path):
        message = cli.refused(tmp_path, "quantizers", "--compare", "--x", files[0], "--w", path)
        assert_sentence(message, str(path), "numpy.save")
    np.savez(tmp_path / "two.npz", a=np.ones(3))
    message = cli.refused(tmp_path, "quantizers", "--compare", "--x", tmp_path / "two.npz", "--w", files[1])
    assert_sentence(message, "two.npz", "no .npy file")


def test_rows_are_plain_json(cli: Cli, files: tuple[str, str]) -> None:
    """No NaN or infinity, which JSON does not have."""
    out = cli("quantizers", "--compare", "--x", files[0], "--w", files[1], "--json")[1]
    assert json.loads(out, parse_constant=pytest.fail)
