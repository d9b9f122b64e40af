"""``qsim bench train``: the plain step is the same model, ratios follow from the times, bars stand where due."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Cli
from small_runs import assert_sentence

from qsim.bench import measurement, plain_step, train
from qsim.bench.measurement import Timing
from qsim.bench.plain_step import PlainStep
from qsim.bench.train import DEFAULT, ENTRIES, PLAIN, UNROLLED, Entry, Training
from qsim.bench.train_table import print_training, training_markdown
from qsim.config import DataConfig, ModelConfig, RunConfig
from qsim.memory import counted
from qsim.model import initial_parameters, loss_and_gradients
from qsim.policy import parse_policy
from qsim.sites import Calculator
from qsim.step import Step

SMALL = RunConfig(
    model=ModelConfig(layers=2, hidden=8, heads=2, length=8, vocabulary=32),
    data=DataConfig(batch_size=8),
)
CHOSEN = (
    Entry(policy="bf16", executor="numpy", bar=3.0),
    Entry(policy="fp16", executor="numpy", statistics=True),
)
QUICK = ("bench", "train", "--policy", "bf16", "--executor", "numpy", "--depths", 1, "--steps", 2)


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "SAMPLE_SECONDS", 1e-5)
    monkeypatch.setattr(train, "PAUSE", 0.0)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """A small model, measured once."""
    environment = {"cpu": "a processor", "cores": 2, "versions": {"numpy": "2.0", "absent": None}}
    model = {"layers": 2, "hidden": 8, "heads": 2, "length": 8, "vocabulary": 32}
    known = {"environment": environment, "threads": 1, "steps": 2, "model": model, "batch": 8, "data": train.DATA}
    with pytest.MonkeyPatch.context() as patch:
        lasting = iter([1.0, 1.5, 1.25, 4.0])
        patch.setattr(train, "_compile_seconds", lambda _: next(lasting))
        compiling = [row for depth in (1, 3) for row in train.compile_rows(SMALL, chosen=(), depth=depth)]
    return {**known, "rows": train.step_rows(SMALL, chosen=CHOSEN, steps=2), "compiling": compiling}


# The plain step


def drawn(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Parameters large enough for every part of the model to matter."""
    generator = np.random.default_rng(seed)
    parameters = {
        name: (w + generator.normal(0, 0.2, w.shape)).astype(np.float32)
        for name, w in initial_parameters(SMALL.model, 0).items()
    }
    tokens, targets = generator.integers(0, SMALL.model.vocabulary, (2, 8, SMALL.model.length), np.int32)
    return parameters, tokens, targets


@pytest.mark.thinned(0.5)
@pytest.mark.parametrize("unrolled", [False, True])
def test_plain_gradients_are_those_of_the_fp32_policy(unrolled: bool) -> None:
    """No bits are promised: to 1e-4 of the largest, which tells the same model from any other."""
    parameters, tokens, targets = drawn(1)
    gradient = plain_step.jax.value_and_grad(
        lambda p: plain_step.loss(SMALL.model, p, tokens, targets, unrolled=unrolled)
    )
    loss, found = gradient(parameters)
    calculator = Calculator(parse_policy("fp32"), "numpy")
    expected_loss, expected = loss_and_gradients(
        calculator, SMALL.model, parameters, tokens, targets, loss_scale=np.float32(1), chunks=8
    )
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-4)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert np.abs(np.asarray(found[name]) - gradient).max() <= 1e-4 * np.abs(gradient).max(), name


@pytest.mark.exhaustive
def test_plain_updates_are_those_of_the_fp32_policy() -> None:
    """Warm-up, bias correction, decay and clipping: the same losses, step by step."""
    config = replace(SMALL, optimizer=replace(SMALL.optimizer, clip=0.05, warmup_steps=2, weight_decay=3.0))
    ours, plain = (
        Training(config, parse_policy("fp32"), step)
        for step in (Step(config, parse_policy("fp32"), "numpy"), PlainStep(config))
    )
    for _ in range(6):
        ours()
        plain()
    assert plain.losses == pytest.approx(ours.losses, rel=1e-4)
    assert ours.losses[-1] < 0.98 * ours.losses[0]
    moved = {
        name: w - initial_parameters(config.model, 0)[name] for name, w in ours.position.state["parameters"].items()
    }
    for name, move in moved.items():
        found = np.asarray(plain.position.state["parameters"][name]) - initial_parameters(config.model, 0)[name]
        assert np.linalg.norm(found - move) <= 1e-2 * np.linalg.norm(move), name


# Steps


def test_every_entry_is_measured(result: dict[str, Any]) -> None:
    found = [(row["policy"], row["executor"]) for row in result["rows"]]
    assert found == [(PLAIN, "jax"), (UNROLLED, "jax"), *((entry.policy, entry.executor) for entry in CHOSEN)]


def test_ratios_follow_from_the_times(result: dict[str, Any]) -> None:
    plain, *others = result["rows"]
    assert (plain["plain"], plain["jax"], plain["statistics"]) == (None, None, None)
    for row in others:
        assert row["rounds"] == 2
        assert (row["jax"], row["losses_equal"]) == (None, None)
        assert row["plain"]["ratio"] == pytest.approx(row["seconds_best"] / plain["seconds_best"])
        assert (row["plain"]["bar"], row["plain"]["met"]) == (None, None)  # not the size with bars
    assert [row["statistics"] is None for row in others] == [True, True, False]


def compared(
    own: float, plain: float, on_jax: float, counting: float, *, stands: bool, loss: float = 2.0
) -> dict[str, Any]:
    entry = Entry(policy="bf16", executor="numba", bar=3.0, statistics=True)
    keys = [train._PLAIN, ("bf16", "numba", False), ("bf16", "numba", True), ("bf16", "jax", False)]
    times = {key: Timing((s,)) for key, s in zip(keys, (plain, own, counting, on_jax), strict=True)}
    trainings = {key: Training(SMALL, parse_policy("bf16"), lambda *_: ({}, {})) for key in keys}
    trainings[keys[1]].losses, trainings[keys[3]].losses = [1.0, 2.0], [1.0, loss, 3.0]
    return train._compared(entry, trainings, times, stands)


def test_bars_are_judged() -> None:
    row = compared(2.0, 1.0, 2.0, 3.0, stands=True)
    verdicts = [row[name] for name in ("plain", "jax", "statistics")]
    assert [v["ratio"] for v in verdicts] == pytest.approx([2.0, 1.0, 0.05])
    assert [(v["bar"], v["met"]) for v in verdicts] == [(3.0, True), (1.0, True), (0.1, True)]
    assert row["losses_equal"] is True
    row = compared(4.0, 1.0, 2.0, 10.0, stands=True, loss=2.0000002)
    assert row["losses_equal"] is False
    assert [row[name]["met"] for name in ("plain", "jax", "statistics")] == [False, False, False]
    row = compared(4.0, 1.0, 2.0, 10.0, stands=False)
    assert [row[name]["met"] for name in ("plain", "jax", "statistics")] == [None, None, None]


def test_entries_by_name() -> None:
    assert train.entries([], []) == list(ENTRIES)
    assert [(e.policy, e.executor) for e in train.entries(["bf16"], [])] == [("bf16", "jax"), ("bf16", "numba")]
    assert train.entries([], ["numba"]) == [entry for entry in ENTRIES if entry.executor == "numba"]
    assert train.entries(["tf32"], ["numpy", "jax"]) == [Entry(policy="tf32", executor=e) for e in ("numpy", "jax")]
    assert {e.policy: e.bar for e in ENTRIES if e.bar} == {
        "bf16": 3.0, "fp16": 3.0, "native-bf16": 1.5, "native-fp16": 1.5,
    }  # fmt: skip


def test_sizes() -> None:
    model, tokens = DEFAULT.model, DEFAULT.data.batch_size * DEFAULT.model.length
    assert (model.layers, model.hidden, model.heads, model.vocabulary, tokens) == (4, 128, 4, 256, 2048)
    assert train.configured(None, None) == DEFAULT
    assert train.configured("tiny", 5).model == replace(train.configured("tiny", None).model, layers=5)


# Compiling


def test_compiling_is_the_first_step_less_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(train, "forget_compiled", lambda: calls.append("forgotten"))
    lasting = iter([3.0, 0.5, 0.5, 0.75])
    monkeypatch.setattr(train, "seconds", lambda call: call() or next(lasting))
    step = partial(calls.append, "step")
    assert train._compile_seconds(lambda: calls.append("made") or step) == 2.5
    assert calls == ["forgotten", "made", "step", "step"]
    assert train._compile_seconds(lambda: step) == 0


def test_compiling_is_timed_by_depth(result: dict[str, Any]) -> None:
    found = [(row["policy"], row["layers"], row["plain"] and row["plain"]["ratio"]) for row in result["compiling"]]
    assert found == [(PLAIN, 1, None), (UNROLLED, 1, 1.5), (PLAIN, 3, None), (UNROLLED, 3, 3.2)]


def test_bars_of_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    lasting = iter([2.0, 9.0, 6.0, 6.5])
    monkeypatch.setattr(train, "_compile_seconds", lambda _: next(lasting))
    chosen = [*train.entries(["bf16", "fp16"], ["jax"]), Entry(policy="fp32", executor="numba")]
    rows = train.compile_rows(DEFAULT, chosen=chosen, depth=8)
    assert [row["policy"] for row in rows] == [PLAIN, UNROLLED, "bf16", "fp16"]
    found = [(row["plain"]["ratio"], row["plain"]["bar"], row["plain"]["met"]) for row in rows[1:]]
    assert found == [(4.5, None, None), (3.0, 3.0, True), (3.25, 3.0, False)]


# Results


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """With bars missed."""
    rows, compiling = ([dict(row) for row in result[name]] for name in ("rows", "compiling"))
    rows[2]["plain"] = train._judged(PLAIN, 3.0, 4.0)
    rows[2]["jax"], rows[2]["losses_equal"] = train._judged(train.ON_JAX, 1.0, 0.5), True
    rows[2]["statistics"] = train._judged(train.UNCOUNTED, 0.1, 0.125)
    bf16 = Entry(policy="bf16", memory_bar=1.5)
    rows[2]["memory"] = train._memory(SMALL, bf16, 2 * sum(counted(SMALL, bf16.arithmetic).values()))
    compiling[1]["seconds"], compiling[1]["plain"] = 2.0, train._judged(PLAIN, 3.0, 5.0)
    return {**result, "rows": rows, "compiling": compiling}


def test_printed_result(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_training(judged(result))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("2 layers, width 8, 2 heads, vocabulary 32, 8 x 8 tokens; random tokens")
    assert " ".join(lines[7].split()).endswith(" 4.00 <= 3 NO 0.50 <= 1 yes yes 12.5 % <= 10 % NO 2.00 <= 1.5 NO")
    assert lines[9].startswith("bf16 on numpy holds 0.3 MiB; parameters 0.0 MiB, moments 0.0 MiB, ")
    assert lines[-3].split()[-4:] == ["5.00", "<=", "3", "NO"]


def test_markdown(result: dict[str, Any]) -> None:
    steps, compiling = training_markdown(judged(result)).split("\n\n")
    head, _, plain, *lines = steps.splitlines()
    assert head.startswith("| policy | executor | time / time of the plain step | bar | ")
    assert plain == f"| {PLAIN} | jax |  |  |  |  |  |  |  |  |"
    assert lines[1] == "| bf16 | numpy | **4.00** | <= 3 | 0.50 | <= 1 | **12.5 %** | <= 10 % | **2.00** | <= 1.5 |"
    head, _, plain, unrolled = compiling.splitlines()
    assert head == "| compiling | 1 layers | 3 layers | bar |"
    assert unrolled.startswith(f"| {UNROLLED} | **2.0 s (5.00)** | ")
    assert unrolled.endswith(" | <= 3 |")


# The command


def test_json(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "DEFAULT", SMALL)
    monkeypatch.setattr(train, "_compile_seconds", lambda _: 1.0)
    file = tmp_path / "train.json"
    code, out, err = cli(*QUICK, "--layers", 1, "--json", "--out", file)
    assert (code, err) == (0, "compiling, 1 layers\n1 policies, at most 2 steps\n")
    result = json.loads(out)
    assert json.loads(file.read_text()) == result
    assert (result["benchmark"], result["model"]["layers"], result["batch"]) == ("train", 1, 8)
    assert [row["policy"] for row in result["rows"]] == [PLAIN, UNROLLED, "bf16"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("bf16",), ("'bf16'",)),
        (("--preset", "huge"), ("'huge'", "tiny")),
        (("--layers", "0"), ("'0'", "1 to 96")),
        (("--depths", "97"), ("'97'", "1 to 96")),
        (("--policy", "fp15"), ("'fp15'", "bf16")),
        (("--executor", "numpy"), ("numpy", "--policy")),
        (("--steps", "0"), ("'0'", "1 to 10000")),
        (("--out", "{folder}"), ("is a folder", "a file in it")),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_one_line(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    words = [word.replace("{folder}", str(tmp_path)) for word in arguments]
    assert_sentence(cli.refused(tmp_path, "bench", "train", *words), *parts)
