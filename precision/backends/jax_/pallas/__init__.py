"""Kernels where XLA falls short, in Pallas: for TPU by Mosaic, for NVIDIA GPUs by Triton, interpreted on a CPU.

Chosen explicitly, by ``precision.pallas``: nothing of the back end calls them by itself.
"""

from precision.backends.jax_.pallas.quantized import quantized_product
from precision.backends.jax_.pallas.rounding import Counted, round_and_count
from precision.backends.jax_.pallas.sequential import sequential_product

__all__ = ["Counted", "quantized_product", "round_and_count", "sequential_product"]
