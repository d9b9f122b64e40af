"""How long the training step takes to compile at several depths: layers are one scan, and so it should not matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qsim.bench.markdown import as_markdown, marked
from qsim.bench.measurement import Comparison
from qsim.bench.table import MET, print_machine, ratio_in_words
from qsim.commands.columns import print_columns
from qsim.config import RunConfig, override
from qsim.mesh import Mesh
from qsim.planning.apart import compile_apart
from qsim.policy import Arithmetic

BAR = 1.3  # the time at a depth, as a multiple of that at the first

Row = dict[str, Any]


def rows(
    config: RunConfig, policy: Arithmetic, mesh: Mesh, topology: str | None, *, depths: Sequence[int], repeats: int
) -> list[Row]:
    """A row a depth, the best of so many compilations, the depths in turns, each in a process of its own.

    Compared are seconds of CPU time, tracing included, which what else the machine does changes least.
    """
    seconds: dict[int, list[Row]] = {depth: [] for depth in depths}
    for _ in range(repeats):
        for depth in depths:
            at = override(config, "model.layers", depth)
            seconds[depth].append(compile_apart(at, policy, mesh, topology))
    best = {depth: min(found, key=_seconds) for depth, found in seconds.items()}
    return [_row(depth, found, best[depths[0]]) for depth, found in best.items()]


def _seconds(found: Row) -> float:
    return found["cpu_seconds"]


def _row(depth: int, found: Row, first: Row) -> Row:
    comparison = Comparison(quantity="time", other="the first depth", limit=BAR)
    ratio = _seconds(found) / _seconds(first)
    return {
        "layers": depth,
        "seconds_to_trace": found["seconds_to_trace"],
        "seconds_to_compile": found["seconds_to_compile"],
        "cpu_seconds": found["cpu_seconds"],
        "ratio": ratio,
        "bar": None if found is first else BAR,
        "met": None if found is first else comparison.met(ratio),
    }


def print_compiling(result: Mapping[str, Any]) -> None:
    print_machine(result)
    print(f"{result['preset']} under {result['policy']}, {result['mesh']}, for {result['topology'] or 'this CPU'}\n")
    print_columns([_in_words(row) for row in result["rows"]])


def compiling_markdown(result: Mapping[str, Any]) -> str:
    words = [_in_words(row) for row in result["rows"]]
    lines = [list(words[0]), ["---"] * len(words[0])]
    for row, texts in zip(result["rows"], words, strict=True):
        texts["x first"] = marked(texts["x first"] or "", row)
        lines.append([text or "" for text in texts.values()])
    return as_markdown(lines)


def _in_words(row: Row) -> dict[str, str | None]:
    return {
        "layers": str(row["layers"]),
        "tracing s": f"{row['seconds_to_trace']:.1f}",
        "compiling s": f"{row['seconds_to_compile']:.1f}",
        "CPU s": f"{row['cpu_seconds']:.1f}",
        "x first": ratio_in_words(row["ratio"]),
        "bar": None if row["bar"] is None else f"<= {row['bar']:g}",
        "met": MET[row["met"]],
    }
