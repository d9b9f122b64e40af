"""The result of ``qsim bench quantizers`` on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qsim.bench.gemm_table import blas_in_words, measured_product
from qsim.bench.markdown import as_markdown, markdown, marked
from qsim.bench.table import MET, bar_in_words, print_comparison, ratio_in_words
from qsim.commands.columns import print_columns

Row = Mapping[str, Any]


def print_quantizers(result: Mapping[str, Any]) -> None:
    print_comparison({**result, "rows": result["arrays"], "peers": None})
    print(f"\n{blas_in_words(result)}\n")
    print_columns([_in_words(row) for row in result["products"]])


def _in_words(row: Row) -> dict[str, str | None]:
    return {
        "product": row["contender"],
        "n": str(row["size"]),
        **measured_product(row),
        "bar": bar_in_words(row),
        "met": MET[row["met"]],
        "wrong": None if row["wrong"] is None else str(row["wrong"]),
    }


def quantizers_markdown(result: Mapping[str, Any]) -> str:
    """Ratios to the copy and, in a second table, to sgemm, a column a size."""
    return f"{markdown({'rows': result['arrays']})}\n\n{_products(result['products'])}"


def _products(rows: Sequence[Row]) -> str:
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = [["product", *(f"n = {size}" for size in sizes), "bar"], ["---"] * (2 + len(sizes))]
    for name in dict.fromkeys(row["contender"] for row in rows if row["ratio"] is not None):
        own = [row for row in rows if row["contender"] == name]
        bars = dict.fromkeys(bar for bar in map(bar_in_words, own) if bar)
        lines.append([name, *(marked(ratio_in_words(row["ratio"]), row) for row in own), ", ".join(bars)])
    return as_markdown(lines)
