"""``qsim bench``: contenders take turns, ratios follow from the times, bars are judged, peers may be absent."""

from __future__ import annotations

import json
import sys
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import Cli
from small_runs import assert_sentence

from qsim.bench import measurement, rounding
from qsim.bench.markdown import markdown
from qsim.bench.measurement import Comparison, Contender, Timing, measure
from qsim.bench.peers import PEERS
from qsim.bench.table import print_comparison

QUICK = ("bench", "rounding", "--size", 4096, "--repeats", 2)
OURS = ["round_to (Numba)", "round_with_statistics (Numba)", "round_to, stochastic (Numba)", "round_to (JAX jit)"]
bandwidth = import_module("precision.backends.numba_.bandwidth")


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "SAMPLE_SECONDS", 1e-5)


# Measuring


def test_contenders_take_turns() -> None:
    calls: list[str] = []

    def contender(name: str) -> Contender:
        return Contender(name=name, call=lambda: calls.append(name), values=1)

    timings = measure([contender("a"), contender("b")], repeats=3)
    assert [len(timing.samples) for timing in timings] == [3, 3]
    turns = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert turns == ["a", "b"] * 4  # once to compile and to see how long a call takes, then three rounds


def test_a_budget_leaves_rounds_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pauses = [0.0], []
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measurement.time, "sleep", pauses.append)

    def contender(seconds: float) -> Contender:
        return Contender(name="", call=lambda: clock.append(clock.pop() + seconds), values=1)

    timings = measure([contender(s) for s in (0.125, 1.0, 3.0)], repeats=5, pause=0.5, budget=2.0)
    assert [timing.samples for timing in timings] == [(0.125,) * 5, (1.0,) * 2, (3.0,)]
    assert pauses == [0.5] * 8


def test_best_and_median() -> None:
    timing = Timing((3.0, 1.0, 2.0, 9.0))
    assert (timing.best, timing.median) == (1.0, 2.5)


@pytest.mark.parametrize(
    ("quantity", "limit", "ratio", "met"),
    [
        ("speed", 0.5, 0.5, True),
        ("speed", 0.51, 0.5, False),
        ("time", 2.0, 2.0, True),
        ("time", 1.99, 2.0, False),
        ("time", None, 2.0, None),
    ],
)
def test_bars(quantity: Any, limit: float | None, ratio: float, met: bool | None) -> None:
    comparison = Comparison(quantity=quantity, other="x", limit=limit)
    assert comparison.ratio(own_time=4.0, other_time=2.0) == ratio
    assert comparison.met(ratio) is met


def test_bars_stand_at_two_sizes_only() -> None:
    def bars(size: int) -> dict[str, set]:
        entered = [*rounding.numba_contenders(np.zeros(size, np.float32))]
        entered += rounding.jax_contenders(np.zeros(size, np.float32))
        return {c.name: {(c.comparison.quantity, c.comparison.limit)} for c in entered if c.comparison}

    expected = [("speed", 0.5), ("time", 2.0), ("time", 3.0), ("speed", 0.8)]
    assert bars(1 << 18) == {name: {bar} for name, bar in zip(OURS, expected, strict=True)}
    assert bars(4096) == {name: {(bar[0], None)} for name, bar in zip(OURS, expected, strict=True)}
    assert rounding.COPY_BARS == {1 << 26: 0.9, 1 << 18: 0.5}


def test_data_has_results_of_every_kind() -> None:
    x = np.abs(rounding.values(4096))
    for largest, smallest_normal, smallest in ((65504, 2.0**-14, 2.0**-24), (448, 2.0**-6, 2.0**-9)):
        kinds = [x < smallest / 4, (x > smallest) & (x < smallest_normal), x > largest, (x > 1) & (x < largest)]
        assert all(kind.any() for kind in kinds)
    assert (rounding.values(4096).view(np.uint32) == rounding.values(4096).view(np.uint32)).all()


def test_threads_hold_within_the_block() -> None:
    numba = sys.modules["numba"]
    before, most = numba.get_num_threads(), bandwidth.most_threads()
    with bandwidth.threads(1):
        assert numba.get_num_threads() == 1
        with bandwidth.threads(most):
            assert numba.get_num_threads() == most
        assert numba.get_num_threads() == 1
    assert numba.get_num_threads() == before


@pytest.mark.parametrize("parallel", [True, False])
def test_copy(parallel: bool) -> None:
    x = np.arange(1000, dtype=np.uint32).view(np.float32)
    out = np.full_like(x, 7)
    bandwidth.copy(x, out, parallel=parallel)
    assert (out.view(np.uint32) == x.view(np.uint32)).all()


# Results


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """Two small sizes, measured once."""
    rows = [
        row for size in (4096, 5000) for row in rounding.rows(size, repeats=2, threads=1, with_peers=False)
    ]  # fmt: skip
    environment = {"cpu": "a processor", "cores": 2, "versions": {"numpy": "2.0", "absent": None}}
    head = {"environment": environment, "threads": 1, "repeats": 2, "data": rounding.DATA}
    return {**head, "peers": {"ml_dtypes": "0.5", "gfloat": None}, "rows": rows}


def test_every_contender_is_measured(result: dict[str, Any]) -> None:
    found = [(row["contender"], row["format"]) for row in result["rows"] if row["values"] == 4096]
    copies = [("copy (Numba)", None), ("copy (Numba, one thread)", None)]
    rounded = [(name, fmt) for fmt in rounding.FORMATS for name in [*OURS, rounding.CAST]]
    assert sorted(found, key=str) == sorted(copies + rounded, key=str)


def test_ratios_follow_from_the_times(result: dict[str, Any]) -> None:
    for size in (4096, 5000):
        rows = {(r["contender"], r["format"]): r for r in result["rows"] if r["values"] == size}
        copy = min(row["seconds_best"] for (name, _), row in rows.items() if name.startswith("copy"))
        for (_, fmt), row in rows.items():
            assert 0 < row["seconds_best"] <= row["seconds_median"]
            assert row["values_per_second"] == pytest.approx(size / row["seconds_best"])
            assert row["speed_to_copy"] == pytest.approx(copy / row["seconds_best"])
            if row["ratio"] is None:
                continue
            other = copy if row["compared_with"] == "copy" else rows[row["compared_with"], fmt]["seconds_best"]
            by_time = row["ratio"] if row["quantity"] == "time" else 1 / row["ratio"]
            assert by_time == pytest.approx(row["seconds_best"] / other)


def test_what_rounds_to_nearest_is_right(result: dict[str, Any]) -> None:
    checked = {(row["contender"], row["format"], row["wrong"]) for row in result["rows"] if row["wrong"] is not None}
    names = ("round_to (Numba)", "round_to (JAX jit)")
    assert {(name, fmt, 0) for name in names for fmt in rounding.FORMATS} <= checked


def test_wrong_bits_are_counted() -> None:
    right = np.float32([1.5, np.nan, 0.0, np.inf])
    off = np.float32([1.5, -np.nan, -0.0, 65504.0]).astype(np.float64)
    contender = Contender(name="x", call=lambda: off, values=4, format="fp16", claims_nearest=True)
    assert rounding._wrong(contender, {"fp16": right}) == 2


def test_printed_result(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    judged = [dict(row) for row in result["rows"]]
    judged[2] |= {"quantity": "speed", "ratio": 0.25, "bar": 0.5, "met": False}
    print_comparison({**result, "rows": judged})
    machine, data, empty, head, *lines = capsys.readouterr().out.splitlines()
    assert machine == "a processor, 2 cores, Numba on 1 threads; numpy 2.0"
    assert rounding.DATA in data
    assert empty == ""
    assert head.split()[0] == "contender"
    assert lines[-1] == "absent: gfloat; the extra 'peers' installs it"
    assert len(lines) == 1 + len(result["rows"])
    assert lines[0].startswith("copy (Numba)  ")
    assert "  2^12  " in lines[0]
    assert any("  5000  " in line for line in lines)
    assert "0.25 x the speed of copy" in lines[2]
    assert lines[2].split()[-4:] == [">=", "0.5", "NO", "0"]


def test_markdown(result: dict[str, Any]) -> None:
    judged = [dict(row) for row in result["rows"] if row["format"] != "bf16" or row["contender"] != OURS[1]]
    for row in judged:
        if row["contender"] == OURS[1]:
            row |= {"ratio": 2.125, "bar": 2.0, "met": False}
        elif row["contender"] == OURS[2]:
            row |= {"ratio": 0.00512, "bar": 3.0, "met": True}
    head, rule, *lines = markdown({**result, "rows": judged}).splitlines()
    assert head == "| contender | values | ratio | fp16 | bf16 | e4m3fn | bar |"
    assert rule == "| --- | --- | --- | --- | --- | --- | --- |"
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [(cells[0], cells[1]) for cells in found] == [(name, size) for size in ("2^12", "5000") for name in OURS]
    ratio = "time / time of round_to (Numba)"
    assert found[1] == [OURS[1], "2^12", ratio, "**2.12**", "", "**2.12**", "<= 2"]
    assert found[2][3:] == ["0.0051", "0.0051", "0.0051", "<= 3"]
    assert [cells[-1] for cells in found] == ["", "<= 2", "<= 3", ""] * 2


# The command


def test_benchmarks_are_listed(cli: Cli) -> None:
    names = ["rounding", "gemm", "quantizers", "train", "replay", "compile", "inference"]
    assert [row["benchmark"] for row in cli.rows("bench")] == names
    assert [line.split()[0] for line in cli("bench")[1].splitlines()] == ["benchmark", *names]


def test_json(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "rounding.json"
    code, out, err = cli(*QUICK, "--threads", 1, "--json", "--out", file)
    assert (code, err) == (0, "4,096 values, 2 rounds\n")
    result = json.loads(out)
    assert json.loads(file.read_text()) == result
    assert (result["benchmark"], result["threads"], result["repeats"], result["peers"]) == ("rounding", 1, 2, None)
    assert result["environment"]["cpu"]
    assert result["environment"]["versions"]["numpy"] == np.__version__
    assert {row["bar"] for row in result["rows"]} == {None}


def fake_peers(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("qsim.bench.peers.metadata.version", version)


def test_absent_peers_are_reported(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "jax_contenders", lambda _: [])
    monkeypatch.setattr("qsim.runs.environment", lambda: {"cpu": "", "cores": 1, "versions": {}})
    fake_peers(monkeypatch, {"ml_dtypes": "0.5"})
    code, out, _ = cli(*QUICK, "--peers")
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.startswith("astype (ml_dtypes)")]
    assert [(row[2], row[-1]) for row in rows] == [("fp16", "0"), ("bf16", "0"), ("e4m3fn", "0")]
    absent = [line.split(";")[0] for line in out.splitlines() if line.startswith("absent")]
    assert absent == ["absent: gfloat", "absent: pychop"]


def test_peers_are_asked_for_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for both libraries: which format, how many values, no warning let through."""
    infos = SimpleNamespace(format_info_binary16="h", format_info_bfloat16="b", format_info_ocp_e4m3="f")
    monkeypatch.setitem(sys.modules, "gfloat", SimpleNamespace(round_ndarray=lambda info, x: (info, x.size)))
    monkeypatch.setitem(sys.modules, "gfloat.formats", infos)
    chop = SimpleNamespace(Chop=lambda **kw: lambda x: ((kw["exp_bits"], kw["sig_bits"]), np.float32(x[0]) * 3e38))
    monkeypatch.setitem(sys.modules, "pychop", chop)
    x = np.full((1 << 20) + 1, 9, np.float32)
    entered = [contender for peer in PEERS[1:] for contender in peer.contenders(x, "ours")]
    assert [c.call()[0] for c in entered] == ["h", "b", "f", (5, 10), (8, 7)]
    assert {c.values for c in entered} == {1 << 20}
    assert {c.comparison.other for c in entered if c.comparison} == {"ours"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("bench", "rouding"), ("'rouding'", "rounding")),
        (("bench", "rounding", "fp16"), ("'fp16'",)),
        (("bench", "rounding", "--size", "0"), ("'0'", "1 to 2^28")),
        (("bench", "rounding", "--size", "-5"), ("'-5'", "1 to 2^28")),
        (("bench", "rounding", "--size", "4096", "2^29"), ("'2^29'", "1 to 2^28")),
        (("bench", "rounding", "--size", "2^2^3"), ("'2^2^3'", "1 to 2^28")),
        (("bench", "rounding", "--size", "9" * 40), ("1 to 2^28",)),
        (("bench", "rounding", "--size", "1e6"), ("'1e6'", "1 to 2^28")),
        (("bench", "rounding", "--size"), ("--size",)),
        (("bench", "rounding", "--repeats", "0"), ("'0'", "1 to 10000")),
        (("bench", "rounding", "--repeats", "2.5"), ("'2.5'", "1 to 10000")),
        (("bench", "rounding", "--threads", "0"), ("'0'", "1 to 10000")),
        (("bench", "rounding", "--threads", "9999"), ("--threads is 9999", "give 1 to")),
        (("bench", "rounding", "--out", "{folder}/none/x.json"), ("none", "not a folder")),
        (("bench", "rounding", "--out", "{folder}"), ("is a folder", "a file in it")),
    ],
    ids=lambda value: " ".join(value[2:]) if value[0] == "bench" else None,
)
def test_bad_input_is_one_line(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    words = [word.replace("{folder}", str(tmp_path)) for word in arguments]
    assert_sentence(cli.refused(tmp_path, *words), *parts)
