"""``qsim formats``: the number formats as a table, the block formats as another."""

from __future__ import annotations

import json
from typing import Any

from precision import BLOCK_FORMATS, FORMATS, BlockFormat, Format, parse_format
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments

GROUPS = ("floating point", "8 bits", "fewer than 8 bits", "integers", "IEEE P3109")
BLOCKS = "block formats"  # the group of the second table
SHORT = {"exponent bits": "exp", "significand bits": "sig"}  # headings of the printed table


def add(command: AddCommand) -> None:
    formats = command("formats", _formats, "print the number formats: range, precision, codes")
    formats.add_argument("names", nargs="*", metavar="NAME", help="such as fp16, e6m9 or mxfp4; all by default")


def _formats(arguments: Arguments) -> int:
    asked = list(dict.fromkeys(map(_parse, arguments.names))) or [*FORMATS.values(), *BLOCK_FORMATS.values()]
    rows = sorted((_row(f) for f in asked if isinstance(f, Format)), key=lambda row: GROUPS.index(row["group"]))
    blocks = [_block_row(f) for f in asked if isinstance(f, BlockFormat)]
    if arguments.json:
        print(json.dumps(rows + blocks, indent=1))
        return 0
    if rows:
        print_columns([{SHORT.get(key, key): value for key, value in row.items()} for row in rows], by="group")
    if rows and blocks:
        print()
    if blocks:
        print_columns(blocks, by="group")
    return 0


def _parse(name: str) -> Format | BlockFormat:
    return BLOCK_FORMATS.get(name.lower()) or parse_format(name)


def _block_row(f: BlockFormat) -> dict[str, Any]:
    return {
        "group": BLOCKS,
        "format": f.name,
        "bits a value": f.bits_per_value,
        "element": f.element.name,
        "scale": f.scale.name,
        "block size": f.block_size,
        "tensor scale": "fp32" if f.tensor_scaled else None,
        "largest element": f.element.maximum * 2.0**f.factor_exponent,
        "smallest element": f.element.min_subnormal * 2.0**f.factor_exponent,
    }


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
