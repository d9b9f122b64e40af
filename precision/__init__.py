"""Arithmetic in fp16, bf16, INT8 and their relatives, exact to the last bit, identical in NumPy, Numba and JAX."""

from precision.accumulators import ACCUMULATORS, Accumulator, parse_accumulator
from precision.backends import BACKENDS
from precision.dot_general import DotGeneral, make_dot_general
from precision.formats import BF16, E5M2, FORMATS, FP16, FP32, INT4, INT8, TF32, Format, parse_format
from precision.gemm import matmul
from precision.passes import Gemm
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
    "DotGeneral",
    "Format",
    "Gemm",
    "QArray",
    "Statistics",
    "decode",
    "encode",
    "make_dot_general",
    "matmul",
    "parse_accumulator",
    "parse_format",
    "quantize",
    "quantized_matmul",
    "random_bits",
    "round_to",
    "statistics",
]
