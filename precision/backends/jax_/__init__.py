"""JAX arrays and tracers: the same sources under jit, on CPU, GPU and TPU."""

from precision.backends.jax_.arithmetic import (
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
from precision.backends.jax_.blocks import shared_scales, times_power
from precision.backends.jax_.derivatives import differentiable
from precision.backends.jax_.gemm import integer_matmul, matmul
from precision.backends.jax_.gradients import product, straight_through
from precision.backends.jax_.rounding import (
    count,
    decode,
    encode,
    join,
    key_words,
    observe,
    random_words,
    require_float64,
    round_to,
    statistics,
    tally,
    widen,
)
from precision.backends.jax_.structure import array_module, asarray, jit, scan

name = "jax"

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
    "key_words",
    "log",
    "lookup",
    "matmul",
    "multiply",
    "name",
    "observe",
    "product",
    "random_words",
    "require_float64",
    "round_to",
    "row_max",
    "rsqrt",
    "scan",
    "scatter_add_rows",
    "shared_scales",
    "square_root",
    "statistics",
    "straight_through",
    "subtract",
    "tally",
    "tanh",
    "times_power",
    "tree_sum",
    "widen",
]
