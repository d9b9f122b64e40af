"""``qsim analyze``: what it prints and writes, of which text, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_checkpoints
from command_line import Cli
from small_checkpoints import CHECKPOINTS
from small_runs import small_run

from qsim.analysis import windows
from qsim.importing import open_model
from qsim.post_training import PostTraining, quantize_model, save_quantized
from qsim.runs import RunFolder

FEW = ("--tokens", "32", "--policy", "fp32")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return small_checkpoints.write(tmp_path / "gpt2", CHECKPOINTS["gpt2"]())


def test_two_checkpoints_side_by_side(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    paths = [run.path / f"checkpoints/step_{step}" for step in (2, 4)]
    code, out, err = cli("analyze", *paths, *FEW, "--threshold", "6.0", "4", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    for words in ("step_2", "step_4", "attn-kqv-proj", "outer-expander-mlp", "held-out split of first",
                  "pairs/block/at_least/pooled", "massive activations", "e4m3fn", "exceeds"):  # fmt: skip
        assert words in out, words
    assert (tmp_path / "out/analysis.html").is_file()
    assert "nan" not in out.lower()


def test_a_quantized_model_beside_the_one_it_was(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    how = PostTraining(scheme="int8_vectorwise", dequantize_to="bf16", kv="int8")
    out = save_quantized(quantize_model(open_model(run.path), how), tmp_path / "codes")
    (tmp_path / "a.txt").write_bytes(b"abcdefgh" * 8)
    flags = ("--text", tmp_path / "a.txt", "--out", tmp_path / "out")
    code, said, err = cli("analyze", run.path, out, *FEW, *flags)
    assert (code, err) == (0, "")
    assert f"codes: qsim quantized ({how})" in said
    assert f"codes is quantized: {how}." in (tmp_path / "out/analysis.html").read_text()
    plain, quantized = cli.rows("analyze", run.path, out, *FEW, "--text", tmp_path / "a.txt")["models"]
    assert (plain["quantization"], quantized["quantization"]) == (None, str(how))


def test_json_holds_every_row(cli: Cli, run: RunFolder) -> None:
    found = cli.rows("analyze", run.path, *FEW)
    (model,) = found["models"]
    assert (model["model"], model["sequences"], model["length"], model["policy"]) == ("first", 2, 16, "fp32")
    assert len(model["inputs"]) == 2 * 4
    assert found["comparison"] == []


def test_a_run_is_read_on_its_held_out_split(run: RunFolder) -> None:
    from qsim.run_data import load_data

    tokens, words = windows(open_model(run.path), [], count=70)
    assert tokens.shape == (4, 16)
    assert (tokens.ravel() == load_data(run.path).validation[:64]).all()
    assert words == "held-out split of first"


def test_text_is_read_from_its_beginning(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abcdefgh")
    tokens, words = windows(open_model(run.path), [tmp_path / "a.txt"], count=8, length=3)
    assert (tokens == np.frombuffer(b"abcdef", np.uint8).reshape(2, 3)).all()
    assert words == "a.txt"


def test_models_of_one_name_are_told_apart(cli: Cli, run: RunFolder) -> None:
    step = run.path / "checkpoints/step_2"
    found = cli.rows("analyze", step, step, *FEW)
    assert [one["model"] for one in found["models"]] == ["step_2 #1", "step_2 #2"]
    assert {row["ratio"] for row in found["comparison"]} <= {1.0, "NaN"}


def test_bad_input_is_one_sentence(cli: Cli, run: RunFolder, gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_bytes(b"ab")
    (tmp_path / "file").write_bytes(b"")
    for arguments, words in (
        ((tmp_path / "none",), ("does not exist",)),
        ((run.path, "--policy", "fp7"), ("'fp7'",)),
        ((run.path, "--scheme", "int9"), ("'int9'",)),
        ((run.path, "--threshold", "0"), ("threshold 0.0", "positive")),
        ((run.path, "--tokens", "0"), ("0 tokens",)),
        ((run.path, "--tokens", "8", "--length", "9"), ("8 tokens hold no sequence of 9",)),
        ((run.path, "--length", "17"), ("sequences of 17 tokens", "1 to 16")),
        ((run.path, "--block", "2"), ("--block is 2", "0 to 1")),
        ((run.path, "--batch", "0"), ("batch is 0",)),
        ((run.path, "--out", tmp_path / "file"), ("is a file",)),
        ((run.path, "--text", tmp_path / "short.txt"), ("short.txt has 2 tokens", "16")),
        ((run.path, "--text", tmp_path / "none.txt"), ("none.txt",)),
        ((gpt2,), ("no tokenizer.json",)),
    ):
        text = cli.refused(tmp_path, "analyze", *arguments)
        for word in words:
            assert word in text, (text, word)
