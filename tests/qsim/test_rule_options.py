"""Rules on the command line: train, replay, resume, policy; and runs that promise no hash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Cli
from small_runs import assert_sentence, small_flags, small_run, write_text

from qsim.policy import POLICIES
from qsim.runs import RunFolder

RULES = ("--rule", "layer.1.mlp_up.wgrad=bf16", "--rule", "layernorm_*={inner: fp16, sums: fp16}")
CHANGED = POLICIES["fp16"].override(
    [("layer.1.mlp_up.wgrad", "bf16"), ("layernorm_*", {"inner": "fp16", "sums": "fp16"})], layers=2
)


def train(folder: Path, *more: str) -> list[str]:
    text = str(write_text(folder))
    flags = small_flags(steps=2, **{"record.statistics_every": 2})
    return ["train", "--text", text, "--out", str(folder / "run"), *flags, *more]


def test_train_under_rules(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli(*train(tmp_path, "--policy", "fp16", *RULES))
    assert code == 0, err
    run = RunFolder.open(tmp_path / "run")
    assert run.policy == CHANGED
    assert run.record()["policy_sha256"] == CHANGED.sha256
    sites = json.loads((run.path / "statistics" / "step_000002.json").read_text())["sites"]
    assert [sites[f"layer.{i}.mlp_up.wgrad"]["format"] for i in (0, 1)] == ["fp16", "bf16"]
    assert cli("verify", run.path, "--executor", "numpy", "--steps", "1")[0] == 0


def test_scales_that_gradients_would_have_borne_are_recorded(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "fp16", steps=1)
    file = json.loads((run.path / "statistics" / "step_000001.json").read_text())
    assert set(file) == {"step", "sites", "scales", "swallowed", "what_if"}
    assert {row["format"] for row in file["scales"].values()} == {"fp16"}
    weight = file["scales"]["layer.1.mlp_up.weight"]
    assert weight["smallest"] < weight["largest"]


def test_replay_under_rules(cli: Cli, tmp_path: Path) -> None:
    base = small_run(tmp_path / "base", steps=1)
    assert cli("replay", base.path, "--as", "fp16", *RULES, "--out", tmp_path / "replays")[0] == 0
    assert RunFolder.open(tmp_path / "replays" / "fp16-rules").policy == CHANGED


def test_a_resumed_run_keeps_its_rules(cli: Cli, tmp_path: Path) -> None:
    assert cli(*train(tmp_path, "--policy", "fp16", *RULES))[0] == 0
    again = ["train", "--resume", "--out", str(tmp_path / "run")]
    assert cli(*again)[0] == 0
    assert cli(*again, "--policy", "fp16", *RULES)[0] == 0
    code, _, err = cli(*again, "--policy", "fp16", *RULES[:2])
    assert code == 2
    assert_sentence(err.strip(), "keeps its policy", "--rule")


def test_policy_under_rules(cli: Cli) -> None:
    assert cli.rows("policy", "fp16", *RULES) == json.loads(json.dumps(CHANGED.as_json()))
    lines = cli("policy", "fp16", *RULES)[1].splitlines()
    heads = [i for i, line in enumerate(lines) if line.split()[:2] in (["site", "pass"], ["layer", "site"])]
    assert len(heads) == 2
    assert lines[heads[1] + 1].split()[:5] == ["1", "mlp_up", "wgrad", "bf16", "bf16"]


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ("mlp_up.wgrad", ("'mlp_up.wgrad'", "PATTERN=VALUE")),
        ("mlp_up.wgrad=3", ("'mlp_up.wgrad=3'", "PATTERN=VALUE")),
        ("mlp_up.wgrad=[", ("valid YAML",)),
        ("mlp_up.wgrad=fp99", ("'fp99'",)),
        ("layer.2.*=fp32", ("'layer.2.*'", "2 layers")),
        ("attention.*=fp32", ("'attention.*'", "site.pass")),
    ],
)
def test_bad_rules_are_one_line(cli: Cli, tmp_path: Path, rule: str, parts: tuple[str, ...]) -> None:
    code, _, err = cli(*train(tmp_path, "--rule", rule))
    assert code == 2
    assert_sentence(err.strip(), *parts)


def test_native_runs_promise_no_hash(cli: Cli, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "native-bf16", steps=1)
    assert run.record()["hashes"] == "none promised"
    assert "hashes" not in small_run(tmp_path / "other", "bf16", steps=1).record()
    assert "hashes: none promised" in cli("policy", "native-bf16")[1]
    code, _, err = cli("verify", run.path)
    assert code == 2
    assert_sentence(err.strip(), "natively", "promises no hash")
