"""``train --from``: a run that starts from the weights of a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_checkpoints
from command_line import Cli
from refusals import refused
from small_checkpoints import CHECKPOINTS
from small_runs import assert_same_trees, small_flags, small_run

from qsim.checkpoints import load_checkpoint
from qsim.data import load_data
from qsim.importing import ModelError, export_gpt2, open_model
from qsim.importing.starting import first_weights, model_config
from qsim.runs import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("runs") / "base", "bf16")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def state_of(run: Path, step: int) -> dict[str, dict[str, np.ndarray]]:
    return load_checkpoint(run, step).state


def test_it_starts_from_the_last_weights_on_the_same_tokens_with_moments_at_zero(
    cli: Cli, run: RunFolder, tmp_path: Path
) -> None:
    cli.rows("train", "--from", run.path, "--out", tmp_path / "on", "--policy", "fp32", *small_flags(steps=2))
    begun = state_of(tmp_path / "on", 0)
    assert_same_trees(begun["parameters"], state_of(run.path, 6)["parameters"])
    assert not any(w.any() for part in ("first", "second") for w in begun[part].values())
    assert load_data(tmp_path / "on").sha256 == load_data(run.path).sha256
    record = json.loads((tmp_path / "on" / "config.json").read_text())
    assert record["started_from"]["parameters_sha256"] == first_weights(open_model(run.path)).sha256


def test_an_export_starts_the_same_run(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    folder = export_gpt2(run.config.model, state_of(run.path, 6)["parameters"], tmp_path / "gpt2")
    for name, start in (("own", run.path), ("exported", folder)):
        words = small_flags(steps=3)
        cli.rows("train", "--from", start, "--text", *_text_of(run, tmp_path), "--out", tmp_path / name, *words)
    own, exported = (RunFolder.open(tmp_path / name) for name in ("own", "exported"))
    assert own.hashes() == exported.hashes()
    assert len(own.hashes()) == 3


def _text_of(run: RunFolder, folder: Path) -> list[Path]:
    file = folder / "same.txt"
    file.write_bytes(load_data(run.path).text_tokenizer().decode(load_data(run.path).tokens).encode())
    return [file]


def test_verify_begins_where_it_began(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    cli.rows("train", "--from", run.path, "--out", tmp_path / "on", *small_flags(steps=2))
    assert cli.rows("verify", tmp_path / "on")["equal"]


def test_other_sizes_are_refused(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    words = small_flags(**{"model.hidden": 32})
    said = cli.refused(tmp_path, "train", "--from", run.path, "--out", tmp_path / "on", *words)
    assert "model.hidden is asked to be 32" in said
    assert "has 16" in said


def test_a_resumed_run_does_not_start_again(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    cli.rows("train", "--from", run.path, "--out", tmp_path / "on", *small_flags(steps=2))
    said = cli.refused(tmp_path, "train", "--resume", "--from", run.path, "--out", tmp_path / "on")
    assert "leave it out" in said


@pytest.mark.parametrize(
    ("kind", "field"), [("llama", "rotary positions"), ("opt", "intermediate"), ("bloom", "activation")]
)
def test_decoders_that_are_not_the_studys_gpt_are_refused(tmp_path: Path, kind: str, field: str) -> None:
    model = open_model(small_checkpoints.write(tmp_path / kind, CHECKPOINTS[kind]()))
    with refused(ModelError, field, "start from a run of this project"):
        first_weights(model)


def test_sizes_of_a_run_are_its_own(run: RunFolder) -> None:
    assert model_config(open_model(run.path)) == run.config.model
