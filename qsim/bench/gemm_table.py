"""The result of ``qsim bench gemm`` on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qsim.bench.markdown import as_markdown, marked
from qsim.bench.table import MET, bar_in_words, print_machine, ratio_in_words
from qsim.commands.columns import print_columns

Row = Mapping[str, Any]


def print_products(result: Mapping[str, Any]) -> None:
    print_machine(result)
    print(blas_in_words(result))
    print(f"{result['data']}; best of at most {result['repeats']} rounds in which the contenders take turns\n")
    print_columns([_in_words(row) for row in result["rows"]])
    print(f"\n{agreement(result['rows'])}")
    for row in result["rows"]:
        if row["digits"] is not None:
            print(digits_in_words(row))


def blas_in_words(result: Mapping[str, Any]) -> str:
    blas = result["blas"]
    if blas is None:
        return "NumPy's BLAS is unknown, and so is its number of threads; threadpoolctl, where installed, tells"
    facts = ", ".join(f"{fact}" for fact in blas.values() if fact)
    return (
        f"NumPy's BLAS: {facts}, on {result['threads']} threads; OPENBLAS_CORETYPE, where set, slows it and so "
        "flatters the ratios"
    )


def agreement(rows: Sequence[Row]) -> str:
    checked = [row for row in rows if row["checked"] is not None]
    wrong = list(dict.fromkeys(f"{row['contender']} ({row['format']})" for row in checked if row["wrong"]))
    return f"bits equal: {'NO, ' + ', '.join(wrong) if wrong else 'yes'} (8 rows x 16 columns against NumPy's)"


def digits_in_words(row: Row) -> str:
    a, b = row["digits"]
    return f"{row['contender']}, {row['format']}, {row['size']}: {a} x {b} digits of 7 bits, {a * b} INT8 products"


def _in_words(row: Row) -> dict[str, str | None]:
    return {
        "accumulator": row["contender"],
        "inputs": row["format"],
        "k": str(row["size"]),
        "m = n": str(row["side"]),
        **measured_product(row),
        "bar": _bar(row),
        "met": MET[row["met"]],
        "bits equal": None if row["wrong"] is None else MET[row["wrong"] == 0],
    }


def measured_product(row: Row) -> dict[str, str | None]:
    """Times and speed of one product, and its ratio to sgemm's."""
    return {
        "rounds": str(row["rounds"]),
        "ms": f"{row['seconds_best'] * 1e3:.2f}",
        "median": f"{row['seconds_median'] * 1e3:.2f}",
        "GMAC/s": ratio_in_words(row["gmacs_per_second"]),
        "x sgemm": None if row["ratio"] is None else ratio_in_words(row["ratio"]),
    }


def _bar(row: Row) -> str | None:
    words = bar_in_words(row)
    return words if words is None or row["bar_of"] == "ratio" else f"{words} {row['bar_of']}"


def gemm_markdown(result: Mapping[str, Any]) -> str:
    """GMAC/s and, in parentheses, the ratio to sgemm's: a line an accumulator and a column a size."""
    sizes = list(dict.fromkeys(row["size"] for row in result["rows"]))
    lines = [["accumulator", "inputs", *(f"n = {size}" for size in sizes), "bar"], ["---"] * (3 + len(sizes))]
    for name, inputs in dict.fromkeys((row["contender"], row["format"]) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["contender"], row["format"]) == (name, inputs)]
        bars = dict.fromkeys(bar for bar in map(_bar, rows) if bar)
        lines.append([name, inputs, *map(_cell, rows), ", ".join(bars)])
    return as_markdown(lines)


def _cell(row: Row) -> str:
    rate = ratio_in_words(row["gmacs_per_second"])
    return rate if row["ratio"] is None else marked(f"{rate} ({ratio_in_words(row['ratio'])})", row)
