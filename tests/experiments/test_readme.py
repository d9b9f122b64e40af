"""The table of experiments/README.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import moved
from experiments.catalogue import NAMES
from experiments.quantizing import SCHEMES
from experiments.readme import README, markers, records, rewritten, table, with_tables

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
    begin, end = markers("of it")
    assert rewritten(f"a\n{begin}\nold\n{end}\nb\n", "of it", "| new |") == f"a\n{begin}\n| new |\n{end}\nb\n"
    for text in ("a", f"{begin}\n", f"{end}\n"):
        with pytest.raises(ValueError, match="put it where the table goes"):
            rewritten(text, "of it", "")


def test_what_schemes_move_is_counted_over_rows_that_learned(tmp_path: Path) -> None:
    head = ["label", "scale", "seed", "unigram_entropy", "loss_pre", *(f"loss_{name}" for name in SCHEMES)]
    losses = [(4.0, 4.1), (4.0, 3.8), (5.0, 5.05), (6.5, 9.0), (25.0, 30.0)]
    rows = [
        ["a", "small", str(i), "8.0", str(pre), *[str(post)] * len(SCHEMES)] for i, (pre, post) in enumerate(losses)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(",".join(row) for row in [head, *rows]))
    first, *others = moved.lines([tmp_path])
    assert list(first) == ["small", "3", "0.50 to 0.62", "`int8_vectorwise`", "+0.0500", "-0.2000", "a, seed 1"]
    assert len(others) == len(SCHEMES) - 1


def test_the_readme_is_what_the_command_writes() -> None:
    text = README.read_text()
    assert with_tables(text, [README.parent / "results"]) == text
