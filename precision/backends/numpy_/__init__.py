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
    rsqrt,
    scatter_add_rows,
    square_root,
    subtract,
    tanh,
    tree_sum,
)
from precision.backends.numpy_.blocks import shared_scales, times_power
from precision.backends.numpy_.gemm import integer_matmul, matmul
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
from precision.backends.numpy_.structure import array_module, asarray, count, differentiable, jit, join, scan

name = "numpy"

__all__ = [
    "absmax",
    "add",
    "array_module",
    "asarray",
    "count",
    "decode",
    "differentiable",
    "divide",
    "encode",
    "erf",
    "exp",
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
    "random_words",
    "round_to",
    "row_max",
    "rsqrt",
    "scan",
    "scatter_add_rows",
    "shared_scales",
    "square_root",
    "statistics",
    "subtract",
    "tally",
    "tanh",
    "times_power",
    "tree_sum",
    "widen",
]
