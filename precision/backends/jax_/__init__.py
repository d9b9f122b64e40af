"""JAX arrays and tracers: the same sources under jit, on CPU, GPU and TPU."""

from precision.backends.jax_.arithmetic import (
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
from precision.backends.jax_.gemm import integer_matmul, matmul
from precision.backends.jax_.structure import array_module, asarray, jit, scan

name = "jax"

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
