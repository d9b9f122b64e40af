"""``qsim accumulators``: the ways of summing a dot product as a table, or records in full."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from precision import ACCUMULATORS, Accumulator, Format, parse_accumulator
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments

WIDTHS = {"silicon": 24, "definition": 44, "evidence": 10, "inputs": 14}  # with the name in 120 columns
FULL_WIDTHS = {"value": 98}


def add(command: AddCommand) -> None:
    accumulators = command("accumulators", _accumulators, "print the ways of summing a dot product")
    names = "such as h100 or fp32_split4: every field of its record; a table of all by default"
    accumulators.add_argument("names", nargs="*", metavar="NAME", help=names)


def _accumulators(arguments: Arguments) -> int:
    asked = list({record.name: record for record in map(parse_accumulator, arguments.names)}.values())
    if arguments.json:
        print(json.dumps([as_json(record) for record in asked or ACCUMULATORS.values()], indent=1))
    elif asked:
        for i, record in enumerate(asked):
            print(end="\n" if i else "")
            print_columns(_fields(record), widths=FULL_WIDTHS)
    else:
        print_columns([_row(record) for record in ACCUMULATORS.values()], widths=WIDTHS)
    return 0


def as_json(record: Accumulator) -> dict[str, Any]:
    """Every field; formats by name."""
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {key: value.name if isinstance(value, Format) else value for key, value in fields.items()}


def _row(record: Accumulator) -> dict[str, Any]:
    return {
        "name": record.name,
        "silicon": record.silicon or None,
        "definition": record.description,
        "evidence": record.evidence,
        "inputs": _inputs(record),
    }


def _fields(record: Accumulator) -> list[dict[str, Any]]:
    values = as_json(record) | {"inputs": _inputs(record)}
    return [{"field": field, "value": _in_words(value)} for field, value in values.items()]


def _inputs(record: Accumulator) -> str:
    return ", ".join(record.inputs) or "any"


def _in_words(value: Any) -> Any:
    """Tuples, and pairs in tuples, with commas between; what is empty as None."""
    if value is False:
        return "no"
    if not isinstance(value, tuple):
        return None if value == "" else value
    words = [" ".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in value]
    return ", ".join(words) or None
