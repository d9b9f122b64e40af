"""The command line: one entry point, ``qsim COMMAND``; what the commands do stands in ``qsim.commands``.

Bad input, and a file that cannot be read or written (a full disk), is one sentence on standard error and exit code
2; Ctrl-C is exit code 130 and SIGTERM 143, a run's step finished and saved; where nobody reads on, 141, as the shell
calls SIGPIPE.  A warning is one sentence, too.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from qsim.commands import (
    accumulators,
    analyze,
    attribute,
    bench,
    convert,
    diff,
    evaluate,
    experiment,
    export,
    formats,
    generate,
    importing,
    plan,
    quantize,
    quantizers,
    replay,
    runs,
    tables,
    whatif,
)
from qsim.commands.command import Arguments, Run
from qsim.commands.options import dotted
from qsim.config import ConfigError
from qsim.interruption import raising_on_termination


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


_COLLECTED_FROM = 10_000  # new objects: what JAX traces and Numba compiles are millions that live long


def console() -> None:
    """``main`` as a process of its own, which the collector of cycles looks through a fourteenth as often.

    Runs that compile begin sooner; nothing else changes.
    """
    gc.set_threshold(_COLLECTED_FROM)
    main()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; raises SystemExit."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    try:
        if rest and not hasattr(parsed, "config"):
            raise ConfigError(f"unexpected argument {rest[0]!r}; see qsim {parsed.command} --help")
        parsed.overrides = dotted(rest)
        with raising_on_termination(), _warnings_in_one_line(parsed.command):
            code = parsed.run(parsed)
        sys.stdout.flush()
        raise SystemExit(code)
    except KeyboardInterrupt as stopped:
        print(f"qsim {parsed.command}: interrupted; what was saved is whole{_hint(parsed)}", file=sys.stderr)
        raise SystemExit(getattr(stopped, "exit_code", 130)) from None
    except BrokenPipeError:  # as in `qsim formats | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (ValueError, OSError) as error:
        if parsed.traceback:
            raise
        print(f"qsim {parsed.command}: {_sentence(error, parsed)}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def _warnings_in_one_line(command: str) -> Iterator[None]:
    """This package's warnings without the place in its source; others as Python shows them."""
    plain = warnings.formatwarning

    def shown(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category.__module__.startswith("qsim."):
            return f"qsim {command}: {message}\n"
        return plain(message, category, filename, lineno, line)

    warnings.formatwarning = shown
    try:
        yield
    finally:
        warnings.formatwarning = plain


def _sentence(error: Exception, parsed: Arguments) -> str:
    if isinstance(error, OSError) and error.strerror:
        remedy = f"; free some space{_hint(parsed)}" if error.errno == errno.ENOSPC else ""
        return f"{error.strerror.lower()}: {error.filename}{remedy}"
    return " ".join(str(error).split())


def _hint(parsed: Arguments) -> str:
    if parsed.command == "experiment":
        return ", and the same command goes on from there"
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

    for module in (
        runs,
        replay,
        diff,
        attribute,
        whatif,
        export,
        convert,
        importing,
        quantize,
        evaluate,
        generate,
        analyze,
        plan,
        experiment,
        tables,
        formats,
        accumulators,
        quantizers,
        bench,
    ):
        module.add(command)
    return parser
