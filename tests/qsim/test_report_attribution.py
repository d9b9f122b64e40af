"""Attributions and shadows on the page: rows of their files, sentences, and files that are neither."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from run_folders import attribution, loss_curve, write_run, write_shadow
from test_report import Page, _plain

from qsim.report import ReportError, read_report, write_report
from qsim.report.costs import read_attribution

MINIMAL: dict[str, Any] = {
    "base": "fp32",
    "other": "fp8",
    "first": 0,
    "steps": 10,
    "tolerance": 0.01,
    "kept": ["logits", "softmax"],
    "deviation": 0.0042,
    "without": 0.75,
    "smallest": True,
    "tried": 12,
    "search": "greedy over 16 units",
}


def page_with(tmp_path: Path, *values: dict[str, Any]) -> Page:
    base = write_run(tmp_path / "a", "fp32", loss_curve(3))
    paths = [tmp_path / f"{i}.json" for i in range(len(values))]
    for path, value in zip(paths, values, strict=True):
        path.write_text(json.dumps(value))
    return Page(write_report(base, [], tmp_path / "page.html", attributions=paths))


def test_costs_repeat_the_file(tmp_path: Path) -> None:
    page = page_with(tmp_path, attribution(["qkv", "logits"], broken="logits"))
    assert page.row("everything", "all")[2:4] == ["1", "0.9 to 1.2"]
    assert page.row("qkv", "alone")[2:] == [
        *("0.5", "0.45 to 0.6", "0.5", "0.45 to 0.6", "+0.5000", "+0.4500 to +0.6000", "7", "0", "0")
    ]
    assert page.row("logits", "all but")[2:6] == ["–", "–", "–", "–"]
    assert page.row("qkv: input", "alone, a part")
    assert "Weights after step 3, 2 batches, loss scale 1024." in page.text()
    assert page.tags.count("svg") == 4  # losses and costs, on a desk and a phone


def test_more_units_than_bars(tmp_path: Path) -> None:
    page = page_with(tmp_path, attribution([f"layer.{i}.qkv" for i in range(40)]))
    assert "The 10 cheapest are in the table alone." in page.text()
    assert page.row("layer.39.qkv", "alone")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "With the rest in fp8, losses lay within 0.01 of the recorded ones over 10 steps where these stay in "
             "fp32: logits, softmax; at most 0.0042 apart, and 0.75 with none (12 short runs; "
             "greedy over 16 units)."),
        ({"kept": []}, "Nothing had to stay in fp32: all in fp8, losses lay within 0.01"),
        ({"kept": None, "deviation": "Infinity"}, "No set of sites of fp32 kept the losses within 0.01"),
        ({"kept": ["logits"], "steps": 1, "without": "Infinity"}, "over 1 step where this one stays in fp32: logits"),
    ],
)  # fmt: skip
def test_a_minimal_set_is_a_sentence(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    assert words in page_with(tmp_path, MINIMAL | change).text()


def test_several_files(tmp_path: Path) -> None:
    page = page_with(tmp_path, attribution(["qkv"]), MINIMAL, attribution(["qkv"]))
    assert page.text().count("fp32 to fp16") >= 2
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"kept": []}', json.dumps(attribution(["qkv"]) | {"alone": []})])
def test_files_that_are_no_attribution(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ReportError, match=r"x\.json .*"):
        read_attribution(path)
    with pytest.raises(ReportError, match=r"none\.json is no file; name one"):
        read_attribution(tmp_path / "none.json")


# Shadows


def test_a_shadow_is_no_replay(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", "fp32", loss_curve(4))
    shadow = write_shadow(tmp_path / "b", "fp8", [0.01, 0.031, math.nan, 0.02])
    report = read_report(base, [shadow])
    assert (report.replays, len(report.shadows)) == ([], 1)
    page = Page(report.write(tmp_path / "page.html"))
    assert page.row("fp8 shadow")[1] == "4"
    words = "from the same weights, the gradients of fp8 shadow lay up to 3.1 % off, at step 2."
    assert words in page.text()
    assert page.row("fp8 shadow", "fprop", "1")[3:] == ["embedding", "0.001", "0.001"]
    assert report.figures[0].numbers.columns == ("step", "loss of fp32")


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("errors", [[0.0], [math.nan] * 3, [0.0, 0.0], [1e-3]])
def test_shadows_without_an_error_or_a_finite_one(tmp_path: Path, errors: list[float]) -> None:
    base = write_run(tmp_path / "a", "fp32", loss_curve(3))
    shadow = write_shadow(tmp_path / "b", "fp8", errors)
    assert "fp8 shadow" in Page(write_report(base, [shadow], tmp_path / "page.html")).text()


def test_a_shadow_alone(tmp_path: Path) -> None:
    shadow = write_shadow(tmp_path / "b", "fp8", [0.01, 0.02])
    page = Page(write_report(shadow, [], tmp_path / "page.html"))
    assert "Error by depth" in page.source
    assert _plain("fp8 shadow took the loss from") in page.text()
