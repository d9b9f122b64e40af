"""The reference: NumPy arrays, one operation at a time, nothing fused."""

from precision.backends.numpy_.arithmetic import (
    absmax,
    add,
    divide,
    erf,
    exp,
    flush,
    log,
    lookup,
    multiply,
    row_max,
    scatter_add_rows,
    square_root,
    subtract,
    tree_sum,
)
from precision.backends.numpy_.gemm import integer_matmul, matmul
from precision.backends.numpy_.operations import compare, extreme, operate, ordered_sum
from precision.backends.numpy_.rounding import (
    decode,
    encode,
    observe,
    random_words,
    round_to,
    statistics,
    tally,
    widen,
)
from precision.backends.numpy_.structure import array_module, asarray, count, jit, join, scan

name = "numpy"

__all__ = [
    "absmax",
    "add",
    "array_module",
    "asarray",
    "compare",
    "count",
    "decode",
    "divide",
    "encode",
    "erf",
    "exp",
    "extreme",
    "flush",
    "integer_matmul",
    "jit",
    "join",
    "log",
    "lookup",
    "matmul",
    "multiply",
    "name",
    "observe",
    "operate",
    "ordered_sum",
    "random_words",
    "round_to",
    "row_max",
    "scan",
    "scatter_add_rows",
    "square_root",
    "statistics",
    "subtract",
    "tally",
    "tree_sum",
    "widen",
]
