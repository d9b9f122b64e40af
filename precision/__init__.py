"""Arithmetic in fp16, bf16, INT8 and their relatives, exact to the last bit, identical in NumPy, Numba and JAX."""

from precision.accumulator import Accumulator
from precision.accumulators import ACCUMULATORS, parse_accumulator
from precision.arithmetic import add, div, fma, mul, sqrt, sub
from precision.backends import BACKENDS
from precision.block_formats import BLOCK_FORMATS, BlockFormat, parse_block_format
from precision.block_quantizers import BlockArray, quantize_blocks, round_to_blocks
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
from precision.dot_general import DotGeneral, make_dot_general
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
from precision.functions import (
    cos,
    erf,
    exp,
    exp2,
    gelu,
    gelu_gradient,
    gelu_tanh,
    log,
    reciprocal,
    rsqrt,
    sigmoid,
    silu,
    sin,
    tanh,
)
from precision.gemm import matmul
from precision.gemm_counters import GemmCounters
from precision.measure import round_with_statistics, statistics
from precision.passes import Gemm
from precision.quantization.array import QArray
from precision.quantization.calibration import calibrate
from precision.quantization.error import quantization_error
from precision.quantization.files import load_qarray, save_qarray
from precision.quantization.packing import pack_codes, unpack_codes
from precision.quantization.product_error import OutlierColumns, ProductError
from precision.quantization.products import quantized_matmul
from precision.quantization.quantizers import fake_quantize, quantize
from precision.quantization.scheme import Clipping, MatmulScheme, QScheme
from precision.quantization.schemes import SCHEMES, parse_scheme
from precision.quantization.smoothing import Smoothed, smooth, smoothing_scale
from precision.random_bits import random_bits
from precision.rounding import decode, encode, round_to
from precision.rounding_modes import Rounding
from precision.statistics import Statistics
from precision.sums import ordered_sum

__all__ = [
    "ACCUMULATORS",
    "BACKENDS",
    "BF16",
    "BLOCK_FORMATS",
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
    "SCHEMES",
    "TF32",
    "Accumulator",
    "BlockArray",
    "BlockFormat",
    "Clipping",
    "DotGeneral",
    "Format",
    "Gemm",
    "GemmCounters",
    "MatmulScheme",
    "OutlierColumns",
    "ProductError",
    "QArray",
    "QScheme",
    "Rounding",
    "Smoothed",
    "Statistics",
    "add",
    "calibrate",
    "convert",
    "cos",
    "decode",
    "div",
    "encode",
    "equal",
    "erf",
    "exp",
    "exp2",
    "fake_quantize",
    "fma",
    "gelu",
    "gelu_gradient",
    "gelu_tanh",
    "less",
    "less_equal",
    "load_qarray",
    "log",
    "make_dot_general",
    "matmul",
    "maximum",
    "maximum_number",
    "minimum",
    "minimum_number",
    "mul",
    "ordered_sum",
    "pack_codes",
    "parse_accumulator",
    "parse_block_format",
    "parse_format",
    "parse_scheme",
    "quantization_error",
    "quantize",
    "quantize_blocks",
    "quantized_matmul",
    "random_bits",
    "reciprocal",
    "round_to",
    "round_to_blocks",
    "round_with_statistics",
    "rsqrt",
    "save_qarray",
    "sigmoid",
    "silu",
    "sin",
    "smooth",
    "smoothing_scale",
    "sqrt",
    "statistics",
    "sub",
    "tanh",
    "unpack_codes",
]
