"""The result of ``qsim bench inference`` on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsim.bench.markdown import as_markdown, marked
from qsim.bench.table import MET, print_machine, ratio_in_words
from qsim.commands.columns import print_columns

Row = Mapping[str, Any]


def print_inference(result: Mapping[str, Any]) -> None:
    print_machine(result)
    print(f"{model_in_words(result)}; {result['data']}")
    print(f"best of at most {result['repeats']} rounds in which the contenders take turns\n")
    print_columns([_in_words(row) for row in result["rows"]])
    if result["torch"] is None:
        print("absent: torch and transformers (extra oracle), whose float32 is a contender where they are installed")
    if result["memory"]:
        print("\npeak memory in a process of its own, above the interpreter with its libraries and kernels\n")
        print_columns([_memory_in_words(one) for one in result["memory"]])


def model_in_words(result: Mapping[str, Any]) -> str:
    c = result["model"]
    return (
        f"{result['source']}: {result['parameters'] / 1e6:.1f} M parameters, {c['layers']} layers, width "
        f"{c['hidden']}, {c['heads']} heads, vocabulary {c['vocabulary']}"
    )


def _in_words(row: Row) -> dict[str, str | None]:
    return {
        "phase": row["phase"],
        "contender": row["contender"],
        "executor": row["executor"],
        "tokens": str(row["tokens"]),
        "tokens/s": f"{row['tokens_per_second']:.1f}",
        "median": f"{row['tokens'] / row['seconds_median']:.1f}",
        **{f"x {name}": _ratio(row, name) for name in row["speed"]},
        "bar": None if row["bar"] is None else f"x torch >= {row['bar']:g}",
        "met": MET[row["met"]],
    }


def _ratio(row: Row, name: str) -> str | None:
    ratio = row["speed"][name]
    return None if ratio is None else ratio_in_words(ratio)


def _memory_in_words(one: Row) -> dict[str, str | None]:
    counted, peak = one["counted"], one["peak"]
    over = None if peak is None else (peak - counted["activations"]) / counted["weights"]
    return {
        "policy": one["policy"],
        "executor": one["executor"],
        "MiB": None if peak is None else f"{peak / 2**20:.0f}",
        "weights in float32": f"{counted['weights'] / 2**20:.0f}",
        "activations": f"{counted['activations'] / 2**20:.0f}",
        "(peak - activations) / weights": None if over is None else f"{over:.2f}",
    }


def inference_markdown(result: Mapping[str, Any]) -> str:
    """Tokens a second and ratios; bold where a bar is missed."""
    names = list(result["rows"][0]["speed"])
    lines = [
        ["phase", "contender", "executor", "tokens/s", *(f"x {name}" for name in names)],
        ["---"] * (4 + len(names)),
    ]
    for row in result["rows"]:
        cells = [_ratio(row, name) or "" for name in names]
        cells[-1] = marked(cells[-1], row)
        lines.append([row["phase"], row["contender"], row["executor"], f"{row['tokens_per_second']:.1f}", *cells])
    return as_markdown(lines)
