"""``qsim evaluate`` and ``qsim generate`` on a small run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_checkpoints
from command_line import Cli
from harness_lines import LINES
from small_runs import assert_sentence, small_run, write_text

from qsim.data import load_data
from qsim.evaluation import DecoderLanguageModel, Way, perplexity
from qsim.evaluation.task_files import KINDS
from qsim.importing import open_model
from qsim.policy import parse_policy
from qsim.post_training.how import from_json
from qsim.training import held_out_loss


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("runs") / "a", "bf16").path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "a"))


NUMPY = ("--executor", "numpy")


def passages(folder: Path) -> Path:
    """Text with paragraphs, for items."""
    words = write_text(folder).read_text().split()
    parts = [" ".join([*words[i : i + 20], words[i], "and so it was kept."]) for i in range(0, 300, 20)]
    path = folder / "passages.txt"
    path.write_text("\n\n".join(parts))
    return path


def test_the_held_out_loss_of_a_run(run: Path, cli: Cli) -> None:
    found = cli.rows("evaluate", run, "--items", 0, *NUMPY)
    opened = open_model(run)
    assert opened.run is not None
    corpus, config = load_data(run), opened.run.config
    tokens = corpus.validation
    scored = perplexity(DecoderLanguageModel(opened, parse_policy("bf16"), "numpy"), tokens)
    text = found["evaluations"][0]["text"]
    assert text["loss"] == scored.loss
    assert text["tokens"] == len(tokens) - 1
    assert text["bits_per_byte"] == pytest.approx(scored.loss / np.log(2))
    assert (found["policy"], found["accumulator"], found["text"]) == ("bf16", "fp32_sequential", "held out")
    batch = config.data.batch_size * config.data.validation_batches * config.model.length
    own = held_out_loss(config, parse_policy("bf16"), "numpy", opened.weights.parameters, corpus)  # type: ignore[attr-defined]
    assert scored.losses[:batch].mean() == pytest.approx(own, rel=1e-3)  # its losses are rounded


def test_schemes_are_compared_with_pre(run: Path, tmp_path: Path, cli: Cli) -> None:
    out, text = tmp_path / "out", passages(tmp_path)
    command = ("evaluate", run, "--text", text, "--limit", 300, "--items", 5, "--out", out, *NUMPY)
    schemes = ("--scheme", "int8_vectorwise", "--scheme", "int8_tensorwise")
    found = cli.rows(*command, *schemes)
    assert [one["name"] for one in found["evaluations"]] == ["pre", "int8_vectorwise", "int8_tensorwise"]
    assert [one["name"] for one in found["comparisons"]] == ["int8_vectorwise", "int8_tensorwise"]
    pre, post = (one["text"]["loss"] for one in found["evaluations"][:2])
    assert found["comparisons"][0]["delta_loss"]["value"] == pytest.approx(post - pre)
    assert [t["task"] for t in found["evaluations"][0]["tasks"]] == ["LAMBADA-like", "next paragraph"]
    assert json.loads((out / "results.json").read_text()) == found
    with (out / "items.csv").open() as file:
        rows = list(csv.DictReader(file))
    blocks = [row for row in rows if row["evaluation"] == "pre" and row["task"] == "text"]
    assert sum(float(row["loss"]) for row in blocks) / 299 == pytest.approx(pre)
    assert sum(int(row["tokens"]) for row in blocks) == 299
    assert sum(row["task"] == "next paragraph" for row in rows) == 15
    code, printed, err = cli(*command, *schemes)
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[5:9]] == ["arithmetic", "pre", "int8_vectorwise", "int8_tensorwise"]
    assert f"{pre:.5f}" in lines[6]


def test_every_way_of_quantizing(run: Path, cli: Cli) -> None:
    """kv by itself and combined, other policies, schemes that calibrate: those on what the run was trained on."""
    words = ("--also", "fp32", "--scheme", "kv", "--scheme", "smoothquant", "--scheme", "int4_group8+kv")
    command = ("evaluate", run, "--limit", 100, "--items", 0, *words, "--dequantize-to", "bf16", *NUMPY)
    found = cli.rows(*command)
    assert [one["name"] for one in found["ways"]] == ["pre", "fp32", "kv", "smoothquant", "int4_group8+kv"]
    assert found["calibration"].startswith("what the run was trained on, ")
    how = found["ways"][4]["quantization"]
    assert (how["scheme"], how["kv"], how["working"], how["dequantize_to"]) == ("int4_group8", "int8", "bf16", "bf16")
    losses = [one["text"]["loss"] for one in found["evaluations"]]
    assert len(set(losses)) == 5
    way = Way(name="a", model=open_model(run), policy=parse_policy("bf16"), how=from_json(how))
    assert perplexity(way.language_model("numpy"), load_data(run).validation[:100]).loss == losses[4]
    assert cli.rows(*command, "--by-layer")["evaluations"] == found["evaluations"]
    both = cli.rows(
        "evaluate", run, "--limit", 100, "--items", 0, "--kv", "int8", "--scheme", "int8_vectorwise", *NUMPY
    )
    assert [one["name"] for one in both["evaluations"]] == ["pre", "int8_vectorwise+kv"]
    assert cli.rows("evaluate", run, "--limit", 100, "--items", 0, "--kv", "int8", *NUMPY)["ways"][1]["name"] == "kv"
    _, printed, _ = cli(*command)
    assert "int4_group8+kv: bf16; int4_group8 of qkv, attention_out, mlp_up, mlp_down; keys and values" in printed


def test_a_quantized_model_as_it_is_and_against_another(run: Path, tmp_path: Path, cli: Cli) -> None:
    cli.rows("quantize", run, "--out", tmp_path / "q")
    how = ("--text", passages(tmp_path), "--limit", 100, "--items", 0, *NUMPY)
    alone, scheme = (
        cli.rows("evaluate", *words, *how) for words in ((tmp_path / "q",), (run, "--scheme", "int8_vectorwise"))
    )
    assert [one["name"] for one in alone["evaluations"]] == ["quantized"]
    assert (alone["policy"], alone["comparisons"]) == ("bf16", [])
    assert alone["ways"][0]["quantization"] == scheme["ways"][1]["quantization"]
    assert alone["evaluations"][0]["text"] == scheme["evaluations"][1]["text"]
    against = cli.rows("evaluate", tmp_path / "q", "--against", run, *how)
    assert [one["name"] for one in against["evaluations"]] == ["pre", "post"]
    assert against["comparisons"][0]["delta_loss"] == scheme["comparisons"][0]["delta_loss"]
    text = ("generate", "--prompt", "the sum ", "--tokens", 6, *NUMPY)
    assert cli.rows(*text, tmp_path / "q") == cli.rows(*text, run, "--scheme", "int8_vectorwise")
    other = with_letters(tmp_path, 26)
    assert_sentence(cli.refused(tmp_path, "evaluate", run, "--against", other, *how), "part the text differently")


def test_tasks_from_files(run: Path, tmp_path: Path, cli: Cli) -> None:
    words = []
    for kind in ("piqa", "winogrande", "copa"):
        (tmp_path / f"{kind}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES[kind][1]))
        words += ["--task", f"{kind}={tmp_path / f'{kind}.jsonl'}"]
    found = cli.rows("evaluate", run, *words, "--policy", "fp32", "--limit-items", 1, *NUMPY)
    tasks = found["evaluations"][0]["tasks"]
    assert [(t["task"], t["items"], list(t["metrics"])) for t in tasks] == [
        ("piqa", 1, ["acc", "acc_norm", "acc_bytes"]), ("winogrande", 1, ["acc"]), ("copa", 1, ["acc"]),
    ]  # fmt: skip
    code, printed, err = cli("evaluate", run, *words, "--scheme", "int8_vectorwise", *NUMPY)
    assert (code, err) == (0, "")
    assert "copa, 2 items" in printed.splitlines()


def test_every_kind_is_offered(cli: Cli) -> None:
    _, printed, _ = cli("evaluate", "--help")
    assert all(kind in " ".join(printed.split()) for kind in KINDS)


def with_letters(folder: Path, letters: int, scale: float = 1.0) -> Path:
    """A model of 29 tokens beside a tokenizer of so many, its table scaled."""
    pytest.importorskip("tokenizers", reason="tokenizer.json is read by the package tokenizers; install it")
    config, tensors = small_checkpoints.CHECKPOINTS["gpt2"]()
    tensors["transformer.wte.weight"] *= np.float32(scale)
    model = small_checkpoints.write(folder / "model", (config, tensors))
    vocabulary = {chr(ord("a") + i): i for i in range(letters)}
    whole = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (model / "tokenizer.json").write_text(json.dumps(whole))
    return model


def test_logits_that_are_not_finite_are_told(tmp_path: Path, cli: Cli) -> None:
    """A table beyond fp16 is infinite there: counted, not a crash."""
    model, text = with_letters(tmp_path, 26, 1e6), tmp_path / "text.txt"
    text.write_text("whatthetableholdsisbeyondfp")
    command = ("evaluate", model, "--text", text, "--items", 0, "--policy", "fp16", *NUMPY)
    found = cli.rows(*command)["evaluations"][0]["text"]
    assert (found["loss"], found["not_finite"], found["tokens"]) == ("NaN", 26, 26)
    code, printed, err = cli(*command, "--scheme", "int8_vectorwise")
    assert (code, err) == (0, "")
    assert "52 losses are not finite" in printed
    assert_sentence(
        cli.refused(tmp_path, "generate", model, "--prompt", "what", "--policy", "fp16", *NUMPY), "are not finite"
    )


def test_generated_text(run: Path, cli: Cli) -> None:
    command = ("generate", run, "--prompt", "the sum ", "--tokens", 8, *NUMPY)
    code, greedy, err = cli(*command)
    assert (code, err) == (0, "")
    found = cli.rows(*command)
    assert found["text"] + "\n" == greedy
    assert len(found["tokens"]) == 8
    drawn = [cli(*command, "--temperature", 2, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def refusals(run: Path, folder: Path) -> list[tuple[list[Any], tuple[str, ...]]]:
    broken = folder / "broken.jsonl"
    broken.write_text('{"goal": "a", "sol1": "b", "sol2": "c", "label": 0}\n{"goal"\n')
    (folder / "short.txt").write_text("a")
    new = ["--out", folder / "new"]
    return [
        (["evaluate", run, "--task", f"piqa={broken}", *new], (f"{broken}, line 2", "not JSON")),
        (["evaluate", run, "--task", "piqa", *new], ("'piqa' is no KIND=FILE",)),
        (["evaluate", run, "--task", f"what={broken}", *new], ("'what' is not known",)),
        (["evaluate", run, "--text", folder / "short.txt", "--items", 0, *new], ("the text has 1 tokens",)),
        (["evaluate", run, "--text", folder / "short.txt", *new], ("no sentence whose last word", "--items 0")),
        (["evaluate", run, "--scheme", "int8", *new], ("unknown quantization scheme 'int8'",)),
        (["evaluate", run, "--scheme", "llm_int8", "--scheme", "llm_int8"], ("llm_int8 is given twice",)),
        (["evaluate", run, "--scheme", "llm_int8", "--calibration", broken], ("leave it out",)),
        (["evaluate", run, "--scheme", "smoothquant", "--calibration", folder / "short.txt", "--text",
          folder / "short.txt"], ("is evaluated, too",)),
        (["evaluate", run, "--also", "what"], ("'what'",)),
        (["evaluate", run, "--scheme", "llm_int8+what"], ("SCHEME+kv",)),
        (["evaluate", run, "--against", folder / "absent"], ("does not exist",)),
        (["evaluate", run, "--length", 17, "--items", 0, *new], ("windows of 17 tokens", "1 to 16")),
        (["evaluate", run, "--stride", 0], ("--stride is 0",)),
        (["evaluate", run, "--items", -1], ("--items is -1",)),
        (["evaluate", run, "--out", broken], ("is a file",)),
        (["evaluate", run, "--out", folder / "no" / "where"], ("is not a folder",)),
        (["evaluate", folder / "absent"], ("does not exist",)),
        (["generate", run, "--prompt", ""], ("the prompt has no token",)),
        (["generate", run, "--prompt", "the ", "--tokens", 14], ("exceed the 16 positions", "at most 13")),
        (["generate", run, "--prompt", "a", "--temperature", "nan"], ("temperature nan",)),
        (["generate", run, "--prompt", "a", "--top-k", 0], ("top_k 0",)),
    ]  # fmt: skip


def test_what_is_refused(run: Path, tmp_path: Path, cli: Cli) -> None:
    for command, parts in refusals(run, tmp_path):
        assert_sentence(cli.refused(tmp_path, *command, *NUMPY), *parts)


def test_models_without_text_or_tokenizer(tmp_path: Path, cli: Cli) -> None:
    model = small_checkpoints.write(tmp_path / "model", small_checkpoints.CHECKPOINTS["gpt2"]())
    assert_sentence(cli.refused(tmp_path, "evaluate", model, *NUMPY), "no run with text of its own", "--text")
    write_text(tmp_path)
    found = cli.refused(tmp_path, "evaluate", model, "--text", tmp_path / "text.txt", *NUMPY)
    assert_sentence(found, "no tokenizer.json")


def test_tokenizers_that_do_not_fit(tmp_path: Path, cli: Cli) -> None:
    model = with_letters(tmp_path, 60)
    found = cli.refused(tmp_path, "generate", model, "--prompt", "a", *NUMPY)
    assert_sentence(found, "has 60 tokens", "only 29", str(model))
