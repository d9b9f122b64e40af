"""The table of experiments/README.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.catalogue import NAMES
from experiments.readme import BEGIN, END, README, records, rewritten, table

RECORD = {
    "experiment": "int4",
    "scale": "small",
    "outcome": "reproduced",
    "reason": "a minus b: +0.1 [+0.0, +0.2] points | and more",
    "seeds": 3,
    "seconds": 5400.0,
}


def folder(tmp_path: Path, *found: dict[str, object]) -> Path:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "verdicts.json").write_text(json.dumps(found))
    return tmp_path


def test_every_experiment_has_a_line(tmp_path: Path) -> None:
    lines = table(records([folder(tmp_path, RECORD)])).splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == list(NAMES)
    told = next(line for line in lines if "`int4`" in line)
    for part in ("[+0.0, +0.2] points \\| and more", "| reproduced |", "--scale small`", "1.5 h, 3 seed(s)"):
        assert part in told
    assert sum("not run yet" in line for line in lines) == len(NAMES) - 1


def test_every_scale_has_a_line_and_what_is_not_finished_none(tmp_path: Path) -> None:
    found = records(
        [folder(tmp_path, RECORD, RECORD | {"scale": "smoke"}, RECORD | {"outcome": None, "scale": "6b"})]
    )
    assert [one["scale"] for one in found["int4"]] == ["smoke", "small"]
    assert found["scale"] == []


def test_what_stands_around_the_table_stays() -> None:
    assert rewritten(f"a\n{BEGIN}\nold\n{END}\nb\n", {}) == f"a\n{BEGIN}\n{table({})}\n{END}\nb\n"
    for text in ("a", f"{BEGIN}\n", f"{END}\n"):
        with pytest.raises(ValueError, match="put it where the table goes"):
            rewritten(text, {})


def test_the_readme_is_what_the_command_writes() -> None:
    text = README.read_text()
    assert rewritten(text, records([README.parent / "results"])) == text
