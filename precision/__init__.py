"""Arithmetic in fp16, bf16, INT8 and their relatives, exact to the last bit, identical in NumPy, Numba and JAX."""

from precision.accumulators import ACCUMULATORS, Accumulator, parse_accumulator
from precision.backends import BACKENDS
from precision.formats import BF16, E5M2, FORMATS, FP16, FP32, INT4, INT8, TF32, Format, parse_format
from precision.functions import (
    cos,
    erf,
    exp,
    exp2,
    gelu,
    gelu_gradient,
    log,
    reciprocal,
    rsqrt,
    sigmoid,
    silu,
    sin,
    tanh,
)
from precision.gemm import matmul
from precision.quantizers import QArray, quantize, quantized_matmul
from precision.random_bits import random_bits
from precision.rounding import decode, encode, round_to
from precision.statistics import Statistics, statistics

__all__ = [
    "ACCUMULATORS",
    "BACKENDS",
    "BF16",
    "E5M2",
    "FORMATS",
    "FP16",
    "FP32",
    "INT4",
    "INT8",
    "TF32",
    "Accumulator",
    "Format",
    "QArray",
    "Statistics",
    "cos",
    "decode",
    "encode",
    "erf",
    "exp",
    "exp2",
    "gelu",
    "gelu_gradient",
    "log",
    "matmul",
    "parse_accumulator",
    "parse_format",
    "quantize",
    "quantized_matmul",
    "random_bits",
    "reciprocal",
    "round_to",
    "rsqrt",
    "sigmoid",
    "silu",
    "sin",
    "statistics",
    "tanh",
]
