"""The command line: what it prints, its exit codes, and bad input answered in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli
from processes import COMMAND, HEEDING
from small_runs import STEPS, assert_sentence, contents, hash_rows, small_flags, small_run, write_text

from qsim.checkpoints import load_checkpoint, save_checkpoint, saved_steps
from qsim.cli import main
from qsim.config import PRESETS
from qsim.policy import POLICIES, STAGES
from qsim.runs import RunFolder

# Python starts with SIGINT ignored where its parent is a job in the background
IN_FOREGROUND = HEEDING + COMMAND


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("cli") / "base").path


@pytest.fixture
def own(base: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may spoil."""
    return Path(shutil.copytree(base, tmp_path / "own"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_hash(run: Path, step: int, part: str) -> None:
    """One digit of one recorded hash."""
    rows = hash_rows(run)
    digit = rows[step - 1][part][-1]
    rows[step - 1][part] = rows[step - 1][part][:-1] + ("0" if digit != "0" else "1")
    (run / "hashes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# What works


def test_train_writes_a_run(cli: Cli, tmp_path: Path, base: Path) -> None:
    text = write_text(tmp_path)
    code, out, err = cli("train", "--text", text, "--out", tmp_path / "run", *small_flags())
    assert code == 0
    assert out.splitlines()[1].startswith("fp32 ")
    assert [line.split("  ")[0] for line in err.splitlines()] == [f"fp32: step {i}/6" for i in range(1, 7)]
    assert hash_rows(tmp_path / "run") == hash_rows(base)


def test_train_prints_json(cli: Cli, tmp_path: Path) -> None:
    text = write_text(tmp_path)
    (row,) = cli.rows("train", "--policy", "bf16", "--text", text, "--out", tmp_path / "run", *small_flags(steps=2))
    assert (row["policy"], row["steps"], row["hashes_differ_from_base"]) == ("bf16", 2, None)
    assert row["parameters_sha256"] == hash_rows(tmp_path / "run")[-1]["parameters"]
    metrics = list(RunFolder(tmp_path / "run").rows("metrics.jsonl"))
    assert (row["loss"], row["held_out_loss"]) == (metrics[-2]["loss"], metrics[-1]["validation_loss"])


def test_configuration_comes_from_preset_file_and_flags_in_that_order(cli: Cli, tmp_path: Path) -> None:
    text, file = write_text(tmp_path), tmp_path / "small.yaml"
    file.write_text(
        "model: {hidden: 16, length: 16}\nsteps: 9\nseed: 4\n"
        "data:\n  batch_size: 2\n  reduction_chunks: 2\noptimizer: {learning_rate: 3e-4, clip: null}\n"
    )
    flags = ("--config", file, "--steps", 2, "--model.hidden=8", "--model.heads", 4, "--optimizer.epsilon", "1e-6")
    assert cli("train", "--preset", "tiny", "--text", text, "--out", tmp_path / "run", *flags)[0] == 0
    config = RunFolder.open(tmp_path / "run").config
    assert (config.steps, config.seed, config.model.hidden, config.model.heads) == (2, 4, 8, 4)
    assert (config.model.length, config.data.batch_size, config.data.reduction_chunks) == (16, 2, 2)
    assert (config.optimizer.learning_rate, config.optimizer.clip, config.optimizer.epsilon) == (3e-4, None, 1e-6)


def test_replay_writes_one_run_a_policy(cli: Cli, tmp_path: Path, base: Path) -> None:
    out = tmp_path / "replays"
    rows = cli.rows("replay", base, "--as", "fp32", "--as", "fp16-noscale", "--as", "fp32", "--out", out)
    assert [row["policy"] for row in rows] == ["fp32", "fp32", "fp16-noscale"]
    assert [row["hashes_differ_from_base"] for row in rows][:2] == [None, "equal at every step"]
    assert rows[2]["hashes_differ_from_base"].startswith("step")
    assert rows[2]["gradients_underflowed"] > 0
    assert {path.name for path in out.iterdir()} == {"fp32", "fp16-noscale"}
    assert hash_rows(out / "fp32") == hash_rows(base)


def test_replay_of_the_first_steps_on_another_executor(cli: Cli, tmp_path: Path, base: Path) -> None:
    flags = ("--as", "fp32", "--steps", 2, "--executor", "numpy", "--out", tmp_path)
    _, row = cli.rows("replay", base, *flags)
    assert (row["steps"], row["hashes_differ_from_base"]) == (2, "equal at all 2 steps compared")
    assert RunFolder.open(tmp_path / "fp32").executor == "numpy"


def test_verify(cli: Cli, base: Path) -> None:
    before = contents(base)
    code, out, _ = cli("verify", base)
    assert (code, out) == (0, f"{base} again on numba: hashes equal at every step\n")
    code, out, _ = cli("verify", base, "--steps", 3, "--executor", "numpy", "--json")
    assert code == 0
    words = "equal at all 3 steps compared"
    assert json.loads(out) == {"run": str(base), "executor": "numpy", "equal": True, "hashes": words}
    assert contents(base) == before


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("part", ["loss", "gradients", "parameters", "optimizer"])
def test_verify_finds_an_altered_hash(cli: Cli, own: Path, part: str) -> None:
    change_hash(own, 3, part)
    code, out, _ = cli("verify", own)
    assert code == 1
    assert out.replace("\u00a0", " ") == f"{own} again on numba: first difference at step 3 ({part})\n"
    assert cli("verify", own, "--steps", 2)[0] == 0
    code, out, _ = cli("verify", own, "--json")
    assert (code, json.loads(out)["equal"]) == (1, False)


def test_verify_finds_altered_weights(cli: Cli, own: Path) -> None:
    shutil.rmtree(own / "checkpoints" / "step_0")
    save_checkpoint(own, dataclasses.replace(load_checkpoint(own, 2), step=0))
    code, out, _ = cli("verify", own)
    assert code == 1
    assert out.replace("\u00a0", " ").endswith("first difference at step 1\n")


def test_report(cli: Cli, tmp_path: Path, base: Path) -> None:
    cli("replay", base, "--as", "bf16", "--out", tmp_path, "--steps", 2)
    page = tmp_path / "page.html"
    code, out, err = cli("report", base, tmp_path / "bf16", "--out", page)
    assert (code, out, err) == (0, f"wrote {page}\n", "")
    assert "bf16" in page.read_text()
    found = cli.rows("report", base, "--out", tmp_path / "pages", "--files", tmp_path / "figures")
    assert found["report"] == str(tmp_path / "pages" / "report.html")
    assert [Path(name).suffix for name in found["files"]] == [".svg", ".csv"] * len(found["figures"])
    assert all(Path(name).is_file() for name in found["files"])
    assert found["runs"][0]["path"] == str(base)


def test_report_of_shadows_and_attributions(cli: Cli, tmp_path: Path, base: Path) -> None:
    cli("replay", base, "--as", "fp16-noscale", "--mode", "shadow", "--out", tmp_path, "--steps", 2)
    cli("attribute", base, "--to", "bf16", "--batches", 2, "--parts", 0, "--out", tmp_path / "costs.json")
    run, costs, page = tmp_path / "fp16-noscale", tmp_path / "costs.json", tmp_path / "page.html"
    found = cli.rows("report", base, run, "--attribution", costs, "--out", page)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    columns = ["error of the gradients, fp16-noscale shadow", "error of the update, fp16-noscale shadow"]
    assert found["figures"]["errors"] == {
        "label": "Error of gradients and updates over steps of fp16-noscale shadow",
        "columns": ["step", *columns],
        "rows": [[row["step"], row["gradient_error"], row["update_error"]] for row in rows],
    }
    assert found["attributions"][0]["whole"] == json.loads(costs.read_text())["whole"]
    assert "the gradients of fp16-noscale shadow lay up to" in page.read_text()


def test_policy(cli: Cli) -> None:
    assert cli.rows("policy") == list(POLICIES)
    assert cli("policy")[1].split() == list(POLICIES)
    for name, policy in POLICIES.items():
        assert cli.rows("policy", name) == json.loads(json.dumps(policy.as_json()))
        code, out, _ = cli("policy", name)
        assert code == 0
        assert out.startswith(f"{name}: ")
        assert len(out.splitlines()) == 3 + len(policy.sites) + len(STAGES)


COMMANDS = (
    "demo",
    "train",
    "replay",
    "verify",
    "report",
    "policy",
    "formats",
    "accumulators",
    "bench",
    "bench rounding",
    "bench gemm",
    "bench train",
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(cli: Cli, command: str) -> None:
    code, out, err = cli(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith("usage: qsim")


def test_demo_goes_beside_an_earlier_one(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --out it takes the first of demo, demo-2, demo-3 that is free."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").write_text("")
    text = write_text(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.rows("demo", "--text", text, *small_flags(steps=1))["report"] == "demo-3/report.html"
    assert (tmp_path / "demo-3" / "report.html").is_file()
    assert list((tmp_path / "demo").iterdir()) == []


# Resuming


def test_resume_of_replays(cli: Cli, tmp_path: Path, base: Path) -> None:
    """One finished, one interrupted at step 3, one not begun."""
    flags = (base, "--as", "fp32", "--as", "fp16", "--as", "bf16", "--out", tmp_path / "again")
    whole = cli.rows("replay", *flags[:-1], tmp_path / "whole")
    cli("replay", base, "--as", "fp32", "--as", "fp16", "--out", tmp_path / "again")
    interrupted = tmp_path / "again" / "fp16"
    shutil.rmtree(interrupted / "checkpoints" / "step_4")
    shutil.rmtree(interrupted / "checkpoints" / "step_6")
    for name, kept in (("metrics.jsonl", 3), ("hashes.jsonl", 3)):
        lines = (interrupted / name).read_text().splitlines(keepends=True)
        (interrupted / name).write_text("".join(lines[:kept]) + lines[kept][:20])
    assert "choose another --out" in cli.refused(tmp_path, "replay", *flags)
    rows = cli.rows("replay", *flags, "--resume")
    assert [{k: v for k, v in row.items() if k != "run"} for row in rows] == [
        {k: v for k, v in row.items() if k != "run"} for row in whole
    ]


def test_resume_of_a_finished_run_changes_nothing(cli: Cli, own: Path) -> None:
    before = contents(own)
    assert cli("train", "--resume", "--out", own)[0] == 0
    assert contents(own) == before


def start(*arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", IN_FOREGROUND, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.thinned(0.5)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_and_resume(cli: Cli, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """A signal after the first line of progress: its step is saved, and with --resume the hashes are the same."""
    text, steps = write_text(tmp_path), 80
    changes = {"model.dropout": 0.1, "record.checkpoint_every": 0, "record.statistics_every": 0}
    flags = ("--text", text, *small_flags(steps=steps, **changes))
    command = ("train", "--policy", "fp16", *flags, "--out", tmp_path / "stopped")
    process = start(*command)
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert first.startswith("fp16: step 8/80 ")
    assert process.returncode == code
    assert out == ""
    *progress, last = err.splitlines()
    assert all(line.startswith("fp16: step ") for line in progress)
    assert_sentence(last, "qsim train: interrupted", "--resume")
    made = len(hash_rows(tmp_path / "stopped"))
    assert 8 <= made < steps
    assert saved_steps(tmp_path / "stopped") == [0, made]

    assert cli(*command, "--resume")[0] == 0
    assert cli("train", "--policy", "fp16", *flags, "--out", tmp_path / "straight")[0] == 0
    assert hash_rows(tmp_path / "stopped") == hash_rows(tmp_path / "straight")
    assert len(hash_rows(tmp_path / "stopped")) == steps


def test_the_installed_command(tmp_path: Path, base: Path) -> None:
    """The console script in a process of its own: success, difference, bad input."""
    script = Path(sys.executable).with_name("qsim")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
        )

    verified = run("verify", base, "--steps", 1, "--json")
    assert (verified.returncode, json.loads(verified.stdout)["equal"]) == (0, True)
    refused = run("replay", base, "--as", "fp99", "--out", tmp_path / "x")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert_sentence(refused.stderr.removesuffix("\n"), "'fp99'", *POLICIES)
    assert contents(tmp_path) == {}


def test_nobody_reads_on() -> None:
    """As in ``qsim policy fp16 | head``: the exit code of SIGPIPE and not a word."""
    code = "from qsim.cli import main; main(['policy', 'fp16'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


# Bad input: exit code 2, one line, nothing written

TRAIN = ("train", "--text", "{folder}/text.txt", "--out", "{folder}/run")
REPLAY = ("replay", "{folder}/own", "--out", "{folder}/replays")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        # words of the command line
        ((), ("COMMAND", "--help")),
        (("trian",), ("'trian'", "train")),
        (("train",), ("--out", "--help")),
        (("formats", "--model.hidden", "3"), ("'--model.hidden'", "--help")),
        (("policy", "fp16", "bf16"), ("'bf16'",)),
        ((*TRAIN, "--stps", "3"), ("'--stps'",)),
        ((*TRAIN, "--model.hidden"), ("'--model.hidden'", "no value")),
        ((*TRAIN, "--model.hidden", "16", "17"), ("'17'",)),
        ((*TRAIN, "--executor", "cuda"), ("'cuda'", "numpy", "numba", "jax")),
        ((*TRAIN, "--steps", "many"), ("--steps", "'many'")),
        (("replay", "{folder}/own", "--as", "fp16"), ("--out",)),
        (REPLAY, ("--as",)),
        # the configuration
        ((*TRAIN, "--preset", "huge"), ("'huge'", *PRESETS)),
        ((*TRAIN, "--policy", "fp99"), ("'fp99'", *POLICIES)),
        ((*TRAIN, "--steps", "-1"), ("steps is -1", "at least 1")),
        ((*TRAIN, "--steps", "0"), ("steps is 0", "at least 1")),
        ((*TRAIN, "--seed", "-1"), ("seed -1", "2^64")),
        ((*TRAIN, "--model.width", "3"), ("'model.width'", "known here", "hidden")),
        ((*TRAIN, "--modle.hidden", "3"), ("'modle.hidden'", "known here", "model")),
        ((*TRAIN, "--model.layers", "two"), ("model.layers", "'two'", "int")),
        ((*TRAIN, "--model.layers", "2.0"), ("model.layers", "2.0", "int")),
        ((*TRAIN, "--model.dropout", "1.5"), ("model.dropout is 1.5", "0 <= p < 1")),
        ((*TRAIN, "--model.hidden", "15"), ("model.hidden 15", "heads")),
        ((*TRAIN, "--optimizer.clip", "[1"), ("--optimizer.clip", "'[1'", "YAML")),
        ((*TRAIN, "--config", "{folder}/missing.yaml"), ("no such file", "missing.yaml")),
        ((*TRAIN, "--config", "{folder}/broken.yaml"), ("broken.yaml", "YAML")),
        ((*TRAIN, "--config", "{folder}/list.yaml"), ("list.yaml", "mapping")),
        ((*TRAIN, "--config", "{folder}/binary.yaml"), ("binary.yaml", "UTF-8")),
        ((*TRAIN, "--config", "{folder}/unknown.yaml"), ("'model.width'", "known here")),
        ((*TRAIN, "--config", "{folder}/preset.yaml"), ("unknown preset", "[1]")),
        ((*TRAIN, "--config", "{folder}"), ("is a directory", "{folder}")),
        # the text
        (("train", "--text", "{folder}/missing.txt", "--out", "{folder}/run"), ("missing.txt", "--text")),
        (("train", "--text", "{folder}/empty.txt", "--out", "{folder}/run"), ("empty.txt", "is empty")),
        (("train", "--text", "{folder}/short.txt", "--out", "{folder}/run"), ("fewer than one batch", "more text")),
        ((*TRAIN, "--model.vocabulary", "300"), ("300", "256")),
        (("demo", "--text", "{folder}/short.txt", "--out", "{folder}/run"), ("fewer than one batch",)),
        # the folders
        (("train", "--text", "{folder}/text.txt", "--out", "{folder}/own"), ("own", "exists already", "--out")),
        (("train", "--text", "{folder}/text.txt", "--out", "{folder}/text.txt"), ("exists already", "--out")),
        (("demo", "--out", "{folder}/own"), ("own", "exists already", "--out")),
        (("train", "--resume", "--out", "{folder}/run"), ("run", "not a run folder")),
        (("replay", "{folder}/none", "--as", "fp16", "--out", "{folder}/replays"), ("none", "not a run folder")),
        ((*REPLAY, "--as", "fp99"), ("'fp99'", *POLICIES)),
        ((*REPLAY, "--as", "fp16", "--as", "fp99"), ("'fp99'",)),
        ((*REPLAY, "--as", "fp16", "--steps", "-2"), ("steps is -2", "at least 1")),
        ((*REPLAY, "--as", "fp16", "--data", "{folder}/none"), ("none", "--data")),
        (("replay", "{folder}/own", "--as", "fp16", "--as", "bf16", "--out", "{folder}/used"), ("bf16", "exists")),
        (("verify", "{folder}/none"), ("none", "not a run folder")),
        (("verify", "{folder}/own", "--steps", "0"), ("no hash", "--steps")),
        (("verify", "{folder}/own", "--model.hidden", "3"), ("'--model.hidden'",)),
        (("report", "{folder}/none", "--out", "{folder}/r.html"), ("none", "no config.json")),
        (("report", "{folder}/own", "{folder}/none", "--out", "{folder}/r.html"), ("none", "no config.json")),
        (("report", "{folder}/own", "--out", "{folder}/text.txt/r.html"), ("text.txt",)),
        (("policy", "fp99"), ("'fp99'", *POLICIES)),
    ],
    ids=lambda value: " ".join(value).replace("{folder}/", "") if value and value[0] not in POLICIES else None,
)
def test_bad_input_is_one_line(cli: Cli, own: Path, arguments: Sequence[str], parts: Sequence[str]) -> None:
    folder = own.parent
    write_text(folder)
    files = {
        "empty.txt": b"",
        "short.txt": b"too short",
        "broken.yaml": b"model: {hidden: 16",
        "list.yaml": b"- 1\n- 2\n",
        "binary.yaml": b"steps: \xff",
        "unknown.yaml": b"model:\n  width: 16\n",
        "preset.yaml": b"preset: [1]\n",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "used" / "bf16").mkdir(parents=True)
    (folder / "used" / "bf16" / "notes").write_text("mine")
    line = cli.refused(folder, *(word.replace("{folder}", str(folder)) for word in arguments))
    assert_sentence(line, *(part.replace("{folder}", str(folder)) for part in parts))


@pytest.mark.parametrize("command", [("replay", "--as", "fp16", "--out", "out"), ("verify",), ("train", "--resume")])
def test_altered_tokens(cli: Cli, own: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    monkeypatch.chdir(own.parent)
    path = own / "tokens.bin"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    if command[0] == "train":  # a finished run does not need its tokens
        lines = (own / "metrics.jsonl").read_text().splitlines(keepends=True)
        (own / "metrics.jsonl").write_text("".join(lines[:-1]))
    line = cli.refused(own.parent, *command, *(("--out", own) if command[0] == "train" else (own,)))
    assert_sentence(line, "tokens.bin", "altered", "restore the file")


@pytest.mark.parametrize("command", [("replay", "--as", "fp16", "--out", "out"), ("verify",), ("report",)])
@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_damaged_config(
    cli: Cli, own: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], text: str
) -> None:
    monkeypatch.chdir(own.parent)
    (own / "config.json").write_text(text)
    assert_sentence(cli.refused(own.parent, *command, own), "config.json", "restore it")


@pytest.mark.parametrize("command", [("replay", "--as", "fp16", "--out", "out"), ("verify",)])
def test_damaged_checkpoint(cli: Cli, own: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    monkeypatch.chdir(own.parent)
    path = own / "checkpoints" / "step_0" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert_sentence(cli.refused(own.parent, *command, own), "step_0", "is damaged", "remove that folder")


def test_run_without_hashes_cannot_be_verified(cli: Cli, own: Path) -> None:
    (own / "hashes.jsonl").unlink()
    assert_sentence(cli.refused(own, "verify", own), repr(str(own)), "no hash", "--record.hash_every")


def test_traceback_shows_where_an_error_came_from() -> None:
    with pytest.raises(ValueError, match="fp99"):
        main(["policy", "fp99", "--traceback"])


def test_steps_of_the_small_run(base: Path) -> None:
    """The expectations above are of six steps."""
    assert len(hash_rows(base)) == STEPS == 6


@pytest.mark.parametrize(
    "option", [["--steps", "9"], ["--policy", "bf16"], ["--model.dropout", "0.5"], ["--seed", "4"]]
)
def test_a_resumed_run_keeps_what_it_was_begun_with(option, tmp_path, capsys):
    out = tmp_path / "run"
    RunFolder.create(out, PRESETS["tiny"], POLICIES["fp32"], "numba")
    with pytest.raises(SystemExit) as stop:
        main(["train", "--out", str(out), "--resume", *option])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{option[0]} {option[1]} differs; leave it out" in line
