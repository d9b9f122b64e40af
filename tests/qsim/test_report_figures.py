"""The numbers beside every figure are those of the run's files; the files of a figure stand alone."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import time
from collections import Counter
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from run_folders import (
    attribution,
    bell,
    counts,
    loss_curve,
    propagation,
    quantization,
    statistics,
    write_run,
    write_shadow,
    write_study,
)
from test_report import Page
from test_report_updates import SWALLOWED, WHAT_IF

from qsim import strict_json
from qsim.report import Report, read_report
from qsim.report.recorded import KINDS, parse_site, read_run
from qsim.report.sampled import without_significands
from qsim.report.sheet import NARROW, WIDE
from qsim.report.step_heat import draw_step_heat, rounding_heats, update_heats

UNITS = ("qkv", "logits", "softmax")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    """Of all there can be: replays that lose, skip, break and stop; shadows; attributions; updates by step."""
    base, replays = write_study(folder, steps=60, layers=2)
    for run in (base, replays[0]):
        for step in (20, 40):
            file = {"step": step, "sites": statistics(2, loses=True), "swallowed": SWALLOWED, "what_if": WHAT_IF}
            (run / f"statistics/step_{step:06d}.json").write_text(json.dumps(file))
    shadow = write_shadow(folder / "shadow", "fp8", [1e-3 * (i + 1) for i in range(9)])
    (folder / "costs.json").write_text(json.dumps(attribution(UNITS, broken="logits")))
    return read_report(base, [*replays, shadow], [folder / "costs.json"])


@pytest.fixture(scope="module")
def files(report: Report, folder: Path) -> dict[str, Path]:
    return {path.name: path for path in report.write_files(folder / "files")}


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def lines(run: Path, name: str = "metrics.jsonl") -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for line in (run / name).read_text().splitlines():
        row = json.loads(line)
        rows.setdefault(row["step"], {}).update(row)
    return rows


def number(text: str) -> float | None:
    return float(text) if text else None


def same(text: str, value: float | None) -> bool:
    found = number(text)
    if value is None or found is None:
        return found is value
    return found == value or (math.isnan(found) and math.isnan(value))


# Every figure


def test_every_figure_is_written_twice(report: Report, files: dict[str, Path]) -> None:
    names = [figure.name for figure in report.figures]
    assert len(names) == len(set(names))
    assert set(files) == {f"{name}.{ending}" for name in names for ending in ("svg", "csv")}
    kinds = Counter(re.sub(r"-\d.*", "", name) for name in names)
    assert set(kinds) == {
        *("loss", "exponents", "heat", "lost-by-step", "swallowed-by-step", "what-if"),
        *("errors", "depth", "costs", "scale", "int8"),
    }


def test_the_page_holds_the_same_numbers(report: Report, files: dict[str, Path], tmp_path: Path) -> None:
    page = Page(report.write(tmp_path / "page.html"))
    given = re.findall(r'href="data:text/csv;charset=utf-8,([^"]*)" download="([^"]*)"', page.source)
    held = {name: unquote(unescape(text)) for text, name in given}
    assert held == {name: path.read_text() for name, path in files.items() if name.endswith(".csv")}


def test_pictures_stand_alone(files: dict[str, Path]) -> None:
    for name, path in files.items():
        if name.endswith(".svg"):
            source = path.read_text(encoding="utf-8")
            tree = ElementTree.fromstring(source)
            assert tree.tag == "{http://www.w3.org/2000/svg}svg"
            assert tree.findall(".//{http://www.w3.org/2000/svg}text")
            assert not re.search(r"var\(|currentColor|@import|<script|<image|#0000[0-5a]\d\b", source)
            assert set(re.findall(r"https?://[^\"]*", source)) <= {
                "http://www.w3.org/2000/svg",
                "http://www.w3.org/1999/xlink",
            }
            ids = set(re.findall(r'\bid="([^"]*)"', source))
            assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', source)) <= {(i, "") for i in ids} | {
                ("", i) for i in ids
            }


def test_json_says_what_the_page_says(report: Report) -> None:
    found = strict_json.loads(strict_json.dumps(report.as_json()))
    assert found["headline"].startswith("fp16-noscale ended at a loss")
    assert [row["label"] for row in found["runs"]][:2] == ["fp32", "bf16"]
    assert [row["shadow"] for row in found["runs"]] == [False] * 6 + [True]
    assert [row["steps"] for row in found["runs"]] == [60, 60, 60, 60, 121, 30, 9]
    assert all(Path(row["path"]).is_dir() for row in found["runs"])
    for figure in report.figures:
        assert found["figures"][figure.name]["columns"] == list(figure.numbers.columns)
        assert len(found["figures"][figure.name]["rows"]) == len(figure.numbers.rows)
    assert found["sites"].keys() == {"bf16", "fp16", "fp16-noscale", "fp16-pure", "fp8 shadow"}
    assert found["attributions"][0]["alone"] == attribution(UNITS, broken="logits")["alone"]
    assert found["quantization"]["tokens"] == 65_536


# Figure by figure, against the files


def test_losses(files: dict[str, Path], folder: Path) -> None:
    base, pure = lines(folder / "fp32"), lines(folder / "replays/fp16-pure")
    rows = rows_of(files["loss.csv"])
    assert [int(row["step"]) for row in rows] == list(range(1, 122))
    for row in rows:
        step = int(row["step"])
        left, right = (run.get(step, {}).get("loss") for run in (base, pure))
        assert same(row["loss of fp32"], left)
        assert same(row["loss of fp16-pure"], right)
        both = left is not None and right is not None and math.isfinite(right)
        assert same(row["fp16-pure minus fp32"], right - left if both else None)
    assert [int(row["step"]) for row in rows if row["fp16 skipped"] == "1"] == [2, 3]


def test_losses_that_are_not_finite(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "fp16", [2.0, math.nan, math.inf, -math.inf, 1.0])
    figure = read_report(run, []).figures[0]
    assert figure.numbers.csv() == "step,loss of fp16\n1,2.0\n2,NaN\n3,Infinity\n4,-Infinity\n5,1.0\n"


def test_loss_scales(files: dict[str, Path], folder: Path) -> None:
    scales = lines(folder / "replays/fp16")
    rows = rows_of(files["scale.csv"])
    assert {int(row["step"]) for row in rows} >= scales.keys()
    for row in rows:
        assert same(row["loss scale of fp16"], scales[int(row["step"])]["loss_scale"])


def test_exponents(files: dict[str, Path], folder: Path) -> None:
    wanted: Counter[tuple[str, int]] = Counter()
    for path in (folder / "fp32/statistics").iterdir():
        for name, record in json.loads(path.read_text())["sites"].items():
            kind = KINDS[parse_site(name)[2]]
            wanted.update({(kind, int(exponent)): n for exponent, n in record["exponents"].items()})
    rows = rows_of(files["exponents.csv"])
    assert {(row["kind"], int(row["exponent"])): int(row["values"]) for row in rows} == +wanted
    for row in rows:
        exponent = int(row["exponent"])
        below, subnormal, normal = exponent < -24, -24 <= exponent < -14, -14 <= exponent <= 15
        assert row["in fp16"] == ("below" if below else "subnormal" if subnormal else "normal" if normal else "above")
        assert row["in bf16"] == "normal"


def test_losses_by_layer(files: dict[str, Path], folder: Path) -> None:
    run = folder / "replays/fp16-noscale"
    sites = json.loads(next((run / "statistics").iterdir()).read_text())["sites"]
    name = next(name for name in files if name.startswith("heat-") and "noscale.csv" in name)
    rows = rows_of(files[name])
    lossy = {parse_site(key)[1] for key, record in sites.items() if record["underflowed"] + record["overflowed"]}
    assert len(rows) == sum(parse_site(key)[1] in lossy for key in sites)
    assert {row["site"] for row in rows} == lossy
    for row in rows:
        key = ".".join([*(["layer", row["layer"]] if row["layer"] else []), row["site"], row["pass"]])
        assert int(row["underflowed"]) == sites[key]["underflowed"]
        assert int(row["overflowed"]) == sites[key]["overflowed"]
        assert int(row["nonzero"]) == sites[key]["count"] - sites[key]["zero"]


def test_losses_by_step(files: dict[str, Path], folder: Path) -> None:
    run = folder / "replays/bf16"
    rows = rows_of(files["lost-by-step-1-bf16.csv"])
    found = {(int(row["step"]), row["site"], row["pass"]): row for row in rows}
    assert {step for step, _, _ in found} == {20, 40, 60}
    for step in (20, 40, 60):
        sites = json.loads((run / f"statistics/step_{step:06d}.json").read_text())["sites"]
        wanted: dict[tuple[str, str], Counter[str]] = {}
        for key, record in sites.items():
            total = wanted.setdefault(parse_site(key)[1:], Counter())
            total.update({name: record[name] for name in ("count", "zero", "underflowed", "overflowed")})
        drawn = {place[1:] for place in found}
        for place in drawn:
            row, total = found[step, *place], wanted[place]
            assert [int(row[name]) for name in ("nonzero", "underflowed", "overflowed")] == [
                total["count"] - total["zero"],
                total["underflowed"],
                total["overflowed"],
            ]
        if step < 60:
            assert {place for place, total in wanted.items() if total["underflowed"] + total["overflowed"]} == drawn


def test_swallowed_by_step(files: dict[str, Path]) -> None:
    rows = rows_of(files["swallowed-by-step-1-bf16.csv"])
    assert [list(row.values()) for row in rows] == [
        [step, name, updates, lost]
        for name, updates, lost in (("embedding.tokens", "100", "1"), ("qkv.weight", "400", "150"))
        for step in ("20", "40")
    ]


def test_gradients_under_other_scales(files: dict[str, Path]) -> None:
    rows = {row["exponent of the scale"]: row for row in rows_of(files["what-if.csv"])}
    assert [rows["-8"][name] for name in ("format", "underflowed", "overflowed", "nonzero")] == [
        "fp16",
        "10",
        "0",
        "20",
    ]
    assert (rows["24"]["overflowed"], rows["0"]["underflowed"]) == ("4", "0")


def test_errors_of_a_shadow(files: dict[str, Path], folder: Path) -> None:
    recorded = lines(folder / "shadow")
    rows = rows_of(files["errors.csv"])
    assert len(rows) == 9
    for row in rows:
        own = recorded[int(row["step"])]
        assert float(row["error of the gradients, fp8 shadow"]) == own["gradient_error"]
        assert float(row["error of the update, fp8 shadow"]) == own["update_error"]


def test_errors_by_depth_keep_the_order_of_computing(files: dict[str, Path]) -> None:
    wanted = propagation(2)
    rows = rows_of(files["depth.csv"])
    for way in ("fprop", "dgrad", "wgrad"):
        keys = [key for key in wanted if key.endswith(way)]
        own = [row for row in rows if row["pass"] == way]
        assert [int(row["place"]) for row in own] == list(range(1, len(keys) + 1))
        assert [(row["site"], row["layer"]) for row in own] == [
            (site, "" if layer is None else str(layer)) for layer, site, _ in map(parse_site, keys)
        ]
        assert [(float(row["rounding"]), float(row["error"])) for row in own] == [
            (wanted[key]["rounding"], wanted[key]["error"]) for key in keys
        ]
    assert {row["step"] for row in rows} == {"9"}


def test_costs(files: dict[str, Path]) -> None:
    rows = rows_of(files["costs-1-fp32-fp16.csv"])
    given = attribution(UNITS, broken="logits")
    wanted = {
        (one["unit"], one["way"]): one["gradient"] for one in (given["whole"], *given["alone"], *given["all_but"])
    }
    assert len(rows) == len(wanted)
    for row in rows:
        for column, name in (("gradient error", "mean"), ("low", "low"), ("high", "high")):
            assert same(row[column], wanted[row["unit"], row["way"]][name])


def test_integers(files: dict[str, Path]) -> None:
    rows = rows_of(files["int8.csv"])
    wanted = quantization(2)["layers"]
    assert [{name: number(row[name]) for name in row if name != "site"} for row in rows] == [
        {name: row[name] for name in row if name != "site"} for row in wanted
    ]


# What the pictures leave out


def test_columns_of_many_steps_show_the_largest_share(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "fp16", loss_curve(500), sites={})
    for step in range(1, 501):
        sites = {"layer.0.qkv.dgrad": counts({0: 100}, underflowed=50 * (step == 250))}
        (run / f"statistics/step_{step:06d}.json").write_text(json.dumps({"step": step, "sites": sites}))
    found = read_run(run)
    (heat,) = rounding_heats(found)
    assert sum(lost for lost, _ in heat.rows["qkv dgrad"].values()) == 50
    for width in (WIDE, NARROW):
        axes = draw_step_heat([heat], found.sampled, width).figure.axes[0]
        assert axes.get_xlim()[1] * 4 <= axes.bbox.width + 4
        darkest = max(axes.patches, key=lambda patch: patch.get_alpha() or 0)
        assert darkest.get_alpha() > 0.8
        assert len(darkest.get_path().vertices) == 5


def test_steps_without_a_count_stay_blank(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "fp16", loss_curve(2), sites=statistics(1))
    file = {"step": 1, "sites": {}, "swallowed": SWALLOWED}
    (run / "statistics/step_000001.json").write_text(json.dumps(file))
    found = read_run(run)
    assert found.sampled == (1, 2)
    assert list(update_heats(found)[0].rows["qkv.weight"]) == [1]
    assert rounding_heats(found) == []


@pytest.mark.exhaustive
def test_ten_thousand_steps_take_less_than_ten_seconds(tmp_path: Path) -> None:
    """Seconds of this process alone, whatever else the machine does; files as large as those of a tiny model."""
    scales = [65536.0 * 2 ** -(i // 700 % 5) for i in range(10_000)]
    skipped = range(1, 10_000, 19)
    run = write_run(tmp_path / "a", "fp16", loss_curve(10_000), scales=scales, skipped=skipped, sites={})
    sites = statistics(2, loses=True)
    for record in sites.values():
        record["significands"] = {exponent: [1000 + i for i in range(24)] for exponent in record["exponents"]}
    text = json.dumps({"step": -1, "sites": sites, "swallowed": SWALLOWED, "what_if": WHAT_IF}, indent=1)
    assert len(text) > 200_000
    for step in range(10, 10_001, 10):
        (run / f"statistics/step_{step:06d}.json").write_text(text.replace("-1,", f"{step},", 1))
    began = time.process_time()
    page = read_report(run, []).write(tmp_path / "page.html")
    assert time.process_time() - began < 10
    assert page.stat().st_size < 8_000_000


def test_significands_are_cut_and_nothing_else() -> None:
    record = counts(bell(-3, 2, 100)) | {"significands": {"-3": [0, 1, 2], "-2": [5]}, "after": {"a": [1]}}
    for indent in (None, 1):
        text = json.dumps(
            {"step": 1, "sites": {"x.fprop": record, 'y "significands": {.dgrad': record}}, indent=indent
        )
        cut = json.loads(without_significands(text.encode()))
        assert cut["sites"].keys() == {"x.fprop", 'y "significands": {.dgrad'}
        for one in cut["sites"].values():
            assert one == record | {"significands": {}}
    assert without_significands(b'{"significands": {"1": [') == b'{"significands": {"1": ['
