"""Results into the folder that is committed, and what is committed made again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command_line import Cli
from small_runs import assert_sentence, write_text
from tiny_scale import TINY

from experiments.making import Place, trained
from experiments.measuring import measured_row
from experiments.plan import open_data
from experiments.publish import publish
from experiments.rows import Row, Store
from experiments.scale import GOOD, PARTS, label
from experiments.scale import variants as ladder
from experiments.scales import SCALES
from qsim.config import from_json

COMMITTED = Path(__file__).parents[2] / "experiments" / "results" / "small"
CHEAPEST = label(PARTS[0], GOOD)  # of all rows at ``small``


def test_what_is_published_is_judged_again_without_its_tokens(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCALES, "smoke", TINY)
    made, out = tmp_path / "made", tmp_path / "published"
    cli("experiment", "methods", "--scale", "smoke", "--out", made, "--text", write_text(tmp_path))
    out.mkdir()
    (out / "gone.svg").write_text("of an earlier publication")
    written = publish(made, out)
    assert {path.suffix for path in written} == {".csv", ".jsonl", ".json", ".svg", ".png"}
    assert sorted(written) == sorted(path for path in out.rglob("*") if path.is_file())
    assert not list(out.rglob("tokens*"))
    assert json.loads((out / "data" / "data.json").read_text())["sources"] == ["text.txt"]
    before = {path: path.read_bytes() for path in written}
    assert cli("experiment", "methods", "--scale", "smoke", "--out", out, "--no-make")[0] == 0
    assert {path: path.read_bytes() for path in written} == before


def test_nothing_is_made_where_only_what_is_there_is_asked_for(cli: Cli, tmp_path: Path) -> None:
    said = cli.refused(tmp_path, "experiment", "all", "--out", tmp_path / "none", "--no-make")
    assert_sentence(said, "data.json", "--no-make")
    with pytest.raises(ValueError, match="holds no rows"):
        publish(tmp_path, tmp_path / "out")


def committed(name: str, seed: int) -> Row:
    rows = Store(COMMITTED).rows().values() if COMMITTED.is_dir() else []
    return next(row for row in rows if (row["label"], row["seed"]) == (name, seed))


@pytest.mark.exhaustive
def test_a_committed_row_made_again_here_is_the_same(tmp_path: Path) -> None:
    """From the embedded text on: hashes after the last step, losses under every scheme, tasks, metrics."""
    scale = SCALES["small"]
    row = committed(CHEAPEST, 0)
    corpus = open_data(tmp_path, scale.config, ())
    if corpus.sha256 != row["data_sha256"]:
        pytest.skip(f"SentencePiece on Python {sys.version.split()[0]} makes other tokens of the embedded text")
    training = next(one for one in ladder(scale) if one.label == CHEAPEST).training(scale, 0)
    assert training.key(corpus.sha256) == row["key"]
    place = Place(out=tmp_path, work=tmp_path / "runs", scale=scale.name)
    again = measured_row(training, trained(training, corpus, place), corpus, scale.name)
    here = ("seconds", "seconds_per_step", "environment", "config")
    for name in ("hashes", "training", "checkpoints"):
        assert again[name] == row[name], name
    assert from_json(again["config"]) == from_json(row["config"])  # which has no keys that there were not then
    assert {k: v for k, v in again.items() if k not in here} == {k: v for k, v in row.items() if k not in here}
