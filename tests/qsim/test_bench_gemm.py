"""``qsim bench gemm``: rates and ratios follow from the times, bars stand where they should, bits are looked at."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Cli
from small_runs import assert_sentence

import precision as pr
from qsim.bench import gemm, measurement, threads
from qsim.bench.gemm import ENTRIES, SGEMM, Entry, Product
from qsim.bench.gemm_table import gemm_markdown, print_products
from qsim.bench.measurement import Timing

SIZES = (24, 17)
NAMES = ("fp32_sequential", "int32", "exact", "native")
MEASURED = [(SGEMM, "fp32"), ("fp32_sequential", "fp16"), ("fp32_sequential", "bf16"), ("int32", "int8"),
            ("exact", "fp16"), ("native", "fp16")]  # fmt: skip
QUICK = ("bench", "gemm", "--size", 16, "--repeats", 2, "--accumulator", "fp32_sequential")
BLAS = {"internal_api": "openblas", "version": "0.3", "architecture": "Haswell"}


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "SAMPLE_SECONDS", 1e-5)
    monkeypatch.setattr(gemm, "PAUSE", 0.0)


# What is measured


def test_entries_are_known_accumulators() -> None:
    for entry in ENTRIES:
        assert pr.parse_accumulator(entry.accumulator).takes(pr.parse_format(entry.inputs))
    assert len({(entry.accumulator, entry.inputs) for entry in ENTRIES}) == len(ENTRIES)


def test_names_choose_entries() -> None:
    assert gemm.entries([]) == list(ENTRIES)
    chosen = gemm.entries(["h100", "kahan", "ada_fp8", "fp32_split4", "h100"])
    assert [(entry.accumulator, entry.inputs, entry.bar) for entry in chosen] == [
        ("h100", "bf16", 2.0), ("h100", "fp16", None), ("kahan", "fp16", None), ("ada_fp8", "e4m3fn", None),
        ("fp32_split4", "fp16", None),
    ]  # fmt: skip


def test_bars_stand_at_three_sizes_and_where_the_processor_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    def limits(size: int) -> dict[tuple[str, str], float | None]:
        return {(entry.accumulator, entry.inputs): entry.limit(size) for entry in ENTRIES if entry.bar}

    everywhere = {("fp32_sequential", "fp16"): 0.9, ("fp32_sequential", "bf16"): 0.9, ("fp16_mul_add", "fp16"): 0.1,
                  ("fp16_fma", "fp16"): 0.1, ("bf16_fma", "bf16"): 0.1, ("h100", "bf16"): 2.0}  # fmt: skip
    here = {("avx512_fp16", "fp16"): 1.0, ("int32", "int8"): 2.0}
    monkeypatch.setattr(gemm, "processor_features", lambda: {"fp16 arithmetic", "INT8 dot products"})
    assert limits(512) == limits(1024) == limits(2048) == everywhere | here
    assert set(limits(513).values()) == {None}
    monkeypatch.setattr(gemm, "processor_features", lambda: {"INT8 dot products"})
    assert limits(512) == everywhere | here | {("avx512_fp16", "fp16"): None}
    monkeypatch.setattr(gemm, "processor_features", set)
    assert limits(1024) == everywhere | dict.fromkeys(here)


def test_features_are_those_that_numba_compiles_for() -> None:
    half = import_module("precision.backends.numba_.target").target().half_arithmetic
    unit = import_module("precision.backends.numba_.integer_tiles").UNIT
    assert ("fp16 arithmetic" in gemm.processor_features()) == half
    assert ("INT8 dot products" in gemm.processor_features()) == ("vnni" in unit.name)


@pytest.mark.parametrize("inputs", ["fp16", "bf16", "e4m3fn", "int8", "fp32"])
def test_operands_are_values_of_their_format(inputs: str) -> None:
    for x in gemm.operands(40, inputs):
        assert x.shape == (40, 40)
        assert x.dtype == (np.int8 if inputs == "int8" else np.float32)
        assert np.unique(x).size > 60
        values = x.astype(np.float32)
        assert (pr.round_to(values, inputs, backend="numpy") == values).all()
    assert (gemm.operands(40, inputs)[0] == gemm.operands(40, inputs)[0]).all()


def square_product(calls: list[int], size: int) -> Product:
    product = Product(None, np.ones((size, size), np.float32), np.ones((size, size), np.float32))

    def run(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        assert (a.shape[1], b.shape) == (size, (size, len(a)))
        calls.append(len(a))
        return a @ b

    product.run = run
    return product


def test_slow_products_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """2^-10 s an output, so that 45 x 45 last nearly as long as a call may."""
    calls: list[int] = []
    product = square_product(calls, 100)
    monkeypatch.setattr(gemm, "LEAST_WORK", 1)
    monkeypatch.setattr(gemm, "LONGEST_CALL", 2.0)
    monkeypatch.setattr(gemm, "seconds", lambda call: call() or 2.0**-10 * len(call.a) ** 2)
    product.shrink()
    assert (calls, len(product.a)) == ([16, 16, 45], 45)
    assert product.contender.values == 45 * 45 * 100


def test_fast_products_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    product = square_product(calls, 100)
    monkeypatch.setattr(gemm, "LEAST_WORK", 1)
    product.shrink()
    assert (calls, len(product.a)) == ([16, 16, 45], 100)


def test_a_bar_on_the_rate_counts_threads() -> None:
    entry = Entry(accumulator="h100", inputs="bf16", bar=2.0, bar_of="GMAC/s a thread")
    row = gemm._compared(entry, 512, 5.0, 80.0, threads=2)
    assert (row["ratio"], row["bar"], row["bar_of"], row["met"]) == (1 / 16, 2.0, "GMAC/s a thread", True)
    assert gemm._compared(entry, 512, 5.0, 80.0, threads=4)["met"] is False
    assert gemm._compared(entry, 500, 5.0, 80.0, threads=4)["met"] is None


def test_wrong_bits_are_counted() -> None:
    entry = Entry(accumulator="fp32_sequential", inputs="fp16")
    a, b = gemm.operands(20, "fp16")
    product = Product(entry, a, b)
    product()
    assert gemm._checked(product) == {"checked": 128, "wrong": 0, "digits": None}
    product.corner[0, 0] = -product.corner[0, 0]
    product.corner[7, 15] = np.nextafter(product.corner[7, 15], np.float32(np.inf))
    assert gemm._checked(product)["wrong"] == 2


def test_digits_hold_the_operands() -> None:
    """Bits from 2^0 to 2^-20 take four digits of 7; the two of 1.5 take one."""
    a, b = np.full((8, 4), 1 + 2**-10, np.float32), np.full((4, 4), 1.5, np.float32)
    a[3, 2] = 2.0**-20
    product = Product(Entry(accumulator="exact", inputs="fp16"), a, b)
    product()
    assert gemm._checked(product) == {"checked": 32, "wrong": 0, "digits": [4, 1]}


# Threads


def test_limits_hold_within_the_block() -> None:
    numba, control = import_module("numba"), import_module("threadpoolctl")

    def of_blas() -> set[int]:
        return {pool["num_threads"] for pool in control.threadpool_info() if pool["user_api"] == "blas"}

    before = (numba.get_num_threads(), of_blas())
    with threads.limited(1):
        assert (numba.get_num_threads(), of_blas() - {1}) == (1, set())
    assert (numba.get_num_threads(), of_blas()) == before


def test_without_control_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert threads.blas() is None
    with threads.limited(1):
        assert import_module("numba").get_num_threads() == 1


def test_blas_of_numpy_is_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = [
        {"user_api": "openmp", "filepath": "numpy"},
        {"user_api": "blas", "filepath": "scipy", "internal_api": "mkl", "version": "1"},
        {"user_api": "blas", "filepath": "numpy.libs/x.so", **BLAS, "num_threads": 2},
    ]
    monkeypatch.setattr(import_module("threadpoolctl"), "threadpool_info", lambda: pools)
    assert threads.blas() == BLAS
    pools.pop()
    assert threads.blas() == {"internal_api": "mkl", "version": "1", "architecture": None}
    pools.pop()
    assert threads.blas() is None


# Results


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """Two small sizes, measured once."""
    rows = [row for n in SIZES for row in gemm.rows(n, chosen=gemm.entries(NAMES), repeats=2, threads=1)]
    environment = {"cpu": "a processor", "cores": 2, "versions": {"numpy": "2.0", "absent": None}}
    return {"environment": environment, "blas": BLAS, "threads": 1, "repeats": 2, "data": gemm.DATA, "rows": rows}


def test_every_contender_is_measured(result: dict[str, Any]) -> None:
    found = [(row["size"], row["contender"], row["format"]) for row in result["rows"]]
    assert found == [(size, *contender) for size in SIZES for contender in MEASURED]


def test_rates_and_ratios_follow_from_the_times(result: dict[str, Any]) -> None:
    for size in SIZES:
        sgemm, *rows = [row for row in result["rows"] if row["size"] == size]
        assert (sgemm["ratio"], sgemm["checked"], sgemm["met"]) == (None, None, None)
        for row in (sgemm, *rows):
            assert 0 < row["seconds_best"] <= row["seconds_median"]
            assert (row["side"], row["rounds"]) == (size, 2)
            assert row["gmacs_per_second"] == pytest.approx(size**3 / row["seconds_best"] / 1e9)
        for row in rows:
            assert row["ratio"] == pytest.approx(sgemm["seconds_best"] / row["seconds_best"])
            assert (row["compared_with"], row["bar"], row["bar_of"], row["met"]) == (SGEMM, None, None, None)


def test_bits_are_equal_wherever_they_are_promised(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        promised = row["contender"] not in (SGEMM, "native")
        assert (row["checked"], row["wrong"]) == ((128, 0) if promised else (None, None))
        assert (row["digits"] is not None) == (row["contender"] == "exact")


def test_a_cut_product_says_so() -> None:
    product = Product(None, *gemm.operands(20, "fp32"))
    product.a, product.b = product.a[:10], product.b[:, :10]
    row = gemm._measured(product, Timing((2.0, 4.0, 4.5)))
    assert (row["size"], row["side"], row["rounds"]) == (20, 10, 3)
    assert row["gmacs_per_second"] == 10 * 10 * 20 / 2.0 / 1e9


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """With bars, one missed, and wrong bits."""
    rows = [dict(row) for row in result["rows"]]
    rows[1] |= {"ratio": 0.25, "bar": 0.9, "bar_of": "ratio", "met": False, "gmacs_per_second": 21.5}
    rows[2] |= {"ratio": 0.0015, "bar": 2.0, "bar_of": "GMAC/s a thread", "met": True, "wrong": 3,
                "gmacs_per_second": 0.05}  # fmt: skip
    return {**result, "rows": rows}


def test_printed_result(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_products(judged(result))
    machine, blas, data, empty, head, *lines = capsys.readouterr().out.splitlines()
    assert machine == "a processor, 2 cores, Numba on 1 threads; numpy 2.0"
    assert blas.startswith("NumPy's BLAS: openblas, 0.3, Haswell, on 1 threads; OPENBLAS_CORETYPE")
    assert gemm.DATA in data
    assert empty == ""
    assert head.split()[:3] == ["accumulator", "inputs", "k"]
    table, (empty, agreement, *digits) = lines[: len(result["rows"])], lines[len(result["rows"]) :]
    assert [line.split()[0] for line in table] == [row["contender"].split()[0] for row in result["rows"]]
    assert table[1].split()[-6:] == ["21.50", "0.25", ">=", "0.9", "NO", "yes"]
    assert table[2].split()[-8:] == ["0.0015", ">=", "2", "GMAC/s", "a", "thread", "yes", "NO"]
    assert empty == ""
    assert agreement.startswith("bits equal: NO, fp32_sequential (bf16) (")
    assert [line.split(":")[0] for line in digits] == ["exact, fp16, 24", "exact, fp16, 17"]
    a, b = next(row["digits"] for row in result["rows"] if row["digits"])
    assert digits[0].endswith(f"{a} x {b} digits of 7 bits, {a * b} INT8 products")


def test_agreement_and_an_unknown_blas(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_products({**result, "blas": None})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("NumPy's BLAS is unknown")
    assert any(line.startswith("bits equal: yes") for line in lines)


def test_markdown(result: dict[str, Any]) -> None:
    head, rule, *lines = gemm_markdown(judged(result)).splitlines()
    assert head == "| accumulator | inputs | n = 24 | n = 17 | bar |"
    assert rule == "| --- | --- | --- | --- | --- |"
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [(cells[0], cells[1]) for cells in found] == MEASURED
    assert "(" not in found[0][2]
    assert (found[1][2], found[1][4]) == ("**21.50 (0.25)**", ">= 0.9")
    assert (found[2][2], found[2][4]) == ("0.05 (0.0015)", ">= 2 GMAC/s a thread")


# The command


def test_json(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "gemm.json"
    code, out, err = cli(*QUICK, "--threads", 1, "--json", "--out", file)
    assert (code, err) == (0, "16 x 16 x 16, at most 2 rounds\n")
    result = json.loads(out)
    assert json.loads(file.read_text()) == result
    assert (result["benchmark"], result["threads"], result["repeats"]) == ("gemm", 1, 2)
    assert list(result["blas"]) == list(BLAS)
    assert result["environment"]["versions"]["numpy"] == np.__version__
    assert [(row["contender"], row["format"]) for row in result["rows"]] == MEASURED[:3]


def test_markdown_of_the_command(cli: Cli) -> None:
    code, out, _ = cli(*QUICK, "--markdown")
    assert code == 0
    assert out.startswith("| accumulator | inputs | n = 16 | bar |\n")
    assert len(out.splitlines()) == 5


def test_threads_need_control_of_blas(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert_sentence(cli.refused(tmp_path, *QUICK, "--threads", 1), "--threads", "threadpoolctl")
    assert cli(*QUICK, "--markdown")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("fp16",), ("'fp16'",)),
        (("--size", "0"), ("'0'", "1 to 8192")),
        (("--size", "512", "8193"), ("'8193'", "1 to 8192")),
        (("--size", "-4"), ("'-4'", "1 to 8192")),
        (("--size", "2^10"), ("'2^10'", "1 to 8192")),
        (("--size", "9" * 40), ("1 to 8192",)),
        (("--size",), ("--size",)),
        (("--accumulator",), ("--accumulator",)),
        (("--accumulator", "h100", "h1000"), ("'h1000'", "amx_bf16")),
        (("--repeats", "0"), ("'0'", "1 to 10000")),
        (("--threads", "0"), ("'0'", "1 to 10000")),
        (("--threads", "9999"), ("--threads is 9999", "give 1 to")),
        (("--out", "{folder}/none/x.json"), ("none", "not a folder")),
        (("--out", "{folder}"), ("is a folder", "a file in it")),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_one_line(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    words = [word.replace("{folder}", str(tmp_path)) for word in arguments]
    assert_sentence(cli.refused(tmp_path, "bench", "gemm", *words), *parts)
