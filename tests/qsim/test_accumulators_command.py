"""``qsim accumulators``: every record is there, whole, and the table can be read on 120 columns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from command_line import Cli
from small_runs import assert_sentence

from precision import ACCUMULATORS, Accumulator, Format, parse_accumulator, parse_format

COLUMNS = ["name", "silicon", "definition", "evidence", "inputs"]
TERMINAL = 120


def rebuilt(row: dict) -> Accumulator:
    """The record that the JSON describes."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    values["blocks"] = tuple(map(tuple, row["blocks"]))
    return Accumulator(**values | {"sum": parse_format(row["sum"])})


def test_json_has_every_field(cli: Cli) -> None:
    rows = cli.rows("accumulators")
    assert [row["name"] for row in rows] == list(ACCUMULATORS)
    for row in rows:
        assert list(row) == [field.name for field in dataclasses.fields(Accumulator)]
        assert rebuilt(row) == ACCUMULATORS[row["name"]]


def test_printed_table(cli: Cli) -> None:
    code, out, err = cli("accumulators")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == COLUMNS
    assert max(map(len, lines)) <= TERMINAL
    assert all(line == line.rstrip() for line in lines)
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ")] == list(ACCUMULATORS)


def test_every_definition_is_printed_whole(cli: Cli) -> None:
    head, *lines = cli("accumulators")[1].splitlines()
    starts = [head.index(column) for column in COLUMNS]
    found: list[list[str]] = []
    for line in lines:
        cells = [line[i:j].strip() for i, j in zip(starts, [*starts[1:], None], strict=True)]
        last = [""] * len(cells) if cells[0] else found.pop()
        found.append([f"{above} {below}".strip() for above, below in zip(last, cells, strict=True)])
    for (name, silicon, definition, evidence, inputs), record in zip(found, ACCUMULATORS.values(), strict=True):
        assert (name, definition, evidence) == (record.name, record.description, record.evidence)
        assert (silicon, inputs) == (record.silicon or "-", ", ".join(record.inputs) or "any")


def test_named_records_are_printed_in_full(cli: Cli) -> None:
    code, out, err = cli("accumulators", "h100", "fp32_split3", "h100")
    assert (code, err) == (0, "")
    texts = out.split("\n\n")
    assert len(texts) == 2
    for text, name in zip(texts, ("h100", "fp32_split3"), strict=True):
        head, *lines = text.splitlines()
        assert head.split() == ["field", "value"]
        shown = dict(line.split(maxsplit=1) for line in lines)
        fields = {
            field.name: getattr(parse_accumulator(name), field.name) for field in dataclasses.fields(Accumulator)
        }
        assert list(shown) == list(fields)
        assert shown["name"] == name
        for field, value in fields.items():
            if isinstance(value, Format):
                assert shown[field] == value.name
            elif type(value) in (int, str) and value:
                assert shown[field] == str(value)
    assert "fp16, bf16, tf32" in texts[0]
    assert "fp16 16, bf16 16, tf32 8" in texts[0]


def test_long_fields_are_wrapped(cli: Cli) -> None:
    lines = cli("accumulators", "cdna3")[1].splitlines()
    assert max(map(len, lines)) <= TERMINAL
    assert [line for line in lines if line.startswith(" ")]


def test_named_records_as_json(cli: Cli) -> None:
    rows = cli.rows("accumulators", "fp32_split65536", "a100")
    assert [rebuilt(row) for row in rows] == [parse_accumulator("fp32_split65536"), ACCUMULATORS["a100"]]


@pytest.mark.parametrize("name", ["h1000", "", "fp32_split0", "fp32_split65537", "FP32_FMA"])
def test_unknown_accumulator(cli: Cli, tmp_path: Path, name: str) -> None:
    assert_sentence(cli.refused(tmp_path, "accumulators", "h100", name), repr(name), "fp32_split<K>", "amx_bf16")
