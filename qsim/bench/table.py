"""The result of a benchmark on the terminal: the machine, a line a contender, what was absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsim.commands.columns import print_columns

MET = {True: "yes", False: "NO", None: None}


def print_comparison(result: Mapping[str, Any]) -> None:
    print_machine(result)
    print(f"{result['data']}; best of {result['repeats']} rounds in which the contenders take turns\n")
    print_columns([_in_words(row) for row in result["rows"]])
    for name, version in (result["peers"] or {}).items():
        if version is None:
            print(f"absent: {name}; the extra 'peers' installs it")


def print_machine(result: Mapping[str, Any]) -> None:
    machine = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    print(f"{machine['cpu']}, {machine['cores']} cores, Numba on {result['threads']} threads; {versions}")


def _in_words(row: Mapping[str, Any]) -> dict[str, str | None]:
    best, median = (row[key] / row["values"] * 1e9 for key in ("seconds_best", "seconds_median"))
    compared = None
    if row["ratio"] is not None:
        compared = f"{ratio_in_words(row['ratio'])} x the {row['quantity']} of {row['compared_with']}"
    return {
        "contender": row["contender"],
        "format": row["format"],
        "values": power_of_two(row["values"]),
        "ns/value": f"{best:.3f}",
        "median": f"{median:.3f}",
        "G values/s": f"{1 / best:.3f}",
        "x copy": f"{row['speed_to_copy']:.3f}",
        "compared": compared,
        "bar": bar_in_words(row),
        "met": MET[row["met"]],
        "wrong": None if row["wrong"] is None else str(row["wrong"]),
    }


def ratio_in_words(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def bar_in_words(row: Mapping[str, Any]) -> str | None:
    if row["bar"] is None:
        return None
    return f"{'>=' if row['quantity'] == 'speed' else '<='} {row['bar']:g}"


def power_of_two(size: int) -> str:
    """As in 2^18; any other number as it is."""
    return f"2^{size.bit_length() - 1}" if size & (size - 1) == 0 else str(size)
