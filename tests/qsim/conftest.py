"""What the tests of commands share."""

from __future__ import annotations

import pytest
from command_line import Cli


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)
