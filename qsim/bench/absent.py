"""A step at full speed as it is compiled for a GPU that is not here: kernels, and bytes that they move.

Where memory bounds a step, as it does one of plain JAX that keeps all of attention's weights, bytes are its time.
Compiled without a device no way to multiply is tried out; the device's own choice may move other bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qsim.bench.full_speed import BAR, PLAIN
from qsim.bench.markdown import as_markdown, marked
from qsim.bench.table import MET, ratio_in_words
from qsim.bench.train_table import size_in_words
from qsim.commands.columns import print_columns
from qsim.config import RunConfig, as_json
from qsim.memory import GIB
from qsim.mesh import Mesh
from qsim.planning.apart import answer_of, compile_apart
from qsim.planning.machines import Machine
from qsim.planning.topologies import GPUS
from qsim.policy import parse_policy

Row = dict[str, Any]


def check_machine(machine: Machine) -> None:
    """ValueError for what is not one GPU."""
    if machine.chip.platform != "gpu" or machine.devices != 1:
        raise ValueError(
            f"machine {machine} is not one GPU, by whose kernels steps are compared; name h100-1 or the like"
        )


def rows(config: RunConfig, policies: Sequence[str], machine: Machine) -> list[Row]:
    """One row for the plain step, one a policy; ratio: of the plain step's bytes to a policy's."""
    topology = machine.topology
    request = {"config": as_json(config), "topology": topology}
    found = {PLAIN: answer_of("qsim.bench.plain_compiling", request)}
    found |= {name: compile_apart(config, parse_policy(name), Mesh(), topology) for name in policies}
    plain, bandwidth = found[PLAIN]["traffic"]["bytes"], GPUS[machine.chip.name].bandwidth
    return [_row(name, one, plain, bandwidth) for name, one in found.items()]


def _row(name: str, found: Row, plain: int, bandwidth: int) -> Row:
    moved = found["traffic"]["bytes"]
    ratio = plain / moved
    return {
        "policy": name,
        "kernels": found["traffic"]["kernels"],
        "bytes_moved": moved,
        "seconds_at_bandwidth": moved / bandwidth,
        "bytes_held": found["bytes"]["held"],
        "ratio": ratio,
        "bar": None if name == PLAIN else BAR,
        "met": None if name == PLAIN else ratio >= BAR,
        "faults": [] if name == PLAIN else found["checks"]["faults"],
    }


def print_absent(result: Mapping[str, Any]) -> None:
    print(f"compiled for {result['machine']}, which is not here; {size_in_words(result)}\n")
    print_columns([_in_words(row) for row in result["rows"]])
    for row in result["rows"]:
        for fault in row["faults"]:
            print(f"FAULT in {row['policy']}: {fault}")


def absent_markdown(result: Mapping[str, Any]) -> str:
    """A line a contender; bold where the bar is missed."""
    words = [_in_words(row) for row in result["rows"]]
    lines = [list(words[0]), ["---"] * len(words[0])]
    for row, texts in zip(result["rows"], words, strict=True):
        texts["plain / own"] = marked(texts["plain / own"] or "", row)
        lines.append([text or "" for text in texts.values()])
    return as_markdown(lines)


def _in_words(row: Row) -> dict[str, str | None]:
    return {
        "policy": row["policy"],
        "kernels": f"{row['kernels']:,}",
        "GB moved": f"{row['bytes_moved'] / 1e9:.1f}",
        "ms at the memory's rate": f"{row['seconds_at_bandwidth'] * 1e3:.1f}",
        "GiB held": f"{row['bytes_held'] / GIB:.2f}",
        "plain / own": ratio_in_words(row["ratio"]),
        "bar": None if row["bar"] is None else f">= {row['bar']:g}",
        "met": MET[row["met"]],
    }
