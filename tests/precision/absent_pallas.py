"""Run by ``test_pallas`` with topologies: each kernel compiled for devices that are not here, their names printed."""

from __future__ import annotations

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from precision import pallas
from precision.backends.jax_.pallas import quantized_product
from precision.formats import BF16, FP16
from qsim.planning.topologies import described

CALLS = {"tpu": "tpu_custom_call", "cuda": "triton"}


def kernels(topology: str) -> dict[str, tuple[Callable, list[jax.ShapeDtypeStruct]]]:
    unit = "bf16" if topology.startswith("v4:") else "int8"
    device = described(topology).devices()[0]

    def array(shape: tuple[int, ...], dtype: type = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))

    def product(k: int) -> list[jax.ShapeDtypeStruct]:
        return [array((512, k)), array((k, 512), jnp.int8), array((512,))]

    return {
        "round_and_count": (lambda x: pallas.round_and_count(x, FP16, significands=True), [array((1000, 1024))]),
        "quantized_matmul": (lambda *x: quantized_product(*x, FP16, unit), product(4096)),
        "longest": (lambda *x: quantized_product(*x, BF16, unit), product(23040)),
        "matmul": (lambda a, b: pallas.matmul(a, b, inputs=BF16), [array((512, 1024)), array((1024, 512))]),
    }


for topology in sys.argv[1:]:
    platform = "cuda" if described(topology).platform == "gpu" else "tpu"
    for name, (function, shapes) in kernels(topology).items():
        compiled = jax.jit(function).trace(*shapes).lower(lowering_platforms=(platform,)).compile()
        assert CALLS[platform] in compiled.as_text()
        print(f"{topology}/{name}")
