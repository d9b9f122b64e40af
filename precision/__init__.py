"""Arithmetic in fp16, bf16, INT8 and their relatives, exact to the last bit, identical in NumPy, Numba and JAX."""

from precision.accumulators import ACCUMULATORS, Accumulator, parse_accumulator
from precision.arithmetic import add, div, fma, mul, sqrt, sub
from precision.backends import BACKENDS
from precision.comparison import (
    convert,
    equal,
    less,
    less_equal,
    maximum,
    maximum_number,
    minimum,
    minimum_number,
)
from precision.format import Format
from precision.formats import (
    BF16,
    E2M1,
    E2M3,
    E3M2,
    E3M4,
    E4M3,
    E4M3B11FNUZ,
    E4M3FN,
    E4M3FNUZ,
    E5M2,
    E5M2FNUZ,
    E8M0,
    FORMATS,
    FP16,
    FP32,
    FP64,
    INT2,
    INT4,
    INT8,
    TF32,
    parse_format,
)
from precision.gemm import matmul
from precision.measure import round_with_statistics, statistics
from precision.quantizers import QArray, quantize, quantized_matmul
from precision.random_bits import random_bits
from precision.rounding import decode, encode, round_to
from precision.rounding_modes import Rounding
from precision.statistics import Statistics
from precision.sums import ordered_sum

__all__ = [
    "ACCUMULATORS",
    "BACKENDS",
    "BF16",
    "E2M1",
    "E2M3",
    "E3M2",
    "E3M4",
    "E4M3",
    "E4M3B11FNUZ",
    "E4M3FN",
    "E4M3FNUZ",
    "E5M2",
    "E5M2FNUZ",
    "E8M0",
    "FORMATS",
    "FP16",
    "FP32",
    "FP64",
    "INT2",
    "INT4",
    "INT8",
    "TF32",
    "Accumulator",
    "Format",
    "QArray",
    "Rounding",
    "Statistics",
    "add",
    "convert",
    "decode",
    "div",
    "encode",
    "equal",
    "fma",
    "less",
    "less_equal",
    "matmul",
    "maximum",
    "maximum_number",
    "minimum",
    "minimum_number",
    "mul",
    "ordered_sum",
    "parse_accumulator",
    "parse_format",
    "quantize",
    "quantized_matmul",
    "random_bits",
    "round_to",
    "round_with_statistics",
    "sqrt",
    "statistics",
    "sub",
]
