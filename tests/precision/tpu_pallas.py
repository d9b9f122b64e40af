"""Run by ``test_pallas``, where libtpu is: each kernel compiled for TPUs that are not here, their names printed."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from precision import pallas
from precision.backends.jax_.pallas import quantized_product
from precision.formats import BF16, FP16

TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def kernels(topology: str) -> dict[str, tuple[Callable, list[jax.ShapeDtypeStruct]]]:
    unit = "bf16" if topology == "v4" else "int8"
    device = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[topology]).devices[0]

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


for topology in TOPOLOGIES:
    for name, (function, shapes) in kernels(topology).items():
        compiled = jax.jit(function).trace(*shapes).lower(lowering_platforms=("tpu",)).compile()
        assert "tpu_custom_call" in compiled.as_text()
        print(f"{topology}/{name}")
