"""``qsim report experiments``: one page of what a folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Cli
from small_runs import assert_sentence, write_text
from tiny_scale import TINY

from experiments.scales import SCALES


def test_page_of_a_folder(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCALES, "smoke", TINY)
    out, page = tmp_path / "out", tmp_path / "page.html"
    cli("experiment", "int4", "methods", "--scale", "smoke", "--out", out, "--text", write_text(tmp_path))
    code, told, _ = cli("report", "experiments", out, "--out", page)
    assert code == 0
    assert str(page) in told
    text = page.read_text()
    assert text.index('id="int4"') < text.index('id="methods"')
    for words in ("cannot be told at this scale", "Rule, written before it was run", "qsim experiment int4 --scale"):
        assert words in text
    assert text.count("<svg") == 2
    assert "https:" not in text


def test_a_folder_without_verdicts_is_refused(cli: Cli, tmp_path: Path) -> None:
    said = cli.refused(tmp_path, "report", "experiments", tmp_path, "--out", tmp_path / "page.html")
    assert_sentence(said, "verdicts.json", "qsim experiment all")
