"""The result of ``qsim bench train`` on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qsim.bench.markdown import as_markdown, marked
from qsim.bench.table import MET, bar_in_words, print_machine, ratio_in_words
from qsim.commands.columns import print_columns
from qsim.memory import in_words

Row = Mapping[str, Any]


def print_training(result: Mapping[str, Any]) -> None:
    print_machine(result)
    print(f"{size_in_words(result)}; {result['data']}")
    print(f"best of at most {result['steps']} steps in which the contenders take turns\n")
    print_columns([_in_words(row) for row in result["rows"]])
    for row in result["rows"]:
        if row["memory"] is not None:
            held = f"{row['memory']['bytes'] / 2**20:.1f} MiB"
            print(f"{row['policy']} on {row['executor']} holds {held}; {in_words(row['memory']['counted'])}")
    print("\ncompiling: the first step less the second, each measured once\n")
    print_columns([_compiling_in_words(row) for row in result["compiling"]])


def size_in_words(result: Mapping[str, Any]) -> str:
    model, batch = result["model"], result["batch"]
    return (
        f"{model['layers']} layers, width {model['hidden']}, {model['heads']} heads, vocabulary "
        f"{model['vocabulary']}, {batch} x {model['length']} tokens"
    )


def _in_words(row: Row) -> dict[str, str | None]:
    return {
        "policy": row["policy"],
        "executor": row["executor"],
        "steps": str(row["rounds"]),
        "ms": f"{row['seconds_best'] * 1e3:.1f}",
        "median": f"{row['seconds_median'] * 1e3:.1f}",
        **_judged("x plain", row["plain"]),
        **_judged("x JAX", row["jax"]),
        "losses equal": MET[row["losses_equal"]],
        **_judged("statistics", row["statistics"], percent),
        **_judged("x counted bytes", row["memory"]),
    }


def _compiling_in_words(row: Row) -> dict[str, str | None]:
    return {
        "policy": row["policy"],
        "layers": str(row["layers"]),
        "seconds": f"{row['seconds']:.2f}",
        **_judged("x plain", row["plain"]),
    }


def _judged(name: str, verdict: Row | None, in_words: Any = ratio_in_words) -> dict[str, str | None]:
    """Three columns: the ratio, its bar, whether that is met."""
    if verdict is None:
        return dict.fromkeys((name, f"{name}: bar", f"{name}: met"))
    bar = bar_in_words(verdict) if in_words is ratio_in_words else _percent_bar(verdict)
    return {name: in_words(verdict["ratio"]), f"{name}: bar": bar, f"{name}: met": MET[verdict["met"]]}


def percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"


def _percent_bar(verdict: Row) -> str | None:
    return None if verdict["bar"] is None else f"<= {100 * verdict['bar']:g} %"


def training_markdown(result: Mapping[str, Any]) -> str:
    """Ratios of times and, in a second table, of compiling, a column a depth; bold where a bar is missed."""
    return f"{_steps(result['rows'])}\n\n{_compiling(result['compiling'])}"


def _steps(rows: Sequence[Row]) -> str:
    head = ["policy", "executor", "time / time of the plain step", "bar"]
    head += ["time / time on JAX", "bar", "statistics every 10th step", "bar", "memory / memory counted", "bar"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [*_cells(row["plain"]), *_cells(row["jax"]), *_cells(row["statistics"], percent)]
        lines.append([row["policy"], row["executor"], *cells, *_cells(row["memory"])])
    return as_markdown(lines)


def _compiling(rows: Sequence[Row]) -> str:
    depths = list(dict.fromkeys(row["layers"] for row in rows))
    lines = [["compiling", *(f"{depth} layers" for depth in depths), "bar"], ["---"] * (2 + len(depths))]
    for policy in dict.fromkeys(row["policy"] for row in rows):
        own = [row for row in rows if row["policy"] == policy]
        bars = dict.fromkeys(bar for bar in (_cells(row["plain"])[1] for row in own) if bar)
        lines.append([policy, *map(_compiling_cell, own), ", ".join(bars)])
    return as_markdown(lines)


def _compiling_cell(row: Row) -> str:
    """Seconds and, in parentheses, their ratio to the plain step's."""
    lasted, verdict = f"{row['seconds']:.1f} s", row["plain"]
    return lasted if verdict is None else marked(f"{lasted} ({ratio_in_words(verdict['ratio'])})", verdict)


def _cells(verdict: Row | None, in_words: Any = ratio_in_words) -> list[str]:
    if verdict is None:
        return ["", ""]
    ratio, bar, _ = _judged("", verdict, in_words).values()
    return [marked(str(ratio), verdict), bar or ""]
