"""``qsim quantize``: the folder, the figures, the refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from command_line import Cli
from quantized_models import logits, small_model
from small_runs import small_run

from qsim.data import load_data
from qsim.importing import open_model
from qsim.post_training import PostTraining, quantize_model
from qsim.runs import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("runs") / "fp16", "fp16", **{"steps": 2})


def test_a_run_is_quantized(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    found = cli.rows("quantize", run.path, "--out", tmp_path / "q")
    how = PostTraining(working="fp16")
    assert found["quantization"] == how.as_json()
    model = open_model(tmp_path / "q")
    true = quantize_model(open_model(run.path), how)
    tokens = np.arange(8).reshape(1, 8)
    assert_same_bits(logits(model, "fp16", tokens=tokens), logits(true, "fp16", tokens=tokens))
    linear, _, whole = found["memory"]
    assert linear["quantized"] == linear["by_formula"] < linear["half"] < linear["float32"]
    assert whole["quantized"] == whole["by_formula"]


def test_the_table(cli: Cli, tmp_path: Path) -> None:
    source = small_model(tmp_path).source
    code, out, _ = cli(
        "quantize", source, "--scheme", "int4_group8", "--sites", "qkv", "--kv", "int8", "--out", tmp_path / "q"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"wrote {tmp_path / 'q'}: int4_group8 of qkv; keys and values in INT8; the others in bf16"
    assert lines[2].split()[:2] == ["linear", "layers"]
    assert lines[-1] == (
        "formula: k ceil(4 n / 8) + 4 x n ceil(k / 8) bytes for a weight (k, n), 2 bytes for any other parameter"
    )


@pytest.mark.parametrize(("name", "working"), [("float16", "fp16"), ("bfloat16", "bf16"), ("float32", "bf16")])
def test_the_format_of_a_folder(cli: Cli, tmp_path: Path, name: str, working: str) -> None:
    source = small_model(tmp_path).source
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"torch_dtype": name}))
    assert cli.rows("quantize", source, "--out", tmp_path / "q")["quantization"]["working"] == working


def test_calibration_by_text(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    text = tmp_path / "some.txt"
    text.write_text("What does a number format do to a language model? " * 9)
    options = ("--calibration", text, "--calibration-tokens", 50, "--executor", "numpy", "--working", "bf16")
    found = cli.rows("quantize", run.path, "--scheme", "smoothquant", *options, "--out", tmp_path / "q")
    assert found["quantization"]["alpha"] == 0.5
    static = ("--scheme", "int8_tensorwise", "--static", "--alpha", 0.7, *options)
    found = cli.rows("quantize", run.path, *static, "--out", tmp_path / "s")
    assert (found["quantization"]["static"], found["quantization"]["alpha"]) == (True, 0.7)
    length = run.config.model.length
    tokens = np.frombuffer(text.read_bytes()[: 50 // length * length], np.uint8).astype(np.int32).reshape(-1, length)
    how = PostTraining(scheme="int8_tensorwise", static=True, alpha=0.7)
    true = quantize_model(open_model(run.path), how, calibration=tokens)
    assert_same_bits(open_model(tmp_path / "s").layer(1)["qkv.limits"], true.layer(1)["qkv.limits"])


def test_runs_calibrate_on_what_they_were_trained_on(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    length, options = run.config.model.length, ("--scheme", "smoothquant", "--calibration-tokens", 40)
    cli.rows("quantize", run.path, *options, "--executor", "numpy", "--out", tmp_path / "q")
    tokens = load_data(run.path).train[: 40 // length * length].astype(np.int32).reshape(-1, length)
    how = PostTraining(scheme="smoothquant", working="fp16")
    true = quantize_model(open_model(run.path), how, calibration=tokens, executor="numpy")
    assert_same_bits(logits(open_model(tmp_path / "q"), "fp16", tokens=tokens), logits(true, "fp16", tokens=tokens))
    source = small_model(tmp_path).source
    assert "give tokens to calibrate on" in cli.refused(
        tmp_path, "quantize", source, "--scheme", "smoothquant", "--out", tmp_path / "new"
    )


def test_what_is_refused(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "q"
    latin, empty = tmp_path / "latin.txt", tmp_path / "empty.txt"
    latin.write_bytes(b"caf\xe9")
    empty.write_text("")
    for arguments, part in (
        (("--scheme", "int9"), "known schemes"),
        (("--scheme", "none"), "nothing is quantized"),
        (("--calibration", latin, "--alpha", "0.5"), "latin.txt is not UTF-8 at byte 3"),
        (("--calibration", empty, "--alpha", "0.5"), "holds no text"),
        (("--calibration", tmp_path / "none.txt", "--alpha", "0.5"), "none.txt"),
        (("--calibration", latin, "--alpha", "0.5", "--calibration-tokens", "0"), "at least 1"),
        (("--sites", "softmax"), "softmax"),
    ):
        assert part in cli.refused(tmp_path, "quantize", run.path, *arguments, "--out", out)
    assert "exists already" in cli.refused(tmp_path, "quantize", run.path, "--out", latin)
    cli.rows("quantize", run.path, "--out", out)
    assert "quantized already" in cli.refused(tmp_path, "quantize", out, "--out", tmp_path / "again")
