"""The tables of a real model: made of a small one here, and those that are published against what is said of them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import small_checkpoints

from experiments import real_model

RESULTS = Path(real_model.__file__).with_name("results")
README = Path(real_model.__file__).with_name("README.md")


def table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Lines of the head, and the rows."""
    lines = path.read_text().splitlines()
    return [line for line in lines if line[0] == "#"], list(csv.DictReader(line for line in lines if line[0] != "#"))


def test_tables_of_a_small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tokenizers", reason="tokenizer.json is read by the package tokenizers; install it")
    model = small_checkpoints.write(tmp_path / "model", small_checkpoints.CHECKPOINTS["gpt2"]())
    vocabulary = {c: i for i, c in enumerate(" .\nabcdefghijklmnopqrstuvwxyz")}
    whole = {"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (model / "tokenizer.json").write_text(json.dumps(whole))
    words = " ".join(f"{a}{b}" for a in "abcdefgh" for b in "stuvwxyz")
    for name in ("text", "other"):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"{words} abc and {name} abc." for _ in range(8)))
    monkeypatch.setattr(real_model, "SCHEMES", ("int8_vectorwise", "smoothquant", "kv"))
    sizes = ("--skip", "3", "--tokens", "48", "--length", "12", "--items", "2", "--executor", "numpy")
    texts = ("--text", str(tmp_path / "text.txt"), "--calibration", str(tmp_path / "other.txt"))
    real_model.main([str(model), str(tmp_path / "out"), *texts, *sizes])
    head, rows = table(tmp_path / "out" / "real_model_text.csv")
    assert [row["way"] for row in rows] == ["bf16", "fp32", "fp16", "int8_vectorwise", "smoothquant", "kv"]
    assert {row["tokens"] for row in rows} == {"47"}
    assert all(re.search(r"SHA-256 [0-9a-f]{64}$", line) for line in head[:3])
    _, items = table(tmp_path / "out" / "real_model_items.csv")
    assert len(items) == 12
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"real_model_{name}.csv" for name in ("items", "massive", "outliers", "text")
    ]


def test_what_is_said_is_what_was_measured() -> None:
    said = README.read_text().split("## A real pretrained model")[1]
    head, rows = table(RESULTS / "real_model_text.csv")
    assert head[0].startswith("# caveat: ")
    for row in rows:
        assert f"{float(row['perplexity']):.2f} |" in said
        if row["delta_loss"]:
            value, low, high = (f"{float(row[f'delta_loss{end}']):+.4f}" for end in ("", "_low", "_high"))
            assert f"| {value} [{low}, {high}] |" in said
