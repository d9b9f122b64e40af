"""Swallowed updates and gradients under other scales in the report: the numbers of the files, summed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_folders import loss_curve, statistics, write_run
from test_report import Page

from qsim.report import write_report
from qsim.report.loss_scales import draw_what_if
from qsim.report.recorded import read_run
from qsim.report.sheet import NARROW, WIDE
from qsim.report.updates import Swallowed, SwallowedSums, WhatIf, WhatIfSums, by_parameter
from qsim.what_if import SCALES


def update(count: int, swallowed: int, *, decays: int = 0, lost_decays: int = 0, fp16: int = 0) -> dict[str, Any]:
    return {
        "format": "bf16",
        "count": count,
        "updates": count,
        "swallowed": swallowed,
        "swallowed_directions": swallowed,
        "decays": decays,
        "swallowed_decays": lost_decays,
        "swallowed_in": {"fp16": fp16, "bf16": swallowed},
    }


SWALLOWED = {
    "embedding.tokens": update(100, 1),
    "layer.0.qkv.weight": update(200, 50, decays=200, lost_decays=199, fp16=10),
    "layer.1.qkv.weight": update(200, 100, decays=200, lost_decays=200, fp16=20),
}
WHAT_IF = {
    "embedding.tokens": {"count": 9, "finite": 8, "formats": {"fp16": {"underflowed": {"-8": 4}, "overflowed": {}}}},
    "layer.0.qkv.weight": {
        "count": 2,
        "finite": 2,
        "formats": {"fp16": {"underflowed": {"-8": 1, "-7": 1}, "overflowed": {"24": 2}}},
    },
}


def recorded(folder: Path, **parts: Any) -> Path:
    """Two sampled steps that say the same."""
    run = write_run(folder, "bf16-nomaster", loss_curve(4), sites=statistics(1))
    for step in (3, 4):
        path = run / f"statistics/step_{step:06d}.json"
        path.write_text(json.dumps({"step": step, "sites": {}} | parts))
    return run


def summed_updates(files: list[dict[str, Any]]) -> tuple[Swallowed, ...]:
    sums = SwallowedSums()
    for step, file in enumerate(files, start=1):
        sums.add(step, file)
    return sums.total()


def summed_gradients(files: list[dict[str, Any]]) -> WhatIf | None:
    sums = WhatIfSums()
    for file in files:
        sums.add(file)
    return sums.total()


def test_layers_of_a_parameter_are_summed_worst_first() -> None:
    found = by_parameter(summed_updates([SWALLOWED, SWALLOWED]))
    assert [one.name for one in found] == ["qkv.weight", "embedding.tokens"]
    assert (found[0].counts["updates"], found[0].counts["swallowed"], found[0].elsewhere["fp16"]) == (800, 300, 60)


def test_gradients_are_summed_over_parameters_and_steps() -> None:
    found = summed_gradients([WHAT_IF, WHAT_IF])
    assert found is not None
    assert found.finite == 20
    assert (dict(found.underflowed["fp16"]), dict(found.overflowed["fp16"])) == ({-8: 10, -7: 2}, {24: 4})
    assert summed_gradients([{}]) is None


def test_tables_repeat_the_files(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", swallowed=SWALLOWED, what_if=WHAT_IF)
    page = Page(write_report(run, [], tmp_path / "report.html"))
    row = page.row("qkv.weight")
    assert row == ["qkv.weight", "bf16", "800", "37.5 %", "300", "800", "99.8 %", "798", "7.5 %", "37.5 %"]
    assert page.row("layer.1.qkv.weight", "bf16", "400", "50.0 %")
    assert page.row("2⁻⁸") == ["2⁻⁸", "50.0 %", "0"]
    assert page.row("2²⁴") == ["2²⁴", "0", "20.0 %"]
    assert page.source.count('id="what-if-') > 0


@pytest.mark.parametrize("parts", [{}, {"swallowed": None, "what_if": {}}], ids=["older", "skipped"])
def test_runs_that_counted_neither(tmp_path: Path, parts: dict[str, Any]) -> None:
    page = Page(write_report(recorded(tmp_path / "run", **parts), [], tmp_path / "report.html"))
    assert "No run counted its updates." in page.text()
    assert "No run counted its gradients." in page.text()
    assert read_run(tmp_path / "run").swallowed == ()


def test_nothing_lost_is_drawn_too() -> None:
    found = summed_gradients([{"w": {"finite": 1, "formats": {"bf16": {"underflowed": {}, "overflowed": {}}}}}])
    assert found is not None
    for width in (WIDE, NARROW):
        assert draw_what_if(found, SCALES, width).figure.axes[0].get_ylim() == (0, 1)
