"""``qsim experiment``: rows, figures and verdicts from one command, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Cli
from small_runs import assert_sentence, write_text
from tiny_scale import TINY

from experiments import half_precision_evidence
from experiments.catalogue import NAMES
from experiments.scales import SCALES
from qsim.commands import experiment


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCALES, "smoke", TINY)


@pytest.mark.usefixtures("tiny")
def test_command_makes_rows_figures_and_verdicts(cli: Cli, tmp_path: Path) -> None:
    out, text = tmp_path / "out", write_text(tmp_path)
    words = ("experiment", "int4", "--scale", "smoke", "--out", out, "--text", text)
    planned = cli.rows(*words, "--plan")
    assert [row["done"] for row in planned] == [False] * 3
    code, told, error = cli(*words)
    assert code == 0
    assert "3 rows, 0 of them done: about " in error
    assert "cannot be told at this scale: 1 seed(s)" in told
    for name in ("int4.svg", "int4.png", "int4.csv", "rows.csv", "rows.jsonl", "verdicts.json"):
        assert (out / name).stat().st_size > 0
    before = (out / "rows.jsonl").read_bytes(), (out / "int4.svg").read_bytes()
    code, again, error = cli(*words)
    assert (code, again) == (0, told)
    assert "3 rows, 3 of them done: nothing to be trained" in error
    assert ((out / "rows.jsonl").read_bytes(), (out / "int4.svg").read_bytes()) == before
    (verdict,) = json.loads((out / "verdicts.json").read_text())
    assert (verdict["experiment"], verdict["scale"]) == ("int4", "smoke")


@pytest.mark.usefixtures("tiny")
def test_experiments_without_rows_say_so(cli: Cli, tmp_path: Path) -> None:
    words = ("--scale", "smoke", "--out", tmp_path / "out", "--text", write_text(tmp_path))
    code, told, _ = cli("experiment", "int4", "--time-limit", "0.001", *words)
    assert code == 0
    assert "not finished: not all rows of one seed are there yet" in told


def test_list(cli: Cli) -> None:
    assert [row["name"] for row in cli.rows("experiment", "list")] == list(NAMES)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("nonsense",), ("'nonsense'", "half_precision")),
        (("int4", "--jobs", "0"), ("--jobs is 0", "at least 1")),
        (("int4", "--seeds", "-1"), ("--seeds is -1", "at least 1")),
        (("int4", "--time-limit", "0"), ("--time-limit is 0", "more than 0")),
        (("int4", "--text", "missing.txt"), ("'missing.txt' does not exist",)),
        (("int4", "--compare", "missing"), ("'missing' does not exist",)),
        (("int4", "--scale", "huge"), ("huge", "smoke")),
    ],
)
def test_bad_input_is_one_sentence(cli: Cli, tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    assert_sentence(cli.refused(tmp_path, "experiment", *words, "--out", tmp_path / "out"), *parts)


@pytest.mark.usefixtures("tiny")
def test_a_folder_of_another_scale_or_text_is_refused(cli: Cli, tmp_path: Path) -> None:
    out, text = tmp_path / "out", write_text(tmp_path)
    cli("experiment", "int4", "--scale", "smoke", "--out", out, "--text", text, "--plan")
    said = cli.refused(tmp_path, "experiment", "int4", "--scale", "small", "--out", out)
    assert_sentence(said, "256 tokens by bytes", "choose another --out")
    said = cli.refused(tmp_path, "experiment", "int4", "--scale", "smoke", "--out", out, "--text", out / "data")
    assert_sentence(said, "choose another --out for other text")


def test_experiments_are_loaded_only_when_asked() -> None:
    command = "import sys, qsim.cli; print([name for name in sys.modules if name.startswith('experiments')])"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("tiny")
def test_an_experiment_with_tables_of_its_own(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"half_precision_runs": [{"policy": name, "seed": 0, "share": "0", "held_out_loss": "1"} for name in RUNS]}
    quick = dataclasses.replace(half_precision_evidence.EXPERIMENT, make=lambda _: rows)
    monkeypatch.setattr(half_precision_evidence, "EXPERIMENT", quick)
    out = tmp_path / "out"
    words = ("experiment", quick.name, "--scale", "smoke", "--out", out, "--text", write_text(tmp_path))
    assert [row["done"] for row in cli.rows(*words, "--plan")] == [False]
    code, told, error = cli(*words)
    assert code == 0
    assert "1 parts of half_precision_evidence: about 4 seconds" in error
    assert "cannot be told at this scale: 1 seed(s)" in told
    assert (out / "half_precision_runs.csv").is_file()
    assert [row["done"] for row in cli.rows(*words, "--plan")] == [True]
    (verdict,) = json.loads((out / "verdicts.json").read_text())
    assert (verdict["experiment"], verdict["scale"]) == (quick.name, "smoke")


RUNS = ("fp32", *(policy.name for policy in half_precision_evidence.REPLAYS))


def test_the_command_offers_every_scale() -> None:
    assert tuple(SCALES) == experiment.SCALES
