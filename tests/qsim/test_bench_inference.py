"""``qsim bench inference``: all contenders read the same tokens, ratios follow from the times, memory is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Cli
from small_runs import assert_sentence

from qsim.bench import decoder_readers, inference, inference_memory, measurement, torch_decoder, torch_process
from qsim.bench.decoder_readers import Work
from qsim.bench.inference_table import inference_markdown, print_inference

SMALL = replace(
    decoder_readers.DEFAULT,
    layers=2,
    hidden=16,
    heads=4,
    kv_heads=2,
    head_size=4,
    intermediate=24,
    vocabulary=32,
    length=64,
)
CHOSEN = [("fp32", "numpy"), ("bf16", "numpy"), ("int8_vectorwise", "numpy")]
QUICK = ("bench", "inference", "--tokens", 4, "--new", 2, "--repeats", 1, "--executor", "numpy", "--no-memory")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "SAMPLE_SECONDS", 1e-5)
    monkeypatch.setattr(inference, "PAUSE", 0.0)
    monkeypatch.setattr(decoder_readers, "DEFAULT", SMALL)


def rows(chosen: list[tuple[str, str]] = CHOSEN, tokens: int = 6) -> list[dict[str, Any]]:
    return inference.rows(decoder_readers.random_model(SMALL), chosen, tokens=tokens, new=3, repeats=2, threads=1)


def test_two_rows_a_contender_and_ratios_of_their_times() -> None:
    found = [row for row in rows() if row["executor"] != "torch"]
    assert [(row["phase"], row["contender"]) for row in found] == [
        (phase, policy) for phase in ("prompt", "decoding") for policy, _ in CHOSEN
    ]
    for phase in ("prompt", "decoding"):
        own = {row["contender"]: row for row in found if row["phase"] == phase}
        for row in own.values():
            assert row["tokens_per_second"] == row["tokens"] / row["seconds_best"]
            assert row["speed"]["bf16"] == own["bf16"]["seconds_best"] / row["seconds_best"]
    held = {row["contender"]: row["weights_bytes"] for row in found}
    assert held["fp32"] == held["bf16"] == 4 * decoder_readers.count(SMALL) > held["int8_vectorwise"]


def test_the_bar_is_that_of_float32_on_numba_against_torch() -> None:
    one = decoder_readers.Entry(name="fp32", executor="numba", weights_bytes=0)
    for own, met in ((1.9, True), (2.1, False)):
        assert inference._judged("prompt", one, own, 1.0) == {"bar": 0.5, "met": met}
    for phase, other, torch in (
        ("decoding", one, 1.0),
        ("prompt", replace(one, name="bf16"), 1.0),
        ("prompt", one, None),
    ):
        assert inference._judged(phase, other, 1.0, torch) == {"bar": None, "met": None}


def test_decoding_goes_on_from_the_prompt_every_time() -> None:
    model = decoder_readers.random_model(SMALL)
    prompt = np.arange(5, dtype=np.int32)[None]
    work = Work(reader=decoder_readers.reader(model, "fp32", "numpy"), prompt=prompt, new=4)
    first = work.by_token()
    assert np.array_equal(work.by_token(), first)
    row = prompt
    for token in (prompt[:, -1:], None, None, None):
        row = row if token is None else np.concatenate([row, token], axis=1)
        logits = work.reader.read(row, None)
        row = np.concatenate([row, logits[-1:].argmax(axis=-1).astype(np.int32)[None]], axis=1)
    assert np.array_equal(first, row[:, -1:])


def test_more_positions_than_the_model_has() -> None:
    with pytest.raises(ValueError, match="64 positions") as caught:
        rows(tokens=62)
    assert_sentence(str(caught.value))


@pytest.mark.skipif(not torch_decoder.installed(), reason="torch and transformers are not installed")
def test_torch_computes_the_same_model() -> None:
    model = decoder_readers.random_model(SMALL)
    ours, theirs = decoder_readers.reader(model, "fp32", "numpy"), decoder_readers.torch_reader(model, 1)
    tokens = np.random.default_rng(1).integers(0, SMALL.vocabulary, (2, 7), np.int32)
    caches = ours.empty(), theirs.empty()
    for part in (tokens[:, :5], tokens[:, 5:6], tokens[:, 6:]):
        found, expected = ours.read(part, caches[0]), theirs.read(part, caches[1])
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.skipif(not torch_decoder.installed(), reason="torch and transformers are not installed")
def test_torch_answers_from_a_process_of_its_own() -> None:
    found = [row for row in rows([("fp32", "numpy")]) if row["executor"] == "torch"]
    assert [(row["phase"], row["speed"]["torch"]) for row in found] == [("prompt", 1.0), ("decoding", 1.0)]


def test_a_process_that_ends_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_process, "__name__", "qsim.no_such_module")
    with pytest.raises(RuntimeError, match="ended with code 1"):
        torch_process.TorchProcess(decoder_readers.random_model(SMALL), np.zeros((1, 1)), new=1, threads=1)


def test_what_a_pass_holds_is_counted_by_hand() -> None:
    counted = inference_memory.counted(SMALL, 10)
    assert counted["weights"] == 4 * sum(
        w.size
        for part in (
            decoder_readers.random_model(SMALL).weights.outer(),
            *map(decoder_readers.random_model(SMALL).layer, (0, 1)),
        )
        for w in part.values()
    )
    assert counted["activations"] == 4 * max(2 * 10 * 32, 2 * 4 * 10 * 10 + 10 * (16 + 32))


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    (found,) = inference_memory.peaks(None, [("fp32", "numpy")], 16)
    assert found["policy"] == "fp32"
    assert found["peak"] is None or found["peak"] > 0.9 * found["counted"]["weights"]


def test_the_command_prints_what_it_measured(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    result = cli.rows(*QUICK, "--policy", "fp32", "bf16", "--out", out)
    assert result == json.loads(out.read_text())
    assert result["source"] == "random"
    assert result["parameters"] == decoder_readers.count(SMALL)


def test_tables(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    result = cli.rows(*QUICK, "--policy", "fp32")
    result["memory"] = [
        {
            "policy": "fp32",
            "executor": "numpy",
            "peak": 2 << 20,
            "counted": {"weights": 1 << 20, "activations": 1 << 19},
        }
    ]
    print_inference(result)
    printed = capsys.readouterr().out
    assert "x fp32" in printed
    assert "1.50" in printed
    result["rows"][0] |= {"bar": 0.5, "met": False}
    result["rows"][0]["speed"]["torch"] = 0.25
    assert "**0.25**" in inference_markdown(result)


@pytest.mark.parametrize("wrong", [("--policy", "none"), ("--tokens", 100)])
def test_refusals(cli: Cli, tmp_path: Path, wrong: tuple[Any, ...]) -> None:
    code, out, err = cli(*QUICK, *wrong, "--out", tmp_path / "result.json")
    assert (code, out, [*tmp_path.iterdir()]) == (2, "", [])
    assert_sentence(err.splitlines()[-1])
