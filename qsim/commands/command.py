"""What a module of commands is given to register them with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

Arguments: TypeAlias = argparse.Namespace
Run: TypeAlias = Callable[[Arguments], int]  # does the command; returns the exit code
AddCommand: TypeAlias = Callable[[str, Run, str], argparse.ArgumentParser]  # name, run, one line of help
