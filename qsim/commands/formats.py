"""``qsim formats``: the number formats as a table."""

from __future__ import annotations

import json

from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments


def add(command: AddCommand) -> None:
    command("formats", _formats, "print the number formats")


def _formats(arguments: Arguments) -> int:
    from precision import FORMATS

    rows = [
        {
            "format": f.name,
            "bits": f.bits,
            "exponent bits": f.exponent_bits,
            "significand bits": f.significand_bits,
            "maximum": f.maximum,
            "smallest normal": f.min_normal,
            "smallest subnormal": f.min_subnormal,
            "epsilon": f.epsilon,
        }
        for f in FORMATS.values()
    ]
    print(json.dumps(rows, indent=1)) if arguments.json else print_columns(rows)
    return 0
