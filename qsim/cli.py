"""The command line: one entry point, ``qsim COMMAND``; what the commands do stands in ``qsim.commands``.

Bad input is one sentence on standard error and exit code 2; Ctrl-C is exit code 130; where nobody
reads on, 141, as the shell calls SIGPIPE.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from qsim.commands import accumulators, bench, formats, quantizers, runs, tables
from qsim.commands.command import Arguments, Run
from qsim.commands.options import dotted
from qsim.config import ConfigError


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; raises SystemExit."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    try:
        if rest and not hasattr(parsed, "config"):
            raise ConfigError(f"unexpected argument {rest[0]!r}; see qsim {parsed.command} --help")
        parsed.overrides = dotted(rest)
        code = parsed.run(parsed)
        sys.stdout.flush()
        raise SystemExit(code)
    except KeyboardInterrupt:
        print(f"qsim {parsed.command}: interrupted; what was saved is whole{_hint(parsed)}", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # as in `qsim formats | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (ValueError, OSError) as error:
        if parsed.traceback:
            raise
        print(f"qsim {parsed.command}: {_sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror.lower()}: {error.filename}"
    return " ".join(str(error).split())


def _hint(parsed: Arguments) -> str:
    resumable = parsed.command in ("train", "replay") and getattr(parsed, "out", None)
    return ", and the same command with --resume goes on from there" if resumable else ""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="qsim", description="What does a number format do to a language model?")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--json", action="store_true", help="print the result as JSON")
        added.add_argument("--traceback", action="store_true", help="on an error, show where it came from")
        added.set_defaults(run=run)
        return added

    for module in (runs, tables, formats, accumulators, quantizers, bench):
        module.add(command)
    return parser
