"""Full speed compared for a GPU that is not here: refusals, and, where its compiler is installed, the figures."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import Cli
from small_runs import assert_sentence

from qsim.bench.absent import absent_markdown
from qsim.planning import apart

FULL = ("bench", "train", "--full-speed", "--machine")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((*FULL, "v4-8"), ("v4-8", "h100-1")),
        ((*FULL, "h100-8"), ("h100-8", "h100-1")),
        ((*FULL, "h100-1", "--policy", "bf16"), ("bf16", "native")),
        (("bench", "train", "--machine", "h100-1"), ("h100-1", "--full-speed")),
    ],
    ids=" ".join,
)
def test_what_is_refused(cli: Cli, tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    assert_sentence(cli.refused(tmp_path, *words), *parts)


def test_without_the_compiler_it_says_what_to_install(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "find_spec", lambda _: None)
    assert_sentence(cli.refused(tmp_path, *FULL, "h100-1"), "not installed", "qsim-precision[gpu]")


@pytest.mark.skipif(find_spec("jax_cuda12_plugin") is None, reason="jax_cuda12_plugin (extra gpu) is not installed")
def test_native_policies_move_fewer_bytes_than_plain_bfloat16(cli: Cli) -> None:
    result = cli.rows(*FULL, "h100-1", "--preset", "medium")
    assert [row["policy"] for row in result["rows"]] == ["plain bfloat16", "native-bf16", "native-fp16"]
    assert [row["met"] for row in result["rows"]] == [None, True, True]
    assert [row["faults"] for row in result["rows"]] == [[], [], []]
    assert absent_markdown(result).count("| yes |") == 2
