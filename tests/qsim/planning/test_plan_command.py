"""``qsim plan`` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Cli
from small_runs import assert_sentence

from qsim.cli import _parser
from qsim.config import preset
from qsim.planning.plan import DERIVED, PRESETS


def test_all_sizes(cli: Cli) -> None:
    rows = cli.rows("plan")
    assert [row["preset"] for row in rows] == list(PRESETS)
    assert {row["preset"] for row in rows if row["derived"]} == set(DERIVED)
    assert all(row["bytes_of_a_device"] <= row["memory_of_a_device"] for row in rows)


def test_one_size(cli: Cli) -> None:
    row = cli.rows("plan", "6b", "--mesh", "data=16,model=4", "--machine", "v4-128", "--accumulation", "4")
    assert row["parameters"] == preset("6b").model.parameters == 6_066_462_720
    assert (row["mesh"], row["accumulation"], row["machine"]) == ("data=16,model=4", 4, "v4-128")
    assert row["bytes_of_a_device"] == sum(row["bytes"].values())
    rate = row["devices"] * row["tflops_of_a_device"] * 1e12 * 0.4
    assert row["seconds_of_a_step"] == pytest.approx(row["operations_of_a_step"] / rate)
    assert row["days"] == pytest.approx(row["seconds_of_a_step"] * 75_000 / 86_400)


def test_a_faster_machine_is_faster(cli: Cli) -> None:
    slow, fast = (cli.rows("plan", "1b", "--machine", "v4-32", "--utilisation", share) for share in ("0.2", "0.4"))
    assert slow["days"] == pytest.approx(2 * fast["days"])


def test_the_table(cli: Cli) -> None:
    code, out, _ = cli("plan")
    assert code == 0
    assert "52b (derived)" in out
    assert "\n125m  " in out
    code, out, _ = cli("plan", "410m")
    assert code == 0
    for words in ("410m (derived: ", "409,266,176 parameters", "parameters ", "moments ", "days for 75,000 steps"):
        assert words in out
    assert "statistics take the operations of 26.4 such steps; every 500 steps, 5.3% of the run" in out
    code, out, _ = cli("plan", "410m", "--machine", "h100-8")
    assert code == 0
    assert "statistics add to tables in memory, value by value, at a cost that is not counted; every 500 steps" in out


@pytest.mark.parametrize("name", PRESETS)
def test_the_command_that_is_printed_is_one(cli: Cli, name: str) -> None:
    """Its options are those of ``qsim train``, its overrides keys of the configuration."""
    row = cli.rows("plan", name)
    words = row["command"].split()
    parsed, rest = _parser().parse_known_args(words[1:])
    assert (parsed.command, parsed.preset, parsed.policy) == ("train", name, "native-bf16")
    changed = dict(zip(rest[::2], rest[1::2], strict=True))
    assert int(changed.get("--data.accumulation", 8)) == row["accumulation"]
    assert int(changed.get("--data.reduction_chunks", 8)) == row["reduction_chunks"]
    assert parsed.distributed == (row["machine"] not in ("h100-1", "v4-8"))
    assert (parsed.checkpoints == "orbax") == (row["devices"] > 1)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("7b",), ("unknown preset '7b'", "52b")),
        (("6b", "--machine", "v4-12"), ("v4-12",)),
        (("6b", "--chip", "v9"), ("'v9'", "v5e")),
        (("6b", "--chip", "v4", "--machine", "v4-8"), ("leave out --chip",)),
        (("6b", "--mesh", "data=8", "--machine", "v4-8"), ("8 devices", "v4-8 has 4")),
        (("6b", "--mesh", "data=4,model=3", "--chip", "v4"), ("model=3", "model.heads 32")),
        (("52b", "--machine", "h100-8"), ("GiB", "h100-8", "larger machine")),
        (("--compile",), ("one size",)),
        (("125m", "--chip", "v4", "--mesh", "data=2", "--compile"), ("2 devices of v4", "v4-128")),
        (("410m", "--batch", "11", "--mesh", "data=4"), ("data.reduction_chunks 4", "data.batch_size 11")),
        (("410m", "--model.width", "3"), ("unknown configuration key 'model.width'",)),
        (("410m", "--policy", "fp17"), ("fp17",)),
    ],
    ids=" ".join,
)
def test_what_is_refused(cli: Cli, tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    assert_sentence(cli.refused(tmp_path, "plan", *words), *parts)


def test_training_on_another_machine_is_refused(cli: Cli, tmp_path: Path) -> None:
    line = cli.refused(tmp_path, "train", "--machine", "v4-8", "--out", tmp_path / "run", "--executor", "jax")
    assert_sentence(line, "machine v4-8 is 4 of v4", "cpu")
