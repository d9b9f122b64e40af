"""JAX as fast as it goes: the names of ``jax_``, arithmetic and sums by XLA's own operations, roundings exact.

For computations that promise no bits.  Nothing here is guarded, ordered or tabulated, and no foreign function called;
values rounded to BF16 or FP16 are arrays of bfloat16 and float16, which ``widened`` takes back.
"""

from precision.backends.jax_ import *  # noqa: F403
from precision.backends.jax_.counting import observe, statistics
from precision.backends.jax_.hardware.arithmetic import (
    absmax,
    add,
    computed_once,
    divide,
    encode,
    erf,
    exp,
    flush,
    fused_layer,
    fused_quantizer,
    fused_scaler,
    log,
    lookup,
    multiply,
    round_each,
    round_to,
    row_max,
    rsqrt,
    scan,
    scatter_add_rows,
    square_root,
    subtract,
    tanh,
    to_bits,
    tree_sum,
    widen,
    widened,
)
from precision.backends.jax_.hardware.products import matmul

name = "jax_hardware"

__all__ = [
    "absmax",
    "add",
    "computed_once",
    "divide",
    "encode",
    "erf",
    "exp",
    "flush",
    "fused_layer",
    "fused_quantizer",
    "fused_scaler",
    "log",
    "lookup",
    "matmul",
    "multiply",
    "name",
    "observe",
    "round_each",
    "round_to",
    "row_max",
    "rsqrt",
    "scan",
    "scatter_add_rows",
    "square_root",
    "statistics",
    "subtract",
    "tanh",
    "to_bits",
    "tree_sum",
    "widen",
    "widened",
]
