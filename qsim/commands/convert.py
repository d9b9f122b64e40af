"""``qsim convert``: checkpoints of a run from one form into the other."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from qsim.commands.command import AddCommand, Arguments
from qsim.commands.options import FORMS


def add(command: AddCommand) -> None:
    convert: argparse.ArgumentParser = command("convert", _convert, "rewrite a run's checkpoints in the other form")
    convert.add_argument("base", type=Path, metavar="RUN")
    convert.add_argument("--to", dest="form", choices=FORMS, required=True, help="one file, or a folder of shards")
    convert.add_argument("--step", type=int, help="only the checkpoint of that step; all by default")


def _convert(arguments: Arguments) -> int:
    from qsim.checkpointing import convert
    from qsim.checkpoints import saved_steps
    from qsim.runs import RunFolder

    run = RunFolder.open(arguments.base).path
    steps = saved_steps(run) if arguments.step is None else [arguments.step]
    converted = [step for step in steps if convert(run, step, arguments.form)]
    result = {"run": str(run), "form": arguments.form, "converted": converted}
    words = f"checkpoints of {run} now {arguments.form}: {', '.join(map(str, converted)) or 'they were already'}"
    print(json.dumps(result, indent=1) if arguments.json else words)
    return 0
