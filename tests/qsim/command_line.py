"""The command line run in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import contents

from qsim.cli import main


class Cli:
    """Runs a command in this process: exit code, standard output, standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in arguments])
        code = end.value.code
        return (code if isinstance(code, int) else -1, *self.capsys.readouterr())

    def rows(self, *arguments: object) -> Any:
        """The JSON of a command that succeeds."""
        code, out, _ = self(*arguments, "--json")
        assert code == 0
        return json.loads(out)

    def refused(self, folder: Path, *arguments: object) -> str:
        """The one line of a command that is refused; nothing below the folder may have changed."""
        before = contents(folder)
        code, out, err = self(*arguments)
        assert (code, out) == (2, ""), err
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert contents(folder) == before
        assert err.startswith("qsim")
        return err.removesuffix("\n")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)
