"""``qsim import``: what a model is, and the folder it is written as."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from command_line import Cli
from quantized_models import KINDS, TOKENS, logits, small_model
from small_runs import small_run

from qsim.importing import describe, open_model
from qsim.post_training import PostTraining, quantize_model


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_counted(tmp_path: Path, kind: str) -> None:
    model = small_model(tmp_path, kind)
    found = describe(model)
    held = [model.weights.outer(), *(model.layer(i) for i in range(model.config.layers))]
    assert found.parameters == sum(w.size for parameters in held for w in parameters.values())
    assert [(one.type, one.bytes) for one in found.types] == [("F32", 4 * found.parameters)]


@pytest.mark.parametrize(("working", "dtype"), [(None, "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_a_folder_of_the_same_model(cli: Cli, tmp_path: Path, working: str | None, dtype: str) -> None:
    model, out = small_model(tmp_path), tmp_path / "out"
    told = () if working is None else ("--working", working)
    assert cli.rows("import", model.source, "--out", out, *told)["to"] == str(out)
    again = open_model(out)
    assert again.quantization is None
    assert_same_bits(logits(again, working or "fp32"), logits(model, working or "fp32"))
    assert [one.type for one in describe(again).types] == [dtype]
    how = PostTraining()
    if working != "fp16":
        assert_same_bits(logits(quantize_model(again, how)), logits(quantize_model(model, how)))


def test_runs_and_quantized_models(cli: Cli, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "bf16", **{"steps": 1}).path
    found = cli.rows("import", run)
    assert (found["architecture"], found["types"][0]["type"], found["tokenizer"]["fits"]) == ("qsim", "float32", True)
    cli.rows("quantize", run, "--out", tmp_path / "q")
    assert [one["type"] for one in cli.rows("import", tmp_path / "q")["types"]] == ["bfloat16", "int8", "uint32"]
    assert "copy its folder" in cli.refused(tmp_path, "import", tmp_path / "q", "--out", tmp_path / "again")


def test_the_table(cli: Cli, tmp_path: Path) -> None:
    source = small_model(tmp_path).source
    code, out, err = cli("import", source)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{source}: gpt2, {describe(open_model(source)).parameters:,} parameters"
    assert "layers 3, hidden 24" in lines[1]
    assert lines[-1] == f"tokenizer: {source} has no tokenizer.json; give tokens, or put the model's beside it"


def with_tokenizer(folder: Path, text: str) -> Path:
    pytest.importorskip("tokenizers", reason="tokenizer.json is read by the package tokenizers; install it")
    source = small_model(folder).source
    (source / "tokenizer.json").write_text(text)
    return source


def letters(number: int) -> str:
    vocabulary = {chr(ord("a") + i): i for i in range(number)}
    return json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": []}})


def test_tokenizers_that_fit_or_do_not(cli: Cli, tmp_path: Path) -> None:
    source = with_tokenizer(tmp_path, letters(20))
    assert "20 tokens for 29 rows: it fits" in cli("import", source)[1]
    cli.rows("import", source, "--out", tmp_path / "out")
    assert open_model(tmp_path / "out").tokenizer.encode("cab").tolist() == [2, 0, 1]
    (source / "tokenizer.json").write_text(letters(60))
    assert "it does not fit" in cli("import", source)[1]
    for command in ("import", "quantize"):
        refused = cli.refused(tmp_path, command, source, "--out", tmp_path / "new")
        assert "has 60 tokens and the model only 29" in refused


def test_a_tokenizer_that_is_none(cli: Cli, tmp_path: Path) -> None:
    source = with_tokenizer(tmp_path, "{")
    assert f"{source / 'tokenizer.json'} is no tokenizer.json" in cli("import", source)[1]
    for command in ("import", "quantize"):
        refused = cli.refused(tmp_path, command, source, "--out", tmp_path / "new")
        assert f"{source / 'tokenizer.json'} is no tokenizer.json" in refused


def test_what_is_refused(cli: Cli, tmp_path: Path) -> None:
    source = small_model(tmp_path).source
    assert "exists already" in cli.refused(tmp_path, "import", source, "--out", source)
    assert "give both" in cli.refused(tmp_path, "import", source, "--working", "bf16")
    assert "does not exist" in cli.refused(tmp_path, "import", tmp_path / "absent", "--out", tmp_path / "new")
    assert np.isfinite(logits(open_model(source), tokens=TOKENS)).all()
