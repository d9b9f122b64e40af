"""``qsim bench replay``: what is timed, the bar, how it is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Cli

from qsim.bench import replay
from qsim.bench.replay_table import print_replays, replay_markdown

ROW = {"policies": ["bf16", "fp16"], "seconds": 0.3, "seconds_plain": 0.15, "ratio": 2.0, "bar": 1.5, "met": False}


def test_a_row_for_each_number_of_policies() -> None:
    rows = replay.rows("tiny", base="fp32", policies=["fp32", "bf16"], steps=1)
    assert [row["policies"] for row in rows] == [["fp32"], ["fp32", "bf16"]]
    for row in rows:
        assert row["ratio"] == row["seconds"] / row["seconds_plain"] > 0
        assert row["met"] == (row["ratio"] <= row["bar"] == 1.5)


def test_how_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    versions = {"numpy": "2"}
    machine = {"cpu": "a processor", "cores": 2, "versions": versions}
    result = {"environment": machine, "threads": 2, "preset": "tiny", "base": "fp32", "data": "text", "repeats": 1}
    print_replays(result | {"rows": [ROW]})
    assert "300.0" in capsys.readouterr().out
    assert replay_markdown({"rows": [ROW]}).splitlines()[-1] == "| 2 | bf16, fp16 | **2.00** | <= 1.5 |"


def test_the_command(tmp_path: Path, cli: Cli) -> None:
    code, out, _ = cli("bench", "replay", "--policy", "fp32", "--repeats", 1, "--json", "--out", tmp_path / "x.json")
    assert code == 0
    found = json.loads(out)
    assert (found["benchmark"], found["base"], len(found["rows"])) == ("replay", "fp32", 1)
    assert json.loads((tmp_path / "x.json").read_text()) == found
    code, _, err = cli("bench", "replay", "--policy", "bf17", "--repeats", 1)
    assert code == 2
    assert "bf17" in err.splitlines()[-1]
