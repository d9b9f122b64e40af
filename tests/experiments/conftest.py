"""What the tests of commands share, those of experiments too."""

from command_line import cli

__all__ = ["cli"]
