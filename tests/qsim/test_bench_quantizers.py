"""``qsim bench quantizers``: ratios follow from the times, bars stand where they should, bits are looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Cli
from small_runs import assert_sentence

import precision as pr
from qsim.bench import measurement, quantizers
from qsim.bench.gemm import SGEMM
from qsim.bench.measurement import Contender, Timing
from qsim.bench.quantizers import CAST, CODES, DEQUANTIZE, ON_JAX, ON_NUMPY, ON_OTHERS, PRODUCTS, QUANTIZE, TILINGS
from qsim.bench.quantizers_table import print_quantizers, quantizers_markdown

SHAPE, SIZES = (32, 48), (24, 40)
QUICK = ("bench", "quantizers", "--shape", 8, 16, "--size", 16, "--repeats", 2)
BLAS = {"internal_api": "openblas", "version": "0.3", "architecture": "Haswell"}


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "SAMPLE_SECONDS", 1e-5)
    monkeypatch.setattr(quantizers, "PAUSE", 0.0)
    monkeypatch.setattr(quantizers, "SETTLING", 0.0)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """Small sizes, measured once."""
    environment = {"cpu": "a processor", "cores": 2, "versions": {"numpy": "2.0", "absent": None}}
    products = [row for n in SIZES for row in quantizers.product_rows(n, repeats=2, threads=1)]
    arrays = quantizers.array_rows(SHAPE, repeats=2, threads=1)
    known = {"environment": environment, "blas": BLAS, "threads": 1, "repeats": 2, "data": quantizers.DATA}
    return {**known, "arrays": arrays, "products": products}


# Arrays


def test_every_tiling_is_measured(result: dict[str, Any]) -> None:
    found = [(row["contender"], row["format"]) for row in result["arrays"]]
    ours = [(name, tiling) for tiling in TILINGS for name in (QUANTIZE, DEQUANTIZE)]
    others = [(name, tiling) for tiling in ON_OTHERS for name in (ON_JAX, CAST)]
    assert found[:2] == [("copy (Numba)", None), ("copy (Numba, one thread)", None)]
    assert found[2:] == [*ours, *((ON_NUMPY, tiling) for tiling in ON_OTHERS), *others]


def test_array_ratios_follow_from_the_times(result: dict[str, Any]) -> None:
    rows = {(row["contender"], row["format"]): row for row in result["arrays"]}
    copy = min(row["seconds_best"] for (name, _), row in rows.items() if name.startswith("copy"))
    for (name, tiling), row in rows.items():
        assert row["values"] == SHAPE[0] * SHAPE[1]
        assert (row["bar"], row["met"]) == (None, None)
        if name in (QUANTIZE, DEQUANTIZE, ON_NUMPY):
            assert row["ratio"] == pytest.approx(copy / row["seconds_best"])
        elif name == ON_JAX:
            assert row["ratio"] == pytest.approx(rows[CAST, tiling]["seconds_best"] / row["seconds_best"])
        else:
            assert row["ratio"] is None


def test_codes_are_those_of_numpy(result: dict[str, Any]) -> None:
    for row in result["arrays"]:
        assert row["wrong"] == (0 if row["contender"] in (QUANTIZE, ON_JAX) else None)


def test_wrong_codes_and_scales_are_counted() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    right = pr.quantize(x, axis=-1, backend="numpy")
    codes, scale = right.codes.copy(), right.scale.copy()
    contender = Contender(name=QUANTIZE, call=lambda: (codes, scale), values=12, format="rows")
    expected = {"rows": (right.codes, right.scale)}
    assert quantizers._wrong(contender, expected) == 0
    codes[1, 2] += 1
    scale[:2] = np.nextafter(scale[:2], np.float32(0))
    assert quantizers._wrong(contender, expected) == 3


def test_the_array_with_a_bar() -> None:
    x = np.ones(quantizers.SHAPE, np.float32)
    limits = {(c.name, c.format): c.comparison.limit for c in quantizers._numba_contenders(x) if c.comparison}
    assert {key for key, limit in limits.items() if limit is not None} == {(QUANTIZE, "rows")}
    assert limits[QUANTIZE, "rows"] == 0.8


# Products


def test_every_product_is_measured(result: dict[str, Any]) -> None:
    found = [(row["size"], row["contender"]) for row in result["products"]]
    assert found == [(size, name) for size in SIZES for name in (SGEMM, *PRODUCTS)]


def test_product_ratios_follow_from_the_times(result: dict[str, Any]) -> None:
    for size in SIZES:
        sgemm, *rows = [row for row in result["products"] if row["size"] == size]
        assert (sgemm["ratio"], sgemm["wrong"], sgemm["met"]) == (None, None, None)
        for row in rows:
            assert row["ratio"] == pytest.approx(sgemm["seconds_best"] / row["seconds_best"])
            assert row["gmacs_per_second"] == pytest.approx(size**3 / row["seconds_best"] / 1e9)
            assert (row["compared_with"], row["bar"], row["wrong"]) == (SGEMM, None, 0)


def test_operands_hold_outliers_in_whole_columns() -> None:
    x, w = quantizers.operands(64)
    large = np.abs(x) >= 6
    assert (large.any(axis=0) == large.all(axis=0)).all()
    assert large.any(axis=0).sum() == quantizers.OUTLIERS
    assert np.abs(w).max() <= quantizers.BOUND


def test_the_product_with_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(name: str, size: int, ratio: float) -> tuple[Any, Any]:
        row = quantizers._against(name, size, ratio)
        return row["bar"], row["met"]

    monkeypatch.setattr(quantizers, "processor_features", lambda: {"INT8 dot products"})
    assert judged("int8_vectorwise", 2048, 1.5) == (1.0, True)
    assert judged("int8_vectorwise", 2048, 0.9) == (1.0, False)
    assert judged("int8_vectorwise", 1024, 0.9) == (None, None)
    assert judged(CODES, 2048, 1.5) == (None, None)
    assert judged(SGEMM, 2048, 1.0) == (None, None)
    monkeypatch.setattr(quantizers, "processor_features", set)
    assert judged("int8_vectorwise", 2048, 1.5) == (None, None)


def test_wrong_products_are_counted() -> None:
    x, w = quantizers.operands(20)
    y = quantizers._product("int8_vectorwise", x, w)()
    contender = Contender(name="int8_vectorwise", call=lambda: y, values=1)
    assert quantizers._wrong_corner(contender, x, w) == 0
    y[0, 0] = -y[0, 0]
    y[7, 15] = np.nextafter(y[7, 15], np.float32(np.inf))
    y[8, 16] = 0
    assert quantizers._wrong_corner(contender, x, w) == 2


def test_rounds_are_counted() -> None:
    row = quantizers._timed(Contender(name=SGEMM, call=print, values=1000), Timing((2.0, 4.0, 4.5)), 10)
    assert (row["size"], row["rounds"], row["gmacs_per_second"]) == (10, 3, 5e-7)


# Results


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """With a bar missed in each table."""
    arrays, products = ([dict(row) for row in result[name]] for name in ("arrays", "products"))
    arrays[2] |= {"ratio": 0.7, "bar": 0.8, "met": False}
    products[1] |= {"ratio": 0.25, "bar": 1.0, "met": False, "wrong": 3}
    return {**result, "arrays": arrays, "products": products}


def test_printed_result(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_quantizers(judged(result))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a processor, 2 cores, Numba on 1 threads; numpy 2.0"
    assert quantizers.DATA in lines[1]
    assert lines[6].split()[-4:] == [">=", "0.8", "NO", "0"]
    blas = next(i for i, line in enumerate(lines) if line.startswith("NumPy's BLAS: openblas"))
    head, *products = lines[blas + 2 :]
    assert head.split()[:3] == ["product", "n", "rounds"]
    assert len(products) == len(result["products"])
    assert products[1].split()[-5:] == ["0.25", ">=", "1", "NO", "3"]


def test_markdown(result: dict[str, Any]) -> None:
    arrays, products = quantizers_markdown(judged(result)).split("\n\n")
    head, _, first, *_ = arrays.splitlines()
    assert head == f"| contender | values | ratio | {' | '.join(TILINGS)} | bar |"
    assert first.startswith(f"| {QUANTIZE} | 1536 | speed / speed of copy | **0.70** | ")
    assert first.endswith(" | >= 0.8 |")
    head, _, *lines = products.splitlines()
    assert head == "| product | n = 24 | n = 40 | bar |"
    assert [line.split(" | ")[0] for line in lines] == [f"| {name}" for name in PRODUCTS]
    assert "| **0.25** |" in lines[0]
    assert lines[0].endswith("| >= 1 |")


# The command


def test_json(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "quantizers.json"
    code, out, err = cli(*QUICK, "--threads", 1, "--json", "--out", file)
    assert (code, err) == (0, "8 x 16, 2 rounds\n16 x 16 x 16, at most 2 rounds\n")
    result = json.loads(out)
    assert json.loads(file.read_text()) == result
    assert (result["benchmark"], result["threads"], result["repeats"]) == ("quantizers", 1, 2)
    assert {row["values"] for row in result["arrays"]} == {128}
    assert {row["size"] for row in result["products"]} == {16}


def test_markdown_of_the_command(cli: Cli) -> None:
    code, out, _ = cli(*QUICK, "--markdown")
    assert code == 0
    assert out.startswith("| contender | values | ratio | rows |")
    assert "| product | n = 16 | bar |" in out


def test_threads_need_control_of_blas(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert_sentence(cli.refused(tmp_path, *QUICK, "--threads", 1), "--threads", "threadpoolctl")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("rows",), ("'rows'",)),
        (("--shape", "8"), ("--shape",)),
        (("--shape", "0", "8"), ("'0'", "1 to 8192")),
        (("--size", "8193"), ("'8193'", "1 to 8192")),
        (("--repeats", "0"), ("'0'", "1 to 10000")),
        (("--threads", "9999"), ("--threads is 9999", "give 1 to")),
        (("--out", "{folder}"), ("is a folder", "a file in it")),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_one_line(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    words = [word.replace("{folder}", str(tmp_path)) for word in arguments]
    assert_sentence(cli.refused(tmp_path, "bench", "quantizers", *words), *parts)
