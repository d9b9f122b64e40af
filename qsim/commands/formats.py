"""``qsim formats``: the number formats as a table."""

from __future__ import annotations

import json
from typing import Any

from precision import FORMATS, Format, parse_format
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments

GROUPS = ("floating point", "8 bits", "fewer than 8 bits", "integers", "IEEE P3109")
SHORT = {"exponent bits": "exp", "significand bits": "sig"}  # headings of the printed table


def add(command: AddCommand) -> None:
    formats = command("formats", _formats, "print the number formats: range, precision, codes")
    formats.add_argument("names", nargs="*", metavar="NAME", help="such as fp16, e4m3fn or e6m9; all by default")


def _formats(arguments: Arguments) -> int:
    asked = dict.fromkeys(map(parse_format, arguments.names)) or FORMATS.values()
    rows = sorted(map(_row, asked), key=lambda row: GROUPS.index(row["group"]))
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        print_columns([{SHORT.get(key, key): value for key, value in row.items()} for row in rows], by="group")
    return 0


def _row(f: Format) -> dict[str, Any]:
    with_subnormals = f.subnormals and f.significand_bits > 0 and not f.is_integer
    return {
        "group": _group(f),
        "format": f.name,
        "bits": f.bits,
        "exponent bits": f.exponent_bits,
        "significand bits": f.significand_bits,
        "bias": None if f.is_integer else f.bias,
        "maximum": f.maximum,
        "minimum": f.minimum,
        "smallest normal": f.min_normal,
        "smallest subnormal": f.min_subnormal if with_subnormals else None,
        "epsilon": f.epsilon,
        "codes": 1 << f.bits,
        "finite values": finite_values(f),
        "infinities": f.infinities,
        "NaN": f.nan if f.has_nan else None,
        "signed zero": f.signed_zero,
    }


def _group(f: Format) -> str:
    if f.is_integer:
        return "integers"
    if f.name.startswith("binary8"):
        return "IEEE P3109"
    return "floating point" if f.bits > 8 else "8 bits" if f.bits == 8 else "fewer than 8 bits"


def finite_values(f: Format) -> int:
    """How many different finite numbers the codes of a format stand for, both zeros being one number."""
    if f.is_integer:
        return 1 << f.bits
    zeros = 1 if f.subnormals else 1 << f.significand_bits  # codes from 0 on that are zero, where there is one
    positive = f.largest_code + 1 - (zeros if f.zero else 0)
    return (2 if f.signed else 1) * positive + int(f.zero)
