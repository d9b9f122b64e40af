"""Shadow replays against training steps, on the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsim.bench.markdown import as_markdown, marked
from qsim.bench.table import MET, print_machine, ratio_in_words
from qsim.commands.columns import print_columns


def print_replays(result: Mapping[str, Any]) -> None:
    print_machine(result)
    print(f"{result['preset']} run under {result['base']} on {result['data']}; best of {result['repeats']} rounds\n")
    print_columns([_in_words(row) for row in result["rows"]])


def replay_markdown(result: Mapping[str, Any]) -> str:
    """A row for each number of policies."""
    lines = [["shadows", "policies", "time / time of as many plain steps", "bar"], ["---"] * 4]
    for row in result["rows"]:
        ratio = marked(ratio_in_words(row["ratio"]), row)
        lines.append([str(len(row["policies"])), ", ".join(row["policies"]), ratio, f"<= {row['bar']:g}"])
    return as_markdown(lines)


def _in_words(row: Mapping[str, Any]) -> dict[str, str | None]:
    return {
        "shadows": str(len(row["policies"])),
        "policies": ", ".join(row["policies"]),
        "ms a step": f"{1e3 * row['seconds']:.1f}",
        "ms of plain steps": f"{1e3 * row['seconds_plain']:.1f}",
        "ratio": ratio_in_words(row["ratio"]),
        "bar": f"<= {row['bar']:g}",
        "met": MET[row["met"]],
    }
