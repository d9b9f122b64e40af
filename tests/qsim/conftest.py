"""What the tests of commands share."""

from command_line import cli

__all__ = ["cli"]
