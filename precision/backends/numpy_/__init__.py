"""The reference: NumPy arrays, one operation at a time, nothing fused."""

from precision.backends.numpy_.arithmetic import (
    absmax,
    add,
    decode,
    divide,
    encode,
    erf,
    exp,
    flush,
    log,
    lookup,
    multiply,
    random_words,
    round_to,
    row_max,
    scatter_add_rows,
    square_root,
    statistics,
    subtract,
    tree_sum,
)
from precision.backends.numpy_.gemm import integer_matmul, matmul
from precision.backends.numpy_.structure import array_module, asarray, jit, scan

name = "numpy"

__all__ = [
    "absmax",
    "add",
    "array_module",
    "asarray",
    "decode",
    "divide",
    "encode",
    "erf",
    "exp",
    "flush",
    "integer_matmul",
    "jit",
    "log",
    "lookup",
    "matmul",
    "multiply",
    "name",
    "random_words",
    "round_to",
    "row_max",
    "scan",
    "scatter_add_rows",
    "square_root",
    "statistics",
    "subtract",
    "tree_sum",
]
