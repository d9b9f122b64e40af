"""JAX arrays and tracers: the same sources under jit, on CPU, GPU and TPU."""

from precision.backends.jax_ import devices
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
from precision.backends.jax_.counting import computed_once, count, join, observe, statistics
from precision.backends.jax_.derivatives import differentiable
from precision.backends.jax_.gemm import counted_matmul, matmul
from precision.backends.jax_.gradients import product, straight_through, straight_through_where, without_derivative
from precision.backends.jax_.interpreter import interpret
from precision.backends.jax_.layers import fused_layer
from precision.backends.jax_.operations import compare, extreme, operate, ordered_sum
from precision.backends.jax_.products import (
    exact_add,
    exact_matmul,
    exact_result,
    exact_start,
    integer_matmul,
    round_exact,
)
from precision.backends.jax_.quantizers import fused_quantizer, fused_scaler
from precision.backends.jax_.rounding import (
    decode,
    encode,
    from_bits,
    key_words,
    random_words,
    require_float64,
    round_each,
    round_to,
    tally,
    to_bits,
    widen,
)
from precision.backends.jax_.structure import (
    array_module,
    asarray,
    branch,
    fused_dequantizer,
    jit,
    repeat,
    scan,
)

name = "jax"

__all__ = [
    "absmax",
    "add",
    "array_module",
    "asarray",
    "branch",
    "compare",
    "computed_once",
    "count",
    "counted_matmul",
    "decode",
    "devices",
    "differentiable",
    "divide",
    "encode",
    "erf",
    "exact_add",
    "exact_matmul",
    "exact_result",
    "exact_start",
    "exp",
    "extreme",
    "flush",
    "from_bits",
    "fused_dequantizer",
    "fused_layer",
    "fused_quantizer",
    "fused_scaler",
    "integer_matmul",
    "interpret",
    "jit",
    "join",
    "key_words",
    "log",
    "lookup",
    "matmul",
    "multiply",
    "name",
    "observe",
    "operate",
    "ordered_sum",
    "product",
    "random_words",
    "repeat",
    "require_float64",
    "round_each",
    "round_exact",
    "round_to",
    "row_max",
    "rsqrt",
    "scan",
    "scatter_add_rows",
    "shared_scales",
    "square_root",
    "statistics",
    "straight_through",
    "straight_through_where",
    "subtract",
    "tally",
    "tanh",
    "times_power",
    "to_bits",
    "tree_sum",
    "widen",
    "without_derivative",
]
